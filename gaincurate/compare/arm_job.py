"""One arm with one seed: the run, the trainer's settings, its process, and what it left on disk.

Every step leaves files that say that it was done: the run, the trainer's marks, a rollout set per mark. So
a killed comparison goes on where it was. Training and judging share one process, which holds the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.compare.arm import COST, MARKS, PROGRESS, ROLLOUTS, RUN, STEP, TASK, Task
from gaincurate.compare.config import Arm, Comparison
from gaincurate.core.artifact import MANIFEST, Json
from gaincurate.core.files import digest_json, write_json
from gaincurate.core.options import checked
from gaincurate.core.process import command_lock, run_command
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.rollout_set import RolloutSet, pass_rates
from gaincurate.errors import TrainerError
from gaincurate.schedule import base
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.first_model import recorded_model
from gaincurate.schedule.rounds import start
from gaincurate.schedule.run import RUN as RUN_FACTS
from gaincurate.schedule.run import read_json
from gaincurate.schedule.strategies.dots_options import DotsOptions

LOG = "trainer.log"
_MODULE = "gaincurate.compare.trl_arm"


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
        marks = range(len(self.comparison.mark_tokens))
        return all((self._mark(k) / ROLLOUTS / MANIFEST).exists() for k in marks)

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        path = self.folder / PROGRESS
        return float(read_json(path)["share"]) if path.exists() else 0.0

    def _mark(self, k: int) -> Path:
        return self.folder / MARKS / str(k)

    def prepare(self) -> None:
        """Open the arm's run and write its trainer's task; nothing where that was done.

        Raises:
            InputError: the strategy cannot do with the set or an option.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / RUN / RUN_FACTS).exists():
            start(self._schedule())
        write_json(self.folder / TASK, self._task().model_dump(mode="json"))

    def _schedule(self) -> ScheduleConfig:
        comparison, arm = self.comparison, self.arm
        prompts, steps = comparison.fresh_prompts(arm), comparison.steps_of(arm)
        fewest = prompts * steps * comparison.group  # tokens of a round whose completions have one each
        return checked(
            ScheduleConfig,
            {
                "scored": comparison.scored,
                "run": self.folder / RUN,
                "strategy": arm.strategy,
                "budget": prompts * steps,
                "rounds": -(-comparison.budget_tokens // fewest) + 1,
                "seed": self.number,
                "by": arm.by,
                "ascending": arm.ascending,
                "options": self._options(steps),
                "align_to": prompts,
                "model": model_at_start(comparison),
                "rescore": arm.rescore,
            },
        )

    def _options(self, steps: int) -> dict[str, Any]:
        """The strategy's own, and of one that observes references how it does that, where it is not said."""
        comparison, options = self.comparison, dict(self.arm.options)
        if not issubclass(base.load(self.arm.strategy).Options, DotsOptions):
            return options
        rollout = {
            "verifier": comparison.verifier,
            "samples": comparison.group,
            "temperature": comparison.temperature,
            "max_tokens": comparison.max_tokens,
            "verify_workers": 1,
            "on_error": "skip",
        }
        if comparison.answer_column is not None:
            rollout["answer_column"] = comparison.answer_column
        if comparison.threads is not None:
            rollout["threads"] = comparison.threads
        defaults = {"refresh_every": steps, "success": comparison.success}
        return {**defaults, **options, "rollout": rollout | options.get("rollout", {})}

    def _task(self) -> Task:
        comparison, replay = self.comparison, self.arm.replay
        prompts = comparison.step_prompts
        return Task(
            model=model_at_start(comparison),
            verifier=comparison.verifier,
            answer_column=comparison.answer_column,
            success=comparison.success,
            scoring=self.scoring(),
            prefill_weight=comparison.prefill_weight,
            mark_tokens=comparison.mark_tokens,
            trainer={
                "per_device_train_batch_size": prompts * comparison.group // comparison.micro_batches,
                "learning_rate": 1e-6,
                "lr_scheduler_type": "constant",
                "report_to": "none",
                "disable_tqdm": True,
                **comparison.train,
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
            },
            replay=None if replay is None else {"capacity": prompts, **replay.model_dump(exclude_none=True)},
            evaluation=evaluation(comparison),
        )

    def scoring(self) -> int:
        """Tokens charged before the training: the scoring pass, if the order is made of it, and more."""
        if not self.arm.needs_scores:
            return self.arm.spent_before
        tokens = int(pc.sum(ScoredSet(self.comparison.scored).column("gc_prompt_tokens")).as_py())
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
        """What the trainer wrote at a mark: tokens by what they were spent on, `step`, `seconds`, `steps`."""
        return read_json(self._mark(k) / COST)

    def mark_rows(self) -> list[Json]:
        """Rows of `marks.arrow`."""
        names = ("tokens", "scoring", "rescoring", "references", "training", "step", "seconds")
        rows = []
        for k, asked in enumerate(self.comparison.mark_tokens):
            cost = self.cost(k)
            rows.append({**self._key, "mark": k + 1, "asked": asked, **{n: cost[n] for n in names}})
        return rows

    def step_rows(self) -> list[Json]:
        """Rows of `steps.arrow`."""
        rows = []
        for entry in self.cost(len(self.comparison.mark_tokens) - 1)["steps"]:
            measured, share = entry[STEP], entry.get("replay/share", 0.0)
            rows.append(
                {
                    **self._key,
                    **measured,
                    "step": entry["step"],
                    "trainer_tokens": int(entry["num_tokens"]),
                    "grad_norm": entry.get("grad_norm"),
                    "replayed": round(measured["rollouts"] * share / (1 - share)),
                }
            )
        return rows

    def evaluation_rows(self, prompts: Sequence[str]) -> list[Json]:
        """Rows of `evaluations.arrow` for these held-out prompts, without the start."""
        marks = range(len(self.comparison.mark_tokens))
        return [row for k in marks for row in self.judged(self._mark(k) / ROLLOUTS, k + 1, prompts)]

    def judged(self, rollouts: Path, mark: int, prompts: Sequence[str]) -> list[Json]:
        """How a model did on each held-out prompt; 0 samples where none could be judged."""
        table = pa.concat_tables(RolloutSet(rollouts).tables([ID, "tokens"]))
        sums = table.group_by(ID).aggregate([("tokens", "sum")])
        tokens = dict(zip(sums.column(ID).to_pylist(), sums.column("tokens_sum").to_pylist(), strict=True))
        rates = pass_rates(rollouts, success=self.comparison.success).to_pylist()
        counts = {row[ID]: (round(row["wins"]), row["samples"]) for row in rates}
        names = ("right", "samples")
        return [
            {
                **self._key,
                "mark": mark,
                ID: gc_id,
                **dict(zip(names, counts.get(gc_id, (0, 0)), strict=True)),
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


def evaluation(comparison: Comparison) -> Json:
    """The options of the held-out rollouts but model and folder: the same random numbers for every model."""
    asked = comparison.evaluation
    config = RolloutConfig(
        scored=comparison.heldout.resolve(),
        out=Path(),
        verifier=comparison.verifier,
        answer_column=comparison.answer_column,
        samples=asked.samples,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        max_tokens=comparison.max_tokens,
        batch_tokens=asked.batch_tokens,
        threads=comparison.threads,
        verify_workers=1,
        on_error="skip",
    )
    return config.model_dump(mode="json", exclude={"model", "out"})
