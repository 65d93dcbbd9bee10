"""What a comparison would cost: trainings, steps, generated tokens, and how long it may take.

The time is that of trainings which are done in its folder, or of a trial of one step. A trial's first step is
the slowest one, so its time is rather too long than too short.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from gaincurate.compare.arm import MARKS, ROLLOUTS, ArmJob
from gaincurate.compare.config import Comparison
from gaincurate.compare.runner import (
    CHOICE,
    START,
    TUNE,
    arm_jobs,
    check,
    check_means,
    environment,
    refuse_others,
    stated,
    tune_jobs,
)
from gaincurate.core.artifact import EXECUTION, MANIFEST, Json
from gaincurate.core.files import fitting_lines, temporary_folder
from gaincurate.core.manifest import Document, Seconds
from gaincurate.core.scored_set import ScoredSet
from gaincurate.schedule.run import read_json


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a generated token in training, of judging a model once, and of a training's beginning."""

    basis: str
    token: float
    judging: float
    beginning: float = 0.0


def estimate(
    comparison: Comparison, out: Path, workers: int = 1, *, tune: bool = False, trial: bool = False
) -> Json:
    """Find out what `compare` would do; the folder is left as it is.

    Args:
        comparison: the settings.
        out: its folder, which need not be there.
        workers: arms that are trained at a time.
        tune: as in `compare`.
        trial: train uniform sampling for one step in a temporary folder, and go by its time.

    Returns:
        `arms`, a list with `arm`, `prompts` and `rollouts` of a step, `charged` tokens before the training,
        `steps` at least (every completion being as long as it may), `trainings` and `done` ones. Of all,
        tuning included: `trainings`, `done`, `tokens` to generate in training, `judged` completions. And
        `seconds` with the `basis` of them, both None where nothing is known.

    Raises:
        InputError: what the comparison would refuse before the first training.
        OutputError: the folder holds something else.
    """
    check(comparison)
    check_means(comparison)
    if out.exists():
        refuse_others(out)
    path = out / TUNE / CHOICE
    choice = read_json(path, Document) if path.exists() else {}
    tuning = list[ArmJob]()
    if choice.get("chosen") is not None:
        comparison = comparison.tuned(**choice["chosen"])
    elif tune or choice:
        tuning = [job for _, jobs in tune_jobs(comparison, out) for job in jobs]
    stated(comparison, out)
    jobs = arm_jobs(comparison, out)
    with temporary_folder() as folder:
        for arm in comparison.arms:  # what is wrong with one is said here
            ArmJob(comparison, arm, comparison.seeds[0], folder / arm.name).prepare()
        speed = _tried(comparison, folder / "trial") if trial else _on_record([*tuning, *jobs], out)
    judged_before = (out / START / MANIFEST).exists()
    every = [*tuning, *jobs]
    marks = sum(_share_left(job) * job.comparison.marks for job in every) + (not judged_before)
    answers = len(ScoredSet(comparison.heldout)) * comparison.evaluation.samples
    seconds = None
    if speed is not None:
        work = sum(_share_left(job) * (speed.beginning + _tokens(job) * speed.token) for job in every)
        seconds = (work + marks * speed.judging) / max(1, min(workers, sum(not job.done for job in every)))
    return {
        "arms": [
            _arm(comparison, [job for job in jobs if job.arm.name == arm.name]) for arm in comparison.arms
        ],
        "seeds": len(comparison.seeds),
        "tuning": len(tuning),
        "trainings": len(every),
        "done": sum(job.done for job in every),
        "tokens": round(sum(_share_left(job) * _tokens(job) for job in every)),
        "judged": round(marks * answers),
        "seconds": seconds,
        "basis": None if speed is None else speed.basis,
    }


def _share_left(job: ArmJob) -> float:
    return 0.0 if job.done else 1.0 - job.share


def _tokens(job: ArmJob) -> int:
    """What a training generates: its budget less what is charged before it."""
    return max(job.comparison.budget_tokens - job.scoring(), 0)


def _arm(comparison: Comparison, jobs: Sequence[ArmJob]) -> Json:
    job, arm = jobs[0], jobs[0].arm
    rollouts = comparison.fresh_prompts(arm) * comparison.group
    return {
        "arm": arm.name,
        "prompts": comparison.prompts_of(arm),
        "rollouts": rollouts,
        "charged": job.scoring(),
        "steps": max(1, -(-_tokens(job) // (rollouts * comparison.max_tokens))),
        "trainings": len(jobs),
        "done": sum(job.done for job in jobs),
    }


def _on_record(jobs: Sequence[ArmJob], out: Path) -> Speed | None:
    """The mean speed of the trainings that are done."""
    done = [job for job in jobs if job.done]
    if not done:
        return None
    rollouts = [path / ROLLOUTS for job in done for path in sorted((job.folder / MARKS).iterdir())]
    judging = _judging(rollouts)
    if judging is None:
        return None
    count = f"{len(done)} training{'s' * (len(done) != 1)}"
    return Speed(
        f"the {count} that {'is' if len(done) == 1 else 'are'} done in {out.name}",
        fmean(_token_seconds(job) for job in done),
        judging,
    )


def _token_seconds(job: ArmJob) -> float:
    cost = job.cost(len(job.comparison.mark_tokens) - 1)
    seconds, tokens = float(cost["seconds"]), int(cost["training"])
    return seconds / max(tokens, 1)


class _Judged(Document):
    """A line of a rollout set's `execution.jsonl`."""

    seconds: Seconds


def _judging(rollouts: Iterable[Path]) -> float | None:
    """The mean seconds of judging a model once, None where none are on record."""
    lines = [line for path in rollouts for line in fitting_lines(path / EXECUTION, _Judged)]
    return fmean(line["seconds"] for line in lines) if lines else None


def _tried(comparison: Comparison, folder: Path) -> Speed:
    """The speed of one step of uniform sampling."""
    (arm,) = [arm for arm in comparison.arms if arm.name == "uniform"]
    single = comparison.model_copy(update={"budget_tokens": 1, "marks": 1})
    job = ArmJob(single, arm, comparison.seeds[0], folder)
    job.prepare()
    whole = job.work(environment(comparison, 0, 1), lambda seconds: None)
    judging = _judging([folder / MARKS / "0" / ROLLOUTS]) or 0.0
    training = float(job.cost(0)["seconds"])
    return Speed("a trial of one step", _token_seconds(job), judging, max(whole - training - judging, 0.0))
