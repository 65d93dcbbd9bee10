"""The composer: takes a comparison and a folder, trains and judges every arm with every seed, yields results.

Jobs are taken seed by seed, so that a comparison that is stopped early has whole seeds. What was done is on
disk before the next thing begins. Prints nothing; whoever wants to see it passes a `View`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gaincurate.compare.config import Comparison
from gaincurate.compare.job import ArmJob, Judged, evaluation, judged, model_at_start
from gaincurate.compare.resample import Floats
from gaincurate.difficulty.rollout import roll_out
from gaincurate.errors import InputError, OutputError, storage_error
from gaincurate.files import write_json
from gaincurate.locks import Split, writing
from gaincurate.schedule.rounds import model_of
from gaincurate.schedule.run import read_json
from gaincurate.schema import ID
from gaincurate.scored_set import ScoredSet
from gaincurate.shards import Json, differing_keys

FACTS, START, JOBS = "comparison.json", "start", "jobs"
FORMAT = 1


class View:
    """Hears how a comparison goes; every method may be left as it is."""

    def note(self, text: str) -> None:
        """Something that a person should know."""

    def job(self, place: int, count: int, arm: str, seed: int, what: str) -> None:
        """A job is about to begin."""

    def working(self, seconds: float) -> None:
        """It is at work."""

    def job_done(self, place: int, count: int, seconds: float) -> None:
        """It is done; `seconds` is what it took, 0 if it was done before."""


@dataclass(frozen=True, slots=True)
class Results:
    """All that was measured; arms, marks, seeds and prompts are in the order of the names.

    `right` and `samples` are `[arms, 1 + marks, seeds, prompts]`, the first mark being the start;
    `tokens`, `steps`, `lengths` are `[arms, 1 + marks, seeds]`; `logs` has TRL's entries by (arm, seed).
    """

    comparison: Comparison
    arms: list[str]
    seeds: list[int]
    prompts: list[str]
    right: Floats
    samples: Floats
    tokens: Floats
    steps: Floats
    lengths: Floats
    seconds: dict[str, float]
    logs: dict[tuple[str, int], list[Json]] = field(default_factory=dict)

    @property
    def accuracy(self) -> Floats:
        """The share of right answers, `[arms, 1 + marks, seeds, prompts]`."""
        return self.right / self.samples


def compare(comparison: Comparison, out: Path, view: View | None = None) -> Results:
    """Train and judge what is left of a comparison.

    Raises:
        InputError: a set, an arm or a setting is not right.
        OutputError: the folder holds another comparison.
        TrainerError: a trainer failed; what was done is kept.
        LockedError: another process is at work on it.
    """
    view = view or View()
    check(comparison)
    with writing(out, Split()), _stating(comparison, out):
        jobs = [
            ArmJob(comparison, arm, seed, out / JOBS / arm.name / f"seed-{seed}")
            for seed in comparison.seeds
            for arm in comparison.arms
        ]
        for job in jobs:  # what is wrong with an arm is said before any is trained
            job.prepare()
        start = out / START
        if not (start / "manifest.json").exists():
            view.note("judging the model at the start")
        roll_out(evaluation(comparison, model_at_start(comparison), start))
        for place, job in enumerate(jobs):
            _do(job, place, len(jobs), view)
        return collect(comparison, out, jobs)


def _do(job: ArmJob, place: int, count: int, view: View) -> None:
    begin, worked = time.monotonic(), False
    if not job.trained:
        view.job(place, count, job.arm.name, job.seed, "training")
        job.train(view.working)
        worked = True
    if not job.judged:
        view.job(place, count, job.arm.name, job.seed, "judging")
        for k in range(len(job.comparison.mark_tokens)):
            job.judge(k)
        worked = True
    view.job_done(place, count, time.monotonic() - begin if worked else 0.0)


def check(comparison: Comparison) -> None:
    """Look at what can be known before anything is spent.

    Raises:
        InputError: no model, or prompts that are in both sets.
        OutputError: a set is not finished.
    """
    scored, heldout = ScoredSet(comparison.scored), ScoredSet(comparison.heldout)
    if comparison.model is None and model_of(comparison.scored) is None:
        raise InputError(f"{comparison.scored} does not say which model scored it; give model = ... .")
    shared = set(heldout.column(ID).to_pylist()) & set(scored.column(ID).to_pylist())
    if shared:
        raise InputError(
            f"{len(shared):,} of the {len(heldout):,} prompts of {comparison.heldout} are in "
            f"{comparison.scored} too, such as {min(shared)}: what is trained on cannot be held out. Take "
            "them out of one of the two and score it again.",
            ids=sorted(shared),
        )


@contextmanager
def _stating(comparison: Comparison, out: Path) -> Iterator[None]:
    """Say in the folder what it holds; another comparison there is refused."""
    path = out / FACTS
    facts = {
        "format": FORMAT,
        "comparison": comparison.model_dump(mode="json"),
        "sets": {
            "scored": ScoredSet(comparison.scored).manifest_hash,
            "heldout": ScoredSet(comparison.heldout).manifest_hash,
        },
        "model": model_at_start(comparison),
    }
    if path.exists():
        before = read_json(path)
        keys = [name for name, _, _ in differing_keys(before, facts)]
        if keys:
            raise OutputError(
                f"{out} holds another comparison: {', '.join(keys)} differ. Give another folder with -o, or "
                "put the settings back.",
                keys=keys,
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(out, error) from error
    if not path.exists():
        write_json(path, facts)
    yield


def collect(comparison: Comparison, out: Path, jobs: list[ArmJob]) -> Results:
    """Everything that is on disk, as arrays.

    Raises:
        InputError: a model was judged on other prompts than the one at the start.
    """
    arms, seeds = [arm.name for arm in comparison.arms], list(comparison.seeds)
    marks = len(comparison.mark_tokens)
    first = judged(out / START, comparison.success)
    shape = (len(arms), marks + 1, len(seeds))
    right, samples = np.zeros((*shape, len(first.ids))), np.zeros((*shape, len(first.ids)))
    tokens, steps, lengths = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    logs: dict[tuple[str, int], list[Json]] = {}
    for job in jobs:
        a, s = arms.index(job.arm.name), seeds.index(job.seed)
        _put(first, first, right, samples, lengths, (a, 0, s))
        for k in range(marks):
            _put(first, job.result(k), right, samples, lengths, (a, k + 1, s))
            cost = job.cost(k)
            tokens[a, k + 1, s], steps[a, k + 1, s] = cost["tokens"], cost["step"]
            logs[job.arm.name, job.seed] = cost["logs"]
    return Results(
        comparison, arms, seeds, first.ids, right, samples, tokens, steps, lengths, seconds_of(jobs), logs
    )


def _put(
    first: Judged,
    found: Judged,
    right: Floats,
    samples: Floats,
    lengths: Floats,
    place: tuple[int, int, int],
) -> None:
    if found.ids != first.ids:
        raise InputError(
            "a model was judged on other held-out prompts than the one at the start; delete its folder "
            "`rollouts` and run the same command again."
        )
    right[place], samples[place], lengths[place] = found.right, found.samples, found.length


def seconds_of(jobs: list[ArmJob]) -> dict[str, float]:
    """Seconds of training of each arm over its seeds, attempts that failed left out."""
    found: dict[str, float] = {}
    for job in jobs:
        found[job.arm.name] = found.get(job.arm.name, 0.0) + job.training_seconds()
    return found
