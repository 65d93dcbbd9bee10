"""A comparison from its settings to its tables: train and judge what is left, then write what was measured.

Several arms may train at a time, each in processes of its own, and what is measured does not depend on how
many. A killed comparison goes on where it was, because every finished step is a file.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.compute as pc
import torch

from gaincurate.compare.arm import ArmJob, judging, model_at_start
from gaincurate.compare.config import Arm, Comparison
from gaincurate.compare.results import EVALUATIONS, FACTS, MARKS, RESULTS, STEPS, TASKS, write_tables
from gaincurate.core.artifact import MANIFEST, Json
from gaincurate.core.columns import NO_GROUP, fields, read_column
from gaincurate.core.files import differing_keys, temporary_folder
from gaincurate.core.locks import WORK, Split, writing
from gaincurate.core.progress import Progress
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.difficulty.prompts import answer_column
from gaincurate.difficulty.rollout import roll_out
from gaincurate.difficulty.verifier import VerifierConfig, VerifierPool
from gaincurate.errors import InputError, OutputError, TrainerError
from gaincurate.report.parts import seconds as duration
from gaincurate.report.table import likely_groups
from gaincurate.schedule.checkpoints import recorded_model
from gaincurate.scoring.config import MachineConfig
from gaincurate.scoring.model import find_model
from gaincurate.scoring.plan import resolve_machine

START, JOBS, TUNE = "start", "jobs", "tune"
CHOICE = "tune.json"  # in the folder `tune`: what was tried and what was chosen
FORMAT = 1
_FREE = {"arms", "seeds", "scored", "heldout", "tasks", "controls", "tune"}  # settings that may change
_LOOK = 0.2  # seconds between two looks at what is done


def compare(
    comparison: Comparison,
    out: Path,
    progress: Progress | None = None,
    workers: int = 1,
    *,
    tune: bool = False,
) -> None:
    """Train and judge what is left of a comparison, so many arms at a time, and write its tables into `out`.

    What is measured does not depend on the number of `workers`, but for the seconds. With `tune`, the best
    settings of uniform sampling are found first, which all arms then have. A folder that was begun so goes on
    so, whether or not it is asked for again.

    Raises:
        InputError: a set, an arm or a setting is not right.
        OutputError: the folder holds another comparison.
        TrainerError: a trainer failed; what was done is kept.
        LockedError: another process is at work on it.
    """
    progress = progress or Progress()
    check(comparison)
    with writing(out, Split()):
        refuse_others(out)
        tuning = None
        if tune or (out / TUNE).exists():
            tuning = _tune(comparison, out, progress, workers)
            comparison = comparison.tuned(**tuning["chosen"])
        facts, begun = stated(comparison, out)
        jobs = arm_jobs(comparison, out)
        if not all(job.done for job in jobs):
            check_means(comparison)  # before a file stands for what cannot be trained
        if not (out / FACTS).exists():
            write_sealed(out / FACTS, facts | {"begun": {}})
        if tuning is not None:
            facts["tuned"] = {name: tuning[name] for name in ("chosen", "grid", "seeds")}
        _prepare(jobs, begun)
        write_sealed(out / FACTS, facts)
        if not (out / START / MANIFEST).exists():
            progress.note("judging the model at the start")
            roll_out(judging(comparison, model_at_start(comparison), out / START))
        _work(jobs, progress, workers)
        collect(comparison, out, jobs)


def estimate(comparison: Comparison, out: Path, workers: int = 1, *, tune: bool = False) -> Json:
    """Count the work that `compare` would do, and change nothing. For the arguments see `compare`.

    Returns:
        The counts `trainings`, with the `tuning` ones among them, and `done`; `tokens` to generate in
        training and completions to be `judged`; the `seconds` of training at the speed of those that are
        done, or None.

    Raises:
        InputError, OutputError: what the comparison would refuse before the first training.
    """
    check(comparison)
    check_means(comparison)
    if out.exists():
        refuse_others(out)
    path = out / TUNE / CHOICE
    choice, tuning = read_sealed(path) if path.exists() else {}, list[ArmJob]()
    if choice.get("chosen") is not None:
        comparison = comparison.tuned(**choice["chosen"])
    elif tune or choice:
        tuning = [job for _, jobs in tune_jobs(comparison, out) for job in jobs]
    stated(comparison, out)
    with temporary_folder() as folder:
        for arm in comparison.arms:  # what is wrong with one is said here
            ArmJob(comparison, arm, comparison.seeds[0], folder / arm.name).prepare()
    jobs = [*tuning, *arm_jobs(comparison, out)]
    left = [(job, 1 - job.share) for job in jobs if not job.done]
    tokens = sum(share * max(job.comparison.budget_tokens - job.scoring(), 0) for job, share in left)
    marks = sum(share * job.comparison.marks for job, share in left) + (not (out / START / MANIFEST).exists())
    costs = [job.cost(len(job.comparison.mark_tokens) - 1) for job in jobs if job.done]
    speeds = [cost["seconds"] / max(cost["training"], 1) for cost in costs]
    return {
        "trainings": len(jobs),
        "tuning": len(tuning),
        "done": len(costs),
        "tokens": round(tokens),
        "judged": round(marks * len(ScoredSet(comparison.heldout)) * comparison.evaluation.samples),
        "seconds": fmean(speeds) * tokens / max(1, min(workers, len(left))) if speeds else None,
    }


def _prepare(jobs: Sequence[ArmJob], begun: Collection[str]) -> None:
    """Prepare jobs, so that what is wrong with one is said before any is trained.

    Arms that are not in `begun` were not trained, and the name may stand for another one now.
    """
    for job in jobs:
        if job.arm.name not in begun:
            shutil.rmtree(job.folder, ignore_errors=True)
        job.prepare()


def arm_jobs(comparison: Comparison, out: Path) -> list[ArmJob]:
    """Every arm with every seed, seed by seed."""
    return [
        ArmJob(comparison, arm, seed, out / JOBS / arm.name / f"seed-{seed}")
        for seed in comparison.seeds
        for arm in comparison.arms
    ]


def tune_jobs(comparison: Comparison, out: Path) -> list[tuple[Json, list[ArmJob]]]:
    """Each setting of the grid with its training for each seed of the tuning."""
    jobs = []
    for learning_rate, step_prompts, group in comparison.grid():
        setting = comparison.tuned(learning_rate, step_prompts, group).model_copy(update={"marks": 1})
        name = f"uniform-at-{step_prompts}x{group}-lr-{learning_rate:g}".replace("+", "")
        arm = Arm(name=name, strategy="uniform")
        places = {seed: out / TUNE / arm.name / f"seed-{seed}" for seed in comparison.tune.seeds}
        row = {"learning_rate": learning_rate, "step_prompts": step_prompts, "group": group}
        jobs.append((row, [ArmJob(setting, arm, seed, place) for seed, place in places.items()]))
    return jobs


def _work(jobs: Sequence[ArmJob], progress: Progress, workers: int) -> None:
    """Have all jobs done, so many at a time. If one fails, the others are tried before it is said."""
    left = [job for job in jobs if not job.done]
    stop, failed = threading.Event(), list[TrainerError]()
    shares = {job: job.share if job in left else 1.0 for job in jobs}
    progress.start(len(jobs), sum(shares.values()), what="comparing", unit="training")

    def watch(seconds: float) -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    at_work: dict[Future[float], tuple[ArmJob, int]] = {}
    free = list(range(workers))
    with ThreadPoolExecutor(workers) as pool:
        try:
            while left or at_work:
                while left and free:
                    job, slot = left.pop(0), free.pop(0)
                    place = f"{jobs.index(job) + 1} of {len(jobs)}"
                    progress.note(f"{place}: {job.arm.name}, seed {job.seed}: training")
                    variables = environment(job.comparison, slot, workers)
                    at_work[pool.submit(job.work, variables, watch)] = (job, slot)
                done, _ = wait(at_work, _LOOK, FIRST_COMPLETED)
                before = sum(shares.values())
                shares |= {job: 1.0 if future in done else job.share for future, (job, _) in at_work.items()}
                progress.advance(sum(shares.values()) - before)
                for future in done:
                    job, slot = at_work.pop(future)
                    free.append(slot)
                    try:
                        taken = duration(future.result())
                        progress.part(f"{job.arm.name}, seed {job.seed}, done in {taken}")
                    except TrainerError as error:
                        failed.append(error)
                        progress.note(f"warning: {error}")
        except BaseException:
            stop.set()  # and the pool waits until all are ended
            raise
    if failed:
        more = f" {len(failed)} of {len(jobs)} trainings failed." if len(failed) > 1 else ""
        raise TrainerError(
            f"{failed[0]}{more} The others are kept; the same command tries again, and a file without an "
            "arm leaves it out.",
            **failed[0].data,
        )


def environment(comparison: Comparison, slot: int, workers: int) -> dict[str, str]:
    """The environment of a job's process: its threads, and of several GPUs its own."""
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    variables = {} if comparison.threads is None else dict.fromkeys(limits, str(comparison.threads))
    if workers > 1 and (count := torch.cuda.device_count()) > 1:
        names = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))).split(",")
        variables["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]
    return variables


def check(comparison: Comparison) -> None:
    """Refuse what is known before anything is spent: no model, prompts in both sets, no tasks in columns."""
    scored, heldout = ScoredSet(comparison.scored), ScoredSet(comparison.heldout)
    if comparison.model is None and recorded_model(comparison.scored) is None:
        raise InputError(f"{comparison.scored} does not say which model scored it; give model = ... .")
    shared = set(heldout.column(ID).to_pylist()) & set(scored.column(ID).to_pylist())
    if shared:
        raise InputError(
            f"{len(shared):,} of the {len(heldout):,} prompts of {comparison.heldout} are in "
            f"{comparison.scored} too, such as {min(shared)}: what is trained on cannot be held out. Take "
            "them out of one of the two and score it again.",
            ids=sorted(shared),
        )
    tasks = tasks_by_id(heldout, task_columns(comparison))
    count = len(set(tasks.values()))
    if comparison.tasks and not 2 <= count <= len(heldout) / 2:
        raise InputError(
            f"tasks = {comparison.tasks}: {comparison.heldout} has {count:,} of them for {len(heldout):,} "
            "prompts. Name columns with two tasks or more and two prompts in each on average; tasks = [] "
            "takes prompts as independent."
        )


def task_columns(comparison: Comparison) -> list[str]:
    """The columns of the held-out set that say the task of a prompt; none where nothing does."""
    if comparison.tasks is not None:
        return comparison.tasks
    groups, _ = likely_groups(ScoredSet(comparison.heldout))
    return [] if groups is None else [groups.column]


def tasks_by_id(scored: ScoredSet, columns: Sequence[str]) -> dict[str, str]:
    """Each prompt's task, by its id: the values of the columns with a space between; {} without columns.

    Raises:
        InputError: the set has no such column.
    """
    kinds, values = dict(fields(scored.schema)), []
    for name in columns:
        column = read_column(scored, name) if name in kinds else scored.column(name)
        values.append(pc.fill_null(pc.cast(column, pa.string()), NO_GROUP).to_pylist())
    ids = scored.column(ID).to_pylist()
    return {gc_id: " ".join(task) for gc_id, *task in zip(ids, *values, strict=True) if task}


def check_means(comparison: Comparison) -> None:
    """See that trainer, model, verifier and gold answers are what a training needs, before the first one.

    Raises:
        InputError: TRL has no such setting; the verifier cannot be loaded; a set has no gold answers; far
            more threads than CPUs.
        ModelError: the model is not here.
    """
    find_model(model_at_start(comparison))
    for folder in (comparison.scored, comparison.heldout):
        answer_column(ScoredSet(folder), comparison.answer_column, needed=":" not in comparison.verifier)
    resolve_machine(MachineConfig(threads=comparison.threads, workers=1))
    with VerifierPool(VerifierConfig(verifier=comparison.verifier, verify_workers=1)):
        pass
    import trl

    if unknown := sorted(comparison.train.keys() - trl.GRPOConfig.__dataclass_fields__.keys()):
        raise InputError(f"[train] {unknown[0]}: TRL {trl.__version__}'s GRPOConfig has no such field.")


def stated(comparison: Comparison, out: Path) -> tuple[Json, Collection[str]]:
    """The facts of the folder once all arms are prepared, and the names of those that were prepared before.

    Another comparison there is refused; nothing is written. Arms and seeds may come and go. `begun` has every
    arm that was ever prepared, so a name stands for one thing. A refused arm may come again, fixed.
    """
    path = out / FACTS
    before = read_sealed(path) if path.exists() else None
    begun = {} if before is None else before.get("begun", {})
    controls = {arm.name: comparison.control_of(arm) for arm in comparison.arms}
    facts: Json = {
        "format": FORMAT,
        "comparison": comparison.model_dump(mode="json"),
        "sets": _sets(comparison),
        "model": model_at_start(comparison),
        "tasks": task_columns(comparison),
        "controls": {name: arm.name for name, arm in controls.items() if arm and arm in comparison.arms},
        "begun": begun | {arm.name: arm.model_dump(mode="json") for arm in comparison.arms},
    }
    if before is not None:
        now = _bound(facts) | {"arms": {name: facts["begun"][name] for name in begun}}
        more = " (Arms and seeds may be added and left out.)"
        _refuse_change(f"{out} holds another comparison", _bound(before) | {"arms": begun}, now, more)
    return facts, begun


def refuse_others(out: Path) -> None:
    """A folder with something else, where no comparison was begun."""
    if (out / FACTS).exists():
        return
    if others := sorted(p.name for p in out.iterdir() if p.name not in (WORK, TUNE)):
        raise OutputError(f"{out} holds {others[0]!r} and no comparison; give a new or empty folder with -o.")


def _tune(comparison: Comparison, out: Path, progress: Progress, workers: int) -> Json:
    """Train uniform sampling with every setting of the grid, and choose the best on the held-out prompts.

    The choice is made on the prompts that arms are judged on, with seeds of its own. It can flatter uniform
    sampling a little, and no arm against it. A split would cost every verdict half of its prompts. `grid` of
    the result has a row for each setting, and `chosen` is the first of those with the highest mean accuracy.
    """
    path = out / TUNE / CHOICE
    if (out / FACTS).exists() and not path.exists():
        raise OutputError(
            f"{out} holds a comparison that was begun without --tune; give another folder with -o."
        )
    facts = {"comparison": comparison.model_dump(mode="json"), "sets": _sets(comparison)}
    asked = _bound(facts) | {"tune": comparison.tune.model_dump(mode="json")}
    before = read_sealed(path) if path.exists() else None
    if before is not None:
        _refuse_change(f"{out} was tuned with other settings", before["asked"], asked)
        if before.get("chosen") is not None:
            return before
    tried = tune_jobs(comparison, out)
    trainings = [job for each in zip(*(jobs for _, jobs in tried), strict=True) for job in each]
    _prepare(trainings, [] if before is None else [job.arm.name for job in trainings])
    if not all(job.done for job in trainings):
        check_means(comparison)
    state: Json = {"format": FORMAT, "asked": asked, "seeds": comparison.tune.seeds}
    write_sealed(path, state)
    progress.note(f"tuning uniform: {len(tried)} settings, {len(comparison.tune.seeds)} seeds each")
    _work(trainings, progress, workers)
    prompts = ScoredSet(comparison.heldout).column(ID).to_pylist()
    for row, jobs in tried:
        judged = [[prompt for prompt in job.evaluation_rows(prompts) if prompt["samples"]] for job in jobs]
        shares = [[prompt["right"] / prompt["samples"] for prompt in rows] for rows in judged]
        row["accuracy_by_seed"] = [fmean(of_job) if of_job else 0.0 for of_job in shares]
        row["accuracy"] = fmean(row["accuracy_by_seed"])
        row["steps"] = fmean(job.cost(0)["step"] for job in jobs)
    grid = [row for row, _ in tried]
    best = max(grid, key=lambda row: float(row["accuracy"]))
    chosen = {name: best[name] for name in ("learning_rate", "step_prompts", "group")}
    progress.note(
        f"tuned: learning rate {chosen['learning_rate']:g}, {chosen['step_prompts']} prompts a step, "
        f"{chosen['group']} rollouts a prompt"
    )
    state |= {"grid": grid, "chosen": chosen}
    write_sealed(path, state)
    return state


def _sets(comparison: Comparison) -> Json:
    """The hashes that identify the sets, wherever they lie."""
    return {name: ScoredSet(getattr(comparison, name)).manifest_hash for name in ("scored", "heldout")}


def _bound(facts: Json) -> Json:
    """The part of a comparison that may not change; a set is known by its manifest, wherever it lies."""
    settings = {name: value for name, value in facts["comparison"].items() if name not in _FREE}
    return {"comparison": settings, "sets": facts["sets"]}


def _refuse_change(sentence: str, before: Json, now: Json, more: str = "") -> None:
    if keys := [name for name, _, _ in differing_keys(before, now)]:
        what = f"{', '.join(keys)} differ. Give another folder with -o, or put the settings back."
        raise OutputError(f"{sentence}: {what}{more}", keys=keys)


def collect(comparison: Comparison, out: Path, jobs: Sequence[ArmJob]) -> None:
    """Write everything that is on disk into tables."""
    heldout = ScoredSet(comparison.heldout)
    prompts, tasks = heldout.column(ID).to_pylist(), tasks_by_id(heldout, task_columns(comparison))
    rows: dict[str, list[Json]] = {EVALUATIONS: [], MARKS: [], STEPS: []}
    rows[TASKS] = [{ID: gc_id, "task": task} for gc_id, task in sorted(tasks.items())]
    for job in sorted(jobs, key=lambda job: comparison.arms.index(job.arm)):
        rows[EVALUATIONS] += [*job.judged(out / START, 0, prompts), *job.evaluation_rows(prompts)]
        rows[MARKS] += job.mark_rows()
        rows[STEPS] += job.step_rows()
    write_tables(out / RESULTS, rows)
