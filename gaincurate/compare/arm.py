"""What one arm of a comparison is started with, and what it has spent.

Scoring, re-scoring and references are charged to the arm that needs them, so arms are compared at equal cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from gaincurate.core.artifact import MANIFEST
from gaincurate.core.outcomes import read_file
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.schedule.observations import rules_of
from gaincurate.schedule.run import Run

TASK, PROGRESS, COST = "arm.json", "progress.json", "cost.json"
TRAINED = 0.9
"""The share of an arm's work that is training; the rest is judging."""
STEP = "gaincurate/step"
"""The key of a trainer's log entry under which what a step cost is kept."""
RUN, TRAINER, MARKS, ROLLOUTS = "run", "trainer", "marks", "rollouts"


class Task(BaseModel):
    """What `arm.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """Where training begins."""
    verifier: str
    """The reward, as in `gaincurate difficulty rollout`."""
    answer_column: str | None
    """With the gold answers."""
    success: float
    """A completion is right, reward 1, from this value of the verifier on; else its reward is 0."""
    scoring: int
    """Tokens that are spent before the first rollout: the scoring pass, where the arm's order needs one."""
    prefill_weight: float
    """What a token of a scoring pass during the training is charged as."""
    mark_tokens: list[int]
    """Rising; the last one ends the training."""
    trainer: dict[str, Any]
    """Fields of TRL's GRPOConfig."""
    replay: dict[str, Any] | None
    """Fields of `gaincurate.trainers.trl_replay.Replay`; None trains without."""
    evaluation: dict[str, Any]
    """Fields of `RolloutConfig` for the held-out prompts, all but `model` and `out`."""


@dataclass(frozen=True, slots=True)
class Step:
    """The rollouts that one step generated.

    `effective` is the share of prompts whose rollouts differ in reward, those with an advantage other than 0.
    """

    rollouts: int
    prompts: int
    completion_tokens: int
    prompt_tokens: int
    effective: float
    reward: float | None
    angle: float | None


class Costs:
    """The tokens that a run has cost.

    Args:
        run: the run.
        prefill_weight: what a token of a scoring pass is charged as.
    """

    def __init__(self, run: Run, prefill_weight: float) -> None:
        self._run, self._weight = run, prefill_weight
        self._references: dict[int, int] = {}
        self._scored: dict[str, int] = {}

    def forget(self) -> None:
        """Read again what may have changed: the run went back."""
        self._references.clear()
        self._scored.clear()

    def references(self, newest: int) -> int:
        """Completion tokens of the reference rollouts of all rounds up to `newest`."""
        for round_ in range(newest + 1):
            if round_ not in self._references:
                references = self._run.plan(round_).get("references") or {}
                self._references[round_] = int(references.get("completion_tokens") or 0)
        return sum(self._references[round_] for round_ in range(newest + 1))

    def rescoring(self, newest: int) -> int:
        """Tokens of what checkpoints scored again before round `newest` was drawn, as they are charged."""
        folder = self._run.folder / "scores"
        for path in sorted(folder.iterdir()) if folder.exists() else []:
            if path.name not in self._scored and (path / MANIFEST).exists():
                tokens = ScoredSet(path, verify=False).column("gc_prompt_tokens")
                self._scored[path.name] = int(pc.sum(tokens).as_py())
        tokens_before = [
            tokens for name, tokens in self._scored.items() if int(name.partition("-")[0]) < newest
        ]
        return round(sum(tokens_before) * self._weight)

    def step(self, round_: int, step: int) -> Step:
        """What the outcomes of a round say of one optimizer step; the last time it was made, if it was often.

        Raises:
            KeyError: a prompt that the scored set does not have.
        """
        run = self._run
        lines = read_file(run.outcomes(round_), round_, run.ids, rules_of(run.config))
        last = {(line.gc_id, line.sample): line for line in lines if line.step == step}
        rewards: dict[str, list[float]] = {}
        for line in last.values():
            if line.reward is not None:
                rewards.setdefault(line.gc_id, []).append(float(line.reward))
        ids = sorted({line.gc_id for line in last.values()})
        angles = [self._prompts[gc_id][0] for gc_id in ids]
        judged = [reward for each in rewards.values() for reward in each]
        return Step(
            rollouts=len(last),
            prompts=len(ids),
            completion_tokens=sum(line.tokens for line in last.values()),
            prompt_tokens=sum(self._prompts[line.gc_id][1] for line in last.values()),
            effective=sum(len(set(each)) > 1 for each in rewards.values()) / max(len(ids), 1),
            reward=math.fsum(judged) / len(judged) if judged else None,
            angle=math.fsum(angles) / len(angles) if angles else None,
        )

    @cached_property
    def _prompts(self) -> dict[str, tuple[float, int]]:
        """Angle and tokens of each prompt."""
        scored = self._run.scored
        ids = pc.cast(scored.column(ID), pa.string()).to_pylist()
        angles = scored.column("gc_angle").to_numpy().astype(np.float64).tolist()
        tokens = scored.column("gc_prompt_tokens").to_pylist()
        return dict(zip(ids, zip(angles, tokens, strict=True), strict=True))
