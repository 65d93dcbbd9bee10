"""One arm of a comparison, trained by TRL: takes a folder with settings, leaves judged models at token marks.

A process of its own: `python -m gaincurate.trainers.trl_arm FOLDER`. The folder's `arm.json` says what to
do (`Task`), its run is at `run`, and what is left is `marks/K`: a model's folder with `cost.json`, as it was
when the generated tokens first reached mark K, and `rollouts` of the held-out prompts. Killed and begun
again, it goes on from its last checkpoint. Knows nothing of other arms.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.artifact import MANIFEST
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.prompts import Prompt, answer_column, read_prompts
from gaincurate.difficulty.rollout import roll_out
from gaincurate.difficulty.verify import VerifierConfig, VerifierPool
from gaincurate.difficulty.verify_worker import Job
from gaincurate.errors import GaincurateError
from gaincurate.files import remove_temporaries, write_json
from gaincurate.schedule.run import Run
from gaincurate.schema import ID
from gaincurate.scored_set import ScoredSet
from gaincurate.trainers.arm import COST, MARKS, PROGRESS, ROLLOUTS, RUN, TASK, TRAINED, TRAINER, Task


def main(folder: Path) -> None:
    """Train one arm to its last mark, then judge all marks."""
    task = Task.model_validate_json((folder / TASK).read_bytes())
    remove_temporaries(folder)
    last = len(task.mark_tokens) - 1
    if not (folder / MARKS / str(last) / COST).exists():
        train(folder, task)
    for k in range(last + 1):
        judge(folder, task, k)
    shutil.rmtree(folder / TRAINER, ignore_errors=True)  # its checkpoints: nothing will resume from them


def train(folder: Path, task: Task) -> None:
    """Train to the last mark, or go on where an earlier process stopped."""
    # Here, because judging needs no trainer.
    import trl

    from gaincurate.trainers.trl import attach, dataset
    from gaincurate.trainers.trl_arm_marks import Marks
    from gaincurate.trainers.trl_replay import Replay, ReplayGRPOTrainer

    run = Run(folder / RUN)
    with ExitStack() as held:
        pool = held.enter_context(VerifierPool(VerifierConfig(task.verifier, workers=1)))
        given: dict[str, Any] = {
            "model": task.model,
            "reward_funcs": verified(run.scored, task, pool),
            "args": trl.GRPOConfig(
                output_dir=str(folder / TRAINER), num_train_epochs=run.config.rounds, **task.trainer
            ),
        }
        build: Any = trl.GRPOTrainer
        if task.replay is not None:
            build, given["replay"] = ReplayGRPOTrainer, Replay(**task.replay)
        trainer = build(**given, train_dataset=dataset(run.folder))
        begun = time.monotonic()  # from here on strategies differ: the first references may be rolled out now
        attach(trainer, run.folder)
        trainer.add_callback(Marks(folder, run, task, begun))
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


def judge(folder: Path, task: Task, k: int) -> None:
    """Roll out the held-out prompts with the model of a mark."""
    mark = folder / MARKS / str(k)
    if not (mark / ROLLOUTS / MANIFEST).exists():  # behind that the weights may be gone
        roll_out(RolloutConfig(**task.evaluation, model=str(mark), out=mark / ROLLOUTS))
    last = len(task.mark_tokens) - 1
    write_json(folder / PROGRESS, {"share": TRAINED + (1 - TRAINED) * (k + 1) / (last + 1)})
    if k < last:  # the last one's weights stay
        for path in mark.glob("*.safetensors"):
            path.unlink()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except GaincurateError as error:
        sys.exit(f"error: {error}")
