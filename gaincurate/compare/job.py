"""One arm with one seed: takes a comparison and a folder, leaves a trained and judged arm, and reads it.

Every step leaves files that say that it was done, so a killed comparison goes on where it was: the run, the
trainer's marks, a rollout set for each mark. The trainer is a process of its own. Knows no statistics.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.compare.config import Arm, Comparison
from gaincurate.compare.resample import Floats
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.rollout import roll_out
from gaincurate.difficulty.rollout_set import RolloutSet, pass_rates
from gaincurate.files import append_line, reading, write_json
from gaincurate.schedule import base
from gaincurate.schedule.config import checked
from gaincurate.schedule.rounds import model_of, start
from gaincurate.schedule.run import RUN as RUN_FACTS
from gaincurate.schedule.run import read_json
from gaincurate.schedule.trainer import train, trainer_lock
from gaincurate.schema import ID, PREFIX
from gaincurate.scored_set import ScoredSet
from gaincurate.shards import EXECUTION, MANIFEST, Json
from gaincurate.trainers.arm import COST, MARKS, RUN, TASK, Task

ROLLOUTS, LOG = "rollouts", "trainer.log"
_MODULE = "gaincurate.trainers.trl_arm"


@dataclass(frozen=True, slots=True)
class Judged:
    """A model on the held-out prompts, those of `ids` `[prompts]`: right answers and answers of each, and
    the mean number of tokens of a completion.
    """

    ids: list[str]
    right: Floats
    samples: Floats
    length: float


class ArmJob:
    """One arm with one seed.

    Args:
        comparison: with the settings that all share.
        arm: what is different.
        seed: of the schedule and the trainer.
        folder: its own.
    """

    def __init__(self, comparison: Comparison, arm: Arm, seed: int, folder: Path) -> None:
        self.comparison, self.arm, self.seed, self.folder = comparison, arm, seed, folder

    @property
    def trained(self) -> bool:
        """Whether the last mark was reached."""
        return self._mark(len(self.comparison.mark_tokens) - 1).joinpath(COST).exists()

    @property
    def judged(self) -> bool:
        """Whether all marks were."""
        marks = range(len(self.comparison.mark_tokens))
        return all((self._mark(k) / ROLLOUTS / MANIFEST).exists() for k in marks)

    def _mark(self, k: int) -> Path:
        return self.folder / MARKS / str(k)

    def prepare(self) -> None:
        """Open the arm's run and write what its trainer is told; nothing where that was done.

        Raises:
            InputError: the strategy cannot do with the set or an option.
        """
        comparison, arm = self.comparison, self.arm
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / RUN / RUN_FACTS).exists():
            fewest = comparison.budget * comparison.group  # tokens of a round whose completions have one each
            start(
                checked(
                    scored=comparison.scored,
                    run=self.folder / RUN,
                    strategy=arm.strategy,
                    budget=comparison.budget,
                    rounds=-(-comparison.budget_tokens // fewest) + 1,
                    seed=self.seed,
                    by=arm.by,
                    ascending=arm.ascending,
                    options=arm.options,
                    align_to=comparison.step_prompts,
                    model=model_at_start(comparison),
                )
            )
        write_json(self.folder / TASK, self._task().model_dump())

    def _task(self) -> Task:
        comparison = self.comparison
        return Task(
            model=model_at_start(comparison),
            verifier=comparison.verifier,
            answer_column=comparison.answer_column,
            success=comparison.success,
            charged=self.charged(),
            mark_tokens=comparison.mark_tokens,
            trainer={
                "per_device_train_batch_size": comparison.step_prompts * comparison.group,
                "gradient_accumulation_steps": 1,
                "learning_rate": 1e-6,
                "lr_scheduler_type": "constant",
                "report_to": "none",
                "logging_steps": 1,
                "disable_tqdm": True,
                **comparison.train,
                "num_generations": comparison.group,
                "max_completion_length": comparison.max_tokens,
                "temperature": comparison.temperature,
                "shuffle_dataset": False,
                "save_strategy": "steps",
                "save_steps": comparison.round_steps,
                "save_total_limit": 2,
                "seed": self.seed,
            },
        )

    def charged(self) -> int:
        """Tokens of the scoring pass, if the arm's order is made of it; length and chance need none."""
        kind = base.load(self.arm.strategy)
        by = self.arm.by or kind.by
        if by is None or not by.startswith(PREFIX) or by in _COUNTS:
            return 0
        tokens = int(pc.sum(ScoredSet(self.comparison.scored).column("gc_prompt_tokens")).as_py())
        return round(tokens * self.comparison.prefill_weight)

    def train(self, watch: Callable[[float], None] = lambda seconds: None) -> None:
        """Run the trainer to the last mark.

        Raises:
            TrainerError: it failed; what it saved is kept.
        """
        command = [sys.executable, "-m", _MODULE, str(self.folder)]
        with trainer_lock(self.folder) as lock:
            taken = train(command, environment={}, log=self.folder / LOG, lock=lock, watch=watch)
        append_line(self.folder / EXECUTION, {"what": "training", "seconds": taken})

    def training_seconds(self) -> float:
        """What the attempts that ended well took."""
        path = self.folder / EXECUTION
        with reading(path):
            lines = path.read_text().splitlines() if path.exists() else []
        return float(sum(json.loads(line)["seconds"] for line in lines))

    def judge(self, k: int) -> None:
        """Roll out the held-out prompts with the model of a mark.

        Raises:
            InputError: as `roll_out`.
        """
        mark = self._mark(k)
        roll_out(evaluation(self.comparison, str(mark), mark / ROLLOUTS))
        if k < len(self.comparison.mark_tokens) - 1:  # the last one's weights stay
            for path in mark.glob("*.safetensors"):
                path.unlink()

    def cost(self, k: int) -> Json:
        """What the trainer wrote at a mark: `tokens`, `step`, `rounds`, `logs`."""
        return read_json(self._mark(k) / COST)

    def result(self, k: int) -> Judged:
        """How the model of a mark did."""
        return judged(self._mark(k) / ROLLOUTS, self.comparison.success)


_COUNTS = ("gc_prompt_tokens", "gc_question_tokens", "gc_prefix_tokens")


def model_at_start(comparison: Comparison) -> str:
    """The model that every arm begins with."""
    found = comparison.model or model_of(comparison.scored)
    assert found is not None  # checked before any arm
    return found


def evaluation(comparison: Comparison, model: str, out: Path) -> RolloutConfig:
    """Rollouts of all held-out prompts, with the same random numbers for every model."""
    asked = comparison.evaluation
    return RolloutConfig(
        scored=comparison.heldout,
        out=out,
        model=model,
        verifier=comparison.verifier,
        answer_column=comparison.answer_column,
        samples=asked.samples,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        max_tokens=comparison.max_tokens,
        batch_tokens=asked.batch_tokens,
        on_error="skip",
    )


def judged(rollouts: Path, success: float) -> Judged:
    """The right answers in a rollout set, by prompt; what could not be judged is left out."""
    rates = pass_rates(rollouts, success=success).sort_by(ID)
    lengths = pa.concat_tables(RolloutSet(rollouts).tables(["tokens"])).column("tokens")
    return Judged(
        rates.column(ID).to_pylist(),
        rates.column("wins").to_numpy(),
        rates.column("samples").to_numpy().astype(np.float64),
        pc.mean(lengths).as_py() or 0.0,
    )
