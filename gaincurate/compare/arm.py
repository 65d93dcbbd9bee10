"""One arm with one seed: what it is started with, what it has spent, and what it left on disk.

Scoring, re-scoring and references are charged to the arm that needs them, so arms are compared at equal cost.
Training and judging share one process, which holds the model. Every step leaves files that say that it was
done: the run, the trainer's marks, a rollout set per mark. So a killed arm goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.compare.config import Arm, Comparison
from gaincurate.core.artifact import MANIFEST, Json
from gaincurate.core.artifact import RUN as RUN_FACTS
from gaincurate.core.files import digest_json, make_folder
from gaincurate.core.options import checked
from gaincurate.core.outcomes import read_file
from gaincurate.core.process import command_lock, run_command
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.rollout_set import RolloutSet, pass_rates
from gaincurate.errors import TrainerError
from gaincurate.schedule import base
from gaincurate.schedule.checkpoints import recorded_model
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.rounds import start
from gaincurate.schedule.run import Run
from gaincurate.schedule.strategies.dots import DotsOptions

LOG = "trainer.log"
_MODULE = "gaincurate.compare.trl_arm"
TASK, PROGRESS, COST = "arm.json", "progress.json", "cost.json"
TRAINED = 0.9
"""The share of an arm's work that is training; the rest is judging."""
STEP = "gaincurate/step"
"""The key of a trainer's log entry under which what a step cost is kept."""
RUN, TRAINER, MARKS, ROLLOUTS = "run", "trainer", "marks", "rollouts"
_OF_SCHEDULE = {"strategy", "by", "ascending", "rescore", "stratify", "clusters", "group_weights"}
"""Fields of an arm that are those of its schedule."""


class Costs:
    """The tokens that a run has cost.

    Args:
        run: the run.
        prefill_weight: what a token of a scoring pass is charged as.
    """

    def __init__(self, run: Run, prefill_weight: float) -> None:
        self._run, self._weight = run, prefill_weight
        self._references: list[int] = []
        self._scored: dict[str, int] = {}

    def references(self, newest: int) -> int:
        """Completion tokens of the reference rollouts of all rounds up to `newest`."""
        for round_ in range(len(self._references), newest + 1):
            references = self._run.plan(round_).get("references") or {}
            self._references.append(int(references.get("completion_tokens") or 0))
        return sum(self._references[: newest + 1])

    def rescoring(self, newest: int) -> int:
        """Tokens of what checkpoints scored again before round `newest` was drawn, as they are charged."""
        for path in sorted((self._run.folder / "scores").glob("*")):
            if path.name not in self._scored and (path / MANIFEST).exists():
                self._scored[path.name] = prompt_tokens(ScoredSet(path, verify=False))
        before = [tokens for name, tokens in self._scored.items() if int(name.partition("-")[0]) < newest]
        return round(sum(before) * self._weight)

    def step(self, round_: int, step: int) -> Json:
        """Summarize the outcomes of one optimizer step; of a step that was repeated, the last time.

        Returns:
            The step's columns of `results.SCHEMAS`; `effective` is the share of prompts whose rollouts differ
            in reward, those with an advantage other than 0.

        Raises:
            KeyError: a prompt that the scored set does not have.
        """
        run = self._run
        lines = read_file(run.outcomes(round_), round_, run.ids, run.rules)
        last = {(line.gc_id, line.sample): line for line in lines if line.step == step}
        rewards: dict[str, list[float]] = {}
        for line in last.values():
            if line.reward is not None:
                rewards.setdefault(line.gc_id, []).append(float(line.reward))
        ids = sorted({line.gc_id for line in last.values()})
        angles = [self._prompts[gc_id][0] for gc_id in ids]
        judged = [reward for each in rewards.values() for reward in each]
        return {
            "rollouts": len(last),
            "prompts": len(ids),
            "completion_tokens": sum(line.tokens for line in last.values()),
            "prompt_tokens": sum(self._prompts[line.gc_id][1] for line in last.values()),
            "effective": sum(len(set(each)) > 1 for each in rewards.values()) / max(len(ids), 1),
            "reward": fmean(judged) if judged else None,
            "angle": fmean(angles) if angles else None,
        }

    @cached_property
    def _prompts(self) -> dict[str, tuple[float, int]]:
        """Angle and tokens of each prompt."""
        scored = self._run.scored
        ids = pc.cast(scored.column(ID), pa.string()).to_pylist()
        angles = scored.column("gc_angle").to_numpy().astype(np.float64).tolist()
        tokens = scored.column("gc_prompt_tokens").to_pylist()
        return dict(zip(ids, zip(angles, tokens, strict=True), strict=True))


class ArmJob:
    """One arm with one seed.

    Args:
        comparison: with the settings that all share.
        arm: what is different.
        seed: one of the comparison's.
        folder: its own.
    """

    def __init__(self, comparison: Comparison, arm: Arm, seed: int, folder: Path) -> None:
        self.comparison, self.arm, self.seed, self.folder = comparison, arm, seed, folder
        # Of schedule and trainer: no two arms share random numbers, so one strategy under two names is two.
        self.number = int(digest_json([arm.name, seed])[:7], 16)

    @property
    def done(self) -> bool:
        """Whether all marks were reached and judged."""
        marks = range(self.comparison.marks)
        return all((self._mark(k) / ROLLOUTS / MANIFEST).exists() for k in marks)

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        path = self.folder / PROGRESS
        return read_sealed(path)["share"] if path.exists() else 0.0

    def _mark(self, k: int) -> Path:
        return self.folder / MARKS / str(k)

    @classmethod
    def read(cls, folder: Path) -> ArmJob:
        """The job that was prepared in a folder."""
        task = read_sealed(folder / TASK)
        return cls(Comparison(**task["comparison"]), Arm(**task["arm"]), task["seed"], folder)

    def prepare(self) -> None:
        """Open the arm's run and write what its process needs to know; the run is opened once.

        Raises:
            InputError: the strategy cannot do with the set or an option.
        """
        make_folder(self.folder)
        if not (self.folder / RUN / RUN_FACTS).exists():
            start(self._schedule())
        settings = {"comparison": self.comparison, "arm": self.arm}
        task = {name: setting.model_dump(mode="json") for name, setting in settings.items()}
        write_sealed(self.folder / TASK, {**task, "seed": self.seed})

    def _schedule(self) -> ScheduleConfig:
        comparison, arm = self.comparison, self.arm
        prompts, steps = comparison.fresh_prompts(arm), comparison.steps_of(arm)
        return checked(
            ScheduleConfig,
            {
                **arm.model_dump(include=_OF_SCHEDULE),
                "scored": comparison.scored,
                "run": self.folder / RUN,
                "budget": prompts * steps,
                # The budget lasts for as many where every completion has a single token, and one more.
                "rounds": -(-comparison.budget_tokens // (prompts * steps * comparison.group)) + 1,
                "seed": self.number,
                "options": self._options(steps),
                "align_to": prompts,
                "model": model_at_start(comparison),
            },
        )

    def _options(self, steps: int) -> dict[str, Any]:
        """The strategy's own, and of one that observes references how it does that, where it is not said."""
        comparison, options = self.comparison, dict(self.arm.options)
        if not issubclass(base.load(self.arm.strategy).Options, DotsOptions):
            return options
        rollout = _rollouts(comparison) | {"samples": comparison.group, "temperature": comparison.temperature}
        defaults = {"refresh_every": steps, "success": comparison.success}
        return {**defaults, **options, "rollout": rollout | options.get("rollout", {})}

    @property
    def trainer(self) -> dict[str, Any]:
        """Fields of TRL's GRPOConfig; `[train]` may change the first ones alone."""
        comparison = self.comparison
        rollouts = comparison.prompts_of(self.arm) * comparison.group
        return {
            "learning_rate": comparison.learning_rate,
            "lr_scheduler_type": "constant",
            "report_to": "none",
            "disable_tqdm": True,
            **comparison.train,
            "per_device_train_batch_size": rollouts // comparison.micro_batches,
            "num_generations": comparison.group,
            "max_completion_length": comparison.max_tokens,
            "temperature": comparison.temperature,
            "shuffle_dataset": False,
            "logging_strategy": "steps",
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": comparison.steps_of(self.arm),
            "save_total_limit": 2,
            "seed": self.number,
        }

    def scoring(self) -> int:
        """Tokens charged before the training: the scoring pass, if the order is made of it, and more."""
        if not self.arm.needs_scores:
            return self.arm.spent_before
        tokens = prompt_tokens(ScoredSet(self.comparison.scored))
        return round(tokens * self.comparison.prefill_weight) + self.arm.spent_before

    def work(self, environment: Mapping[str, str], watch: Callable[[float], None]) -> float:
        """Train to the last mark and judge all of them; the seconds that it took.

        Args:
            environment: of its process, besides this one's.
            watch: called now and then with the seconds so far; what it raises ends the process.

        Raises:
            TrainerError: it failed; what it saved is kept.
        """
        command = [sys.executable, "-m", _MODULE, str(self.folder)]
        try:
            with command_lock(self.folder) as lock:
                log = self.folder / LOG
                return run_command(command, environment=environment, log=log, lock=lock, watch=watch)
        except TrainerError as error:
            raise TrainerError(f"{self.arm.name}, seed {self.seed}: {error}", **error.data) from error

    def cost(self, k: int) -> Json:
        """The trainer's costs at a mark: tokens by purpose, `step`, `seconds`, `steps`."""
        return read_sealed(self._mark(k) / COST)

    def mark_rows(self) -> list[Json]:
        """Rows of `marks.arrow`."""
        names = ("tokens", "scoring", "rescoring", "references", "training", "step", "seconds")
        costs = [self.cost(k) for k in range(self.comparison.marks)]
        return [
            {**self._key, "mark": k, "asked": asked, **{name: cost[name] for name in names}}
            for k, (asked, cost) in enumerate(zip(self.comparison.mark_tokens, costs, strict=True), 1)
        ]

    def step_rows(self) -> list[Json]:
        """Rows of `steps.arrow`."""
        rows = []
        for entry in self.cost(self.comparison.marks - 1)["steps"]:
            measured, share = entry[STEP], entry.get("replay/share", 0.0)
            more = {
                "step": entry["step"],
                "trainer_tokens": int(entry["num_tokens"]),
                "grad_norm": entry.get("grad_norm"),
                "replayed": round(measured["rollouts"] * share / (1 - share)),
            }
            rows.append({**self._key, **measured, **more})
        return rows

    def evaluation_rows(self, prompts: Sequence[str]) -> list[Json]:
        """Rows of `evaluations.arrow` for these held-out prompts, without the start."""
        marks = range(self.comparison.marks)
        return [row for k in marks for row in self.judged(self._mark(k) / ROLLOUTS, k + 1, prompts)]

    def judged(self, rollouts: Path, mark: int, prompts: Sequence[str]) -> list[Json]:
        """How a model did on each held-out prompt; 0 samples where none could be judged."""
        table = pa.concat_tables(RolloutSet(rollouts).tables([ID, "tokens"]))
        sums = table.group_by(ID).aggregate([("tokens", "sum")])
        tokens = dict(zip(sums.column(ID).to_pylist(), sums.column("tokens_sum").to_pylist(), strict=True))
        rates = pass_rates(rollouts, success=self.comparison.success).to_pylist()
        counts = {row[ID]: {"right": round(row["wins"]), "samples": row["samples"]} for row in rates}
        nothing = {"right": 0, "samples": 0}
        return [
            {
                **self._key,
                "mark": mark,
                ID: gc_id,
                **counts.get(gc_id, nothing),
                "tokens": tokens.get(gc_id, 0),
            }
            for gc_id in sorted(prompts)
        ]

    @property
    def _key(self) -> Json:
        return {"arm": self.arm.name, "seed": self.seed}


def model_at_start(comparison: Comparison) -> str:
    """The model that every arm begins with."""
    model = comparison.model or recorded_model(comparison.scored)
    assert model is not None  # checked before any arm
    return model


def judging(comparison: Comparison, model: str, out: Path) -> RolloutConfig:
    """The rollouts of the held-out prompts by a model, with the same random numbers for every model."""
    options = _rollouts(comparison) | comparison.evaluation.model_dump()
    return RolloutConfig(scored=comparison.heldout.resolve(), out=out, model=model, **options)


def _rollouts(comparison: Comparison) -> Json:
    """The options that rollouts of references and of held-out prompts share."""
    options = {
        "verifier": comparison.verifier,
        "answer_column": comparison.answer_column,
        "max_tokens": comparison.max_tokens,
        "threads": comparison.threads,
        "verify_workers": 1,
        "on_error": "skip",
    }
    return {name: value for name, value in options.items() if value is not None}


def prompt_tokens(scored: ScoredSet) -> int:
    """Tokens of all prompts of a set, which a scoring pass reads."""
    return int(pc.sum(scored.column("gc_prompt_tokens")).as_py())
