"""One arm of a comparison, trained by TRL: takes a folder with settings, leaves models at token marks.

A process of its own: `python -m gaincurate.trainers.trl_arm FOLDER`. The folder's `arm.json` says what to
do (`Task`), its run is at `run`, and what is left is `marks/K`: a model's folder with `cost.json`, as it was
when the generated tokens first reached mark K. Killed and begun again, it goes on from its last checkpoint.
Knows nothing of other arms.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import transformers
import trl

from gaincurate.difficulty.prompts import Prompt, answer_column, read_prompts
from gaincurate.difficulty.verify import VerifierConfig, VerifierPool
from gaincurate.difficulty.verify_worker import Job
from gaincurate.errors import InputError
from gaincurate.files import remove_temporaries, write_json
from gaincurate.schedule.observed import rules_of
from gaincurate.schedule.outcomes import read_outcomes
from gaincurate.schedule.run import Run
from gaincurate.schema import ID
from gaincurate.scored_set import ScoredSet
from gaincurate.trainers.arm import COST, MARKS, RUN, TASK, TRAINER, Task
from gaincurate.trainers.trl import attach, dataset


def main(folder: Path) -> None:
    """Train one arm to its last mark."""
    task = Task.model_validate_json((folder / TASK).read_bytes())
    run = Run(folder / RUN)
    remove_temporaries(folder)
    config = trl.GRPOConfig(
        output_dir=str(folder / TRAINER), num_train_epochs=run.config.rounds, **task.trainer
    )
    with ExitStack() as held:
        pool = held.enter_context(VerifierPool(VerifierConfig(task.verifier, workers=1)))
        trainer = trl.GRPOTrainer(
            model=task.model,
            reward_funcs=verified(run.scored, task, pool),
            args=config,
            train_dataset=dataset(run.folder),
        )
        attach(trainer, run.folder)
        trainer.add_callback(Budget(folder, run, task))
        trainer.train(resume_from_checkpoint=True)


def verified(scored: ScoredSet, task: Task, pool: VerifierPool) -> Callable[..., list[float | None]]:
    """A reward function that asks the verifier; None where it could not judge."""
    column = answer_column(scored, task.answer_column, needed=":" not in task.verifier)
    ids = pc.cast(scored.column(ID), pa.string()).combine_chunks()
    known: dict[str, Prompt] = {}

    def reward(completions: Sequence[Any], gc_id: Sequence[str], **columns: Any) -> list[float | None]:
        if unknown := sorted(set(gc_id) - known.keys()):
            places = pc.index_in(pa.array(unknown, pa.string()), value_set=ids).to_numpy()
            known.update(zip(unknown, read_prompts(scored, places, column), strict=True))
        jobs = [
            Job(completion[-1]["content"], known[one].answer, known[one].row)
            for completion, one in zip(completions, gc_id, strict=True)
        ]
        found = pool.judge_all(jobs)
        return [None if v.reward is None else float(v.reward >= task.success) for v in found]

    return reward


class Budget(transformers.TrainerCallback):
    """Counts generated tokens, has a checkpoint saved at each mark, and ends the training at the last one.

    Args:
        folder: the arm's.
        run: its run, where the trainer's own outcomes are; they are what is counted.
        task: with the marks.
    """

    def __init__(self, folder: Path, run: Run, task: Task) -> None:
        self._folder, self._run, self._task = folder, run, task
        self._finished: dict[int, int] = {}

    def spent(self) -> int:
        """Tokens up to now, those of rounds that are over and those of the newest."""
        run, newest = self._run, int(self._run.state["round"])
        for round_ in range(newest + 1):
            if round_ < newest and round_ not in self._finished:
                self._finished[round_] = int(run.plan(round_ + 1)["inputs"]["completion_tokens"] or 0)
        done = sum(self._finished.get(round_, 0) for round_ in range(newest))
        path, here = run.outcomes(newest), 0
        if path.exists():
            here = read_outcomes(path, newest, run.ids(newest), run.ids, rules_of(run.config)).tokens
        return self._task.charged + done + here

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Mark where a kill came between a checkpoint and its mark, and end what was over."""
        self._finished.clear()
        if state.global_step:
            self._mark(Path(args.output_dir) / f"checkpoint-{state.global_step}", state)
        if self.spent() >= self._task.mark_tokens[-1]:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Have a checkpoint saved where a mark was passed."""
        spent, marks = self.spent(), self._task.mark_tokens
        if any(spent >= mark and not self._marked(k) for k, mark in enumerate(marks)):
            control.should_save = True
        if spent >= marks[-1]:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Keep the weights of a checkpoint that passed a mark, whatever is rotated away later."""
        self._mark(Path(args.output_dir) / f"checkpoint-{state.global_step}", state)

    def _marked(self, mark: int) -> bool:
        return (self._folder / MARKS / str(mark) / COST).exists()

    def _mark(self, checkpoint: Path, state: Any) -> None:
        spent = self.spent()
        for k, tokens in enumerate(self._task.mark_tokens):
            if spent < tokens or self._marked(k):
                continue
            target = self._folder / MARKS / str(k)
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for path in checkpoint.iterdir():
                if path.suffix in (".json", ".safetensors", ".txt", ".jinja", ".model"):
                    os.link(path, target / path.name)
            logs = [entry for entry in state.log_history if "loss" in entry or "grad_norm" in entry]
            write_json(
                target / COST,
                {
                    "tokens": spent,
                    "step": state.global_step,
                    "rounds": self._run.state["round"],
                    "logs": logs,
                },
            )


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except InputError as error:
        sys.exit(f"error: {error}")
