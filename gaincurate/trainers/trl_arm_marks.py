"""Token marks of an arm that TRL trains: a callback that counts, keeps weights at the marks, and ends.

What a step cost goes into the trainer's own log, which is in every checkpoint, so a training that resumes
counts on from there. Read with transformers 5.23. Knows nothing of rewards.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import transformers

from gaincurate.core.artifact import Json
from gaincurate.files import write_json
from gaincurate.schedule.orders import same_file
from gaincurate.schedule.run import Run
from gaincurate.trainers.arm import COST, MARKS, PROGRESS, STEP, TRAINED, Task
from gaincurate.trainers.arm_costs import Costs, Step

_KEPT = (".json", ".safetensors", ".txt", ".jinja", ".model")


class Marks(transformers.TrainerCallback):
    """Counts generated tokens, has a checkpoint saved at each mark, and ends the training at the last one.

    Add it behind the one that follows the run, which reports a step's outcomes before they are counted here.

    Args:
        folder: the arm's.
        run: its run.
        task: with the marks.
        begun: since when its seconds are counted, by `time.monotonic`.
    """

    def __init__(self, folder: Path, run: Run, task: Task, begun: float) -> None:
        self._folder, self._run, self._task = folder, run, task
        self._costs = Costs(run, task.prefill_weight)
        self._begun, self._before = begun, 0.0
        self._trained = 0
        self._round = 0
        self._last: Step | None = None

    def spent(self) -> Json:
        """Tokens up to now, in all and by what they were spent on."""
        parts = {
            "scoring": self._task.scoring,
            "rescoring": self._costs.rescoring(self._round),
            "references": self._costs.references(self._round),
            "training": self._trained,
        }
        return {"tokens": sum(parts.values()), **parts}

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Count on from the checkpoint; mark where a kill came between the two, and end what was over."""
        self._costs.forget()
        told = [entry[STEP] for entry in state.log_history if STEP in entry]
        self._trained = told[-1]["training"] if told else 0
        self._before = told[-1]["seconds"] if told else 0.0
        self._round = told[-1]["round"] if told else 0
        if state.global_step:
            self._mark(Path(args.output_dir) / f"checkpoint-{state.global_step}", state)
        if self.spent()["tokens"] >= self._task.mark_tokens[-1]:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Count the step, and have a checkpoint saved where it passed a mark."""
        self._round = int(self._run.state["round"])
        self._last = self._costs.step(self._round, state.global_step)
        self._trained += self._last.completion_tokens
        spent, marks = self.spent()["tokens"], self._task.mark_tokens
        if any(spent >= mark and not self._marked(k) for k, mark in enumerate(marks)):
            control.should_save = True
        if spent >= marks[-1]:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Put what the step cost beside what the trainer says of it."""
        if self._last is None:  # the summary at the end
            return
        step, self._last = self._last, None
        seconds = self._before + time.monotonic() - self._begun
        facts = {name: getattr(step, name) for name in Step.__slots__}
        state.log_history[-1][STEP] = {**facts, **self.spent(), "round": self._round, "seconds": seconds}
        done = min(self.spent()["tokens"] / self._task.mark_tokens[-1], 1.0)
        write_json(self._folder / PROGRESS, {"share": TRAINED * done})

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Keep the weights of a checkpoint that passed a mark, whatever is rotated away later."""
        self._mark(Path(args.output_dir) / f"checkpoint-{state.global_step}", state)

    def _marked(self, mark: int) -> bool:
        return (self._folder / MARKS / str(mark) / COST).exists()

    def _mark(self, checkpoint: Path, state: Any) -> None:
        spent = self.spent()
        for k, tokens in enumerate(self._task.mark_tokens):
            if spent["tokens"] < tokens or self._marked(k):
                continue
            target = self._folder / MARKS / str(k)
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for path in checkpoint.iterdir():
                if path.suffix in _KEPT:
                    same_file(path, target / path.name)
            logs = [entry for entry in state.log_history if STEP in entry]
            seconds = logs[-1][STEP]["seconds"]
            write_json(target / COST, {**spent, "step": state.global_step, "seconds": seconds, "steps": logs})
