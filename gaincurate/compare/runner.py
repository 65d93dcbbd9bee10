"""A comparison from its settings to its tables: train and judge the remaining arms, then write the results.

Several arms may train at a time, each in its own process, and the results do not depend on how many. A killed
comparison continues where it stopped, because every finished step is a file.
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
from gaincurate.core.columns import NO_GROUP, as_texts, fields, read_column
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
CHOICE = "tune.json"  # in the folder `tune`: the settings that were tried, and the best
FORMAT = 1
_FREE = {"arms", "seeds", "scored", "heldout", "tasks", "controls", "tune"}  # settings that may change
_LOOK = 0.2  # seconds between two updates of the progress


def compare(
    comparison: Comparison,
    out: Path,
    progress: Progress | None = None,
    workers: int = 1,
    *,
    tune: bool = False,
) -> None:
    """Train and judge the remaining arms, `workers` at a time, and write the tables of the comparison.

    Apart from the seconds, the results do not depend on `workers`. With `tune`, the best settings of uniform
    sampling are determined first, and all arms use them. A folder that was started with `tune` stays tuned
    if a later call omits the argument.

    Raises:
        InputError: a set, an arm or a setting is invalid.
        OutputError: the folder `out` holds another comparison.
        TrainerError: a trainer failed; finished work is kept.
        LockedError: another process is working in `out`.
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
            check_means(comparison)  # before any file is written
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
        InputError, OutputError: as `compare` raises them before the first training.
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
        for arm in comparison.arms:  # an invalid arm raises here
            ArmJob(comparison, arm, comparison.seeds[0], folder / arm.name).prepare()
    jobs = [*tuning, *arm_jobs(comparison, out)]
    left = [(job, 1 - job.share) for job in jobs if not job.done]
    tokens = sum(share * max(job.comparison.budget_tokens - job.scoring(), 0) for job, share in left)
    marks = sum(share * job.comparison.marks for job, share in left) + (not (out / START / MANIFEST).exists())
    costs = [job.cost(job.comparison.marks - 1) for job in jobs if job.done]
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
    """Prepare all jobs, so that an invalid one is refused before any is trained.

    Folders of arms that are not in `begun` are deleted: these were not trained, and the name may have been
    given to another arm.
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
    """Each setting of the grid, with a training for each seed of the tuning."""
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
    """Run all jobs, `workers` at a time. If one fails, the others run before the error is raised."""
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
                        progress.part(f"{job.arm.name}, seed {job.seed}, done in {duration(future.result())}")
                    except TrainerError as error:
                        failed.append(error)
                        progress.note(f"warning: {error}")
        except BaseException:
            stop.set()  # and the pool waits until all are ended
            raise
    if failed:
        more = f" {len(failed)} of {len(jobs)} trainings failed." if len(failed) > 1 else ""
        raise TrainerError(
            f"{failed[0]}{more} The others are kept. Run the same command to try again, or take the arm out "
            "of the file.",
            **failed[0].data,
        )


def environment(comparison: Comparison, slot: int, workers: int) -> dict[str, str]:
    """Variables for a job's process: its threads and, on a machine with several GPUs, its GPU."""
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    variables = {} if comparison.threads is None else dict.fromkeys(limits, str(comparison.threads))
    if workers > 1 and (count := torch.cuda.device_count()) > 1:
        names = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))).split(",")
        variables["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]
    return variables


def check(comparison: Comparison) -> None:
    """Raise `InputError` for a missing model, prompts in both sets, or columns that do not make tasks."""
    scored, heldout = ScoredSet(comparison.scored), ScoredSet(comparison.heldout)
    if comparison.model is None and recorded_model(comparison.scored) is None:
        raise InputError(f"{comparison.scored} does not say which model scored it; give model = ... .")
    if shared := set(heldout.column(ID).to_pylist()) & set(scored.column(ID).to_pylist()):
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
    """The columns of the held-out set that identify a prompt's task; empty if there are none."""
    if comparison.tasks is not None:
        return comparison.tasks
    groups, _ = likely_groups(ScoredSet(comparison.heldout))
    return [] if groups is None else [groups.column]


def tasks_by_id(scored: ScoredSet, columns: Sequence[str]) -> dict[str, str]:
    """Each prompt's task, by its id: the values of the columns with a space between; {} without columns.

    Raises:
        InputError: the set has no such column, or it holds lists or objects.
    """
    kinds, values = dict(fields(scored.schema)), []
    for name in columns:
        column = read_column(scored, name) if name in kinds else scored.column(name)
        if pa.types.is_nested(column.type):
            wrong = f"tasks = {list(columns)}: {name} holds {column.type}, not names"
            raise InputError(f"{wrong}. Name another column, or [] for independent prompts.", column=name)
        values.append(pc.fill_null(as_texts(column), NO_GROUP).to_pylist())
    ids = scored.column(ID).to_pylist()
    return {gc_id: " ".join(task) for gc_id, *task in zip(ids, *values, strict=True) if task}


def check_means(comparison: Comparison) -> None:
    """Check trainer settings, model, verifier and gold answers before the first training.

    Raises:
        InputError: TRL has no such setting; the verifier cannot be loaded; a set has no gold answers; far
            more threads than CPUs.
        ModelError: the model does not exist.
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
    """The folder's facts for this comparison, and the arms that were prepared before, by name.

    Nothing is written. `begun` has every arm that was ever prepared, so that a name keeps its meaning when
    arms and seeds are left out and added again. A refused arm was not prepared and may be changed.

    Raises:
        OutputError: the folder holds another comparison.
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
    """Raise `OutputError` for a folder that has other files and no comparison."""
    if (out / FACTS).exists():
        return
    if others := sorted(p.name for p in out.iterdir() if p.name not in (WORK, TUNE)):
        raise OutputError(f"{out} holds {others[0]!r} and no comparison; give a new or empty folder with -o.")


def _tune(comparison: Comparison, out: Path, progress: Progress, workers: int) -> Json:
    """Train uniform sampling with every setting of the grid, and choose the best on the held-out prompts.

    The choice uses the held-out prompts and separate seeds. It may overestimate uniform sampling slightly,
    which favours no other arm. A split would cost every verdict half of its prompts. `grid` of the result has
    a row for each setting, and `chosen` is the first of those with the highest mean accuracy.
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
    """Write the measurements of all jobs into the tables."""
    heldout = ScoredSet(comparison.heldout)
    prompts, tasks = heldout.column(ID).to_pylist(), tasks_by_id(heldout, task_columns(comparison))
    rows: dict[str, list[Json]] = {EVALUATIONS: [], MARKS: [], STEPS: []}
    rows[TASKS] = [{ID: gc_id, "task": task} for gc_id, task in sorted(tasks.items())]
    for job in sorted(jobs, key=lambda job: comparison.arms.index(job.arm)):
        rows[EVALUATIONS] += [*job.judged(out / START, 0, prompts), *job.evaluation_rows(prompts)]
        rows[MARKS] += job.mark_rows()
        rows[STEPS] += job.step_rows()
    write_tables(out / RESULTS, rows)
