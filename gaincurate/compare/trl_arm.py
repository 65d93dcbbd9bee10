"""One arm with one seed: TRL's GRPO under one strategy, stopped at marks of generated tokens.

It is a process of its own, so that an arm cannot change another one's random state.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import transformers

from gaincurate.compare.arm import (
    COST,
    MARKS,
    PROGRESS,
    ROLLOUTS,
    RUN,
    STEP,
    TRAINED,
    TRAINER,
    ArmJob,
    Costs,
    judging,
    model_at_start,
)
from gaincurate.compare.config import Comparison
from gaincurate.core.artifact import MANIFEST, Json
from gaincurate.core.files import remove_temporaries
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import write_sealed
from gaincurate.difficulty.prompts import Prompt, answer_column, read_prompts
from gaincurate.difficulty.rollout import roll_out
from gaincurate.difficulty.verifier import VerifierConfig, VerifierPool
from gaincurate.difficulty.verify_worker import Job
from gaincurate.errors import GaincurateError
from gaincurate.schedule.run import Run, same_file

_OF_A_MODEL = (".json", ".safetensors", ".txt", ".jinja", ".model")


class Marks(transformers.TrainerCallback):
    """Counts generated tokens, has a checkpoint saved at each mark, and ends the training at the last one.

    Add it after the one that follows the run, which reports a step's outcomes before they are counted here.

    Args:
        job: the arm.
        run: its run.
        begun: since when its seconds are counted, by `time.monotonic`.
    """

    def __init__(self, job: ArmJob, run: Run, begun: float) -> None:
        self._folder, self._run, self._marks = job.folder, run, job.comparison.mark_tokens
        self._scoring, self._weight = job.scoring(), job.comparison.prefill_weight
        self._costs = Costs(run, self._weight)
        self._begun, self._before = begun, 0.0
        self._trained = self._round = 0
        self._last: Json | None = None

    def spent(self) -> Json:
        """Tokens up to now, in all and by what they were spent on."""
        parts = {
            "scoring": self._scoring,
            "rescoring": self._costs.rescoring(self._round),
            "references": self._costs.references(self._round),
            "training": self._trained,
        }
        return {"tokens": sum(parts.values()), **parts}

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Count on from the checkpoint; mark where a kill came between the two, and end what was over."""
        self._costs = Costs(self._run, self._weight)  # the run may have gone back
        start = {"training": 0, "seconds": 0.0, "round": 0}
        *_, last = start, *(entry[STEP] for entry in state.log_history if STEP in entry)
        self._trained, self._before, self._round = (last[name] for name in start)
        if state.global_step:
            self._mark(Path(args.output_dir) / f"checkpoint-{state.global_step}", state)
        if self.spent()["tokens"] >= self._marks[-1]:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Count the step, and have a checkpoint saved where it passed a mark."""
        self._round = self._run.round
        self._last = self._costs.step(self._round, state.global_step)
        self._trained += self._last["completion_tokens"]
        spent = self.spent()["tokens"]
        if any(spent >= mark and not self._marked(k) for k, mark in enumerate(self._marks)):
            control.should_save = True
        if spent >= self._marks[-1]:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Put what the step cost beside what the trainer says of it."""
        if self._last is None:  # the summary at the end
            return
        step, spent, self._last = self._last, self.spent(), None
        seconds = self._before + time.monotonic() - self._begun
        state.log_history[-1][STEP] = {**step, **spent, "round": self._round, "seconds": seconds}
        done = min(spent["tokens"] / self._marks[-1], 1.0)
        write_sealed(self._folder / PROGRESS, {"share": TRAINED * done})

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Keep the weights of a checkpoint that passed a mark, whatever is rotated away later."""
        self._mark(Path(args.output_dir) / f"checkpoint-{state.global_step}", state)

    def _marked(self, mark: int) -> bool:
        return (self._folder / MARKS / str(mark) / COST).exists()

    def _mark(self, checkpoint: Path, state: Any) -> None:
        spent = self.spent()
        for k, tokens in enumerate(self._marks):
            if spent["tokens"] < tokens or self._marked(k):
                continue
            target = self._folder / MARKS / str(k)
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for path in checkpoint.iterdir():
                if path.suffix in _OF_A_MODEL:
                    same_file(path, target / path.name)
            logs = [entry for entry in state.log_history if STEP in entry]
            seconds = logs[-1][STEP]["seconds"]
            cost = {**spent, "step": state.global_step, "seconds": seconds, "steps": logs}
            write_sealed(target / COST, cost)


def main(folder: Path) -> None:
    """Train one arm to its last mark, then judge all marks."""
    job = ArmJob.read(folder)
    remove_temporaries(folder)
    if not (folder / MARKS / str(job.comparison.marks - 1) / COST).exists():
        train(job)
    for k in range(job.comparison.marks):
        judge(job, k)
    shutil.rmtree(folder / TRAINER, ignore_errors=True)  # its checkpoints: nothing will resume from them


def train(job: ArmJob) -> None:
    """Train to the last mark, or go on where an earlier process stopped."""
    # Here, because judging needs no trainer.
    import trl

    from gaincurate.trainers.trl.live import attach, dataset
    from gaincurate.trainers.trl.replay import Replay, ReplayGRPOTrainer

    run, comparison, replay = Run(job.folder / RUN), job.comparison, job.arm.replay
    with VerifierPool(VerifierConfig(verifier=comparison.verifier, verify_workers=1)) as pool:
        options: dict[str, Any] = {
            "model": model_at_start(comparison),
            "reward_funcs": verified(run.scored, comparison, pool),
            "args": trl.GRPOConfig(
                output_dir=str(job.folder / TRAINER), num_train_epochs=run.config.rounds, **job.trainer
            ),
            "train_dataset": dataset(run.folder),
        }
        if replay is None:
            trainer = trl.GRPOTrainer(**options)
        else:
            buffer = {"capacity": comparison.prompts_of(job.arm), **replay.model_dump(exclude_none=True)}
            trainer = ReplayGRPOTrainer(**options, replay=Replay(**buffer))
        begun = time.monotonic()  # from here on strategies differ: the first references may be rolled out now
        attach(trainer, run.folder)
        trainer.add_callback(Marks(job, run, begun))
        trainer.train(resume_from_checkpoint=True)


def verified(
    scored: ScoredSet, comparison: Comparison, pool: VerifierPool
) -> Callable[..., list[float | None]]:
    """A reward function that asks the verifier; None where it could not judge."""
    column = answer_column(scored, comparison.answer_column, needed=":" not in comparison.verifier)
    ids = pc.cast(scored.column(ID), pa.string()).combine_chunks()
    prompts: dict[str, Prompt] = {}

    def reward(completions: Sequence[Any], gc_id: Sequence[str], **columns: Any) -> list[float | None]:
        if unknown := sorted(set(gc_id) - prompts.keys()):
            places = pc.index_in(pa.array(unknown, pa.string()), value_set=ids).to_numpy()
            prompts.update(zip(unknown, read_prompts(scored, places, column), strict=True))
        jobs = [
            Job(completion[-1]["content"], prompts[prompt_id].answer, prompts[prompt_id].row)
            for completion, prompt_id in zip(completions, gc_id, strict=True)
        ]
        verdicts = pool.judge_all(jobs)
        return [None if v.reward is None else float(v.reward >= comparison.success) for v in verdicts]

    return reward


def judge(job: ArmJob, k: int) -> None:
    """Roll out the held-out prompts with the model of a mark."""
    mark, marks = job.folder / MARKS / str(k), job.comparison.marks
    if not (mark / ROLLOUTS / MANIFEST).exists():  # after that the weights may be gone
        roll_out(judging(job.comparison, str(mark), mark / ROLLOUTS))
    write_sealed(job.folder / PROGRESS, {"share": TRAINED + (1 - TRAINED) * (k + 1) / marks})
    if k < marks - 1:  # the last one's weights stay
        for path in mark.glob("*.safetensors"):
            path.unlink()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except GaincurateError as error:
        sys.exit(f"error: {error}")
