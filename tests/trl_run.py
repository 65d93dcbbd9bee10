"""A TRL trainer that follows a run, as a program: one process of it, told by its environment which.

Usage: trl_run.py MODEL RUN OUTPUT [key=value ...]. Keys: kill (the step after which it kills itself),
kill_rolling_out (the round whose references it does not live to see), and any field of GRPOConfig. Writes what each process trained on, in order, to OUTPUT/trained-RANK.jsonl.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import datasets
import transformers
import trl

from gaincurate.core.artifact import IDENTITY
from gaincurate.core.process import run_command
from gaincurate.schedule import rescore as rescoring
from gaincurate.schedule.config import RescoreConfig, ScheduleConfig
from gaincurate.trainers.trl import attach, dataset


class Killer(transformers.TrainerCallback):
    """Ends the process as a power cut would, at a step's end, before anything is saved there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == self.step:
            self.end()


class Ends(Exception):
    """A kill that a test survives."""


class Ender(Killer):
    """Ends the training at the same place by an exception."""

    def end(self) -> None:
        raise Ends


def kill_rolling_out(round_: int) -> None:
    """End the process when a round's references are being rolled out, at the latest when they are."""
    out = f"/difficulty/{round_:05d}/rollouts"

    def watched(command: list[str], **options: Any) -> float:
        folder = next((Path(part) for part in command if part.endswith(out)), None)

        def watch(seconds: float) -> None:
            # An earlier end leaves nothing behind, so there would be nothing to go on with.
            if folder is not None and (folder / IDENTITY).exists():
                os.kill(os.getpid(), signal.SIGKILL)

        seconds = run_command(command, **options, watch=watch)
        watch(seconds)
        return seconds

    mock.patch.object(rescoring, "run_command", watched).start()


def config(output: Path, kind: Any = trl.GRPOConfig, **options: Any) -> Any:
    """Four prompts a generation with two rollouts each, on one process or two."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    given: dict[str, Any] = {
        "output_dir": str(output), "per_device_train_batch_size": 8 // world, "gradient_accumulation_steps": 1,
        "num_generations": 2, "max_completion_length": 4, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
        "shuffle_dataset": False, "report_to": "none", "logging_steps": 1, "save_steps": 1, "seed": 3,
        "use_cpu": True, "bf16": False, "disable_tqdm": True,
    }  # fmt: skip
    return kind(**(given | options))


def stub(args: Any, rows: list[str], *, iterations: int | None = None, processes: int = 1) -> Any:
    """What `attach` and its checks read of a trainer with these settings, and with rows of these ids."""
    return SimpleNamespace(
        args=args,
        reward_func_names=["right"],
        reward_funcs=[lambda completions, **columns: [1.0 for _ in completions]],
        num_generations=args.num_generations,
        num_iterations=args.num_iterations if iterations is None else iterations,
        shuffle_dataset=args.shuffle_dataset,
        train_dataset=datasets.Dataset.from_dict({"gc_id": rows}),
        accelerator=SimpleNamespace(num_processes=processes, process_index=0, state=SimpleNamespace()),
    )


def schedule(rescore: str = "off", every: int = 1, **options: Any) -> ScheduleConfig:
    """A run's options, of three rounds of 16 prompts."""
    given: dict[str, Any] = {"strategy": "gain-rl", "budget": 16, "rounds": 3, "scored": "s", "run": "r"}
    return ScheduleConfig(**(given | options), rescore=RescoreConfig(what=rescore, every=every))  # type: ignore[arg-type]


def reward(completions: list[Any], gc_id: list[str], **columns: Any) -> list[float]:
    """Whether the answer has an even number of characters: half of them, and not the same half each time."""
    return [float(len(completion[0]["content"]) % 2 == 0) for completion in completions]


def arguments() -> tuple[str, Path, Path, dict[str, Any]]:
    """MODEL, RUN, OUTPUT and the keys of a program's command line."""
    options: dict[str, Any] = {}
    for given in sys.argv[4:]:
        key, _, value = given.partition("=")
        options[key] = json.loads(value)
    return sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), options


def main() -> None:
    """Train."""
    model, run, output, options = arguments()
    kill = options.pop("kill", None)
    if (round_ := options.pop("kill_rolling_out", None)) is not None:
        kill_rolling_out(round_)
    trained = output / f"trained-{os.environ.get('RANK', '0')}.jsonl"
    output.mkdir(exist_ok=True)

    def heard(trainer_state: Any, gc_id: list[str], **columns: Any) -> list[float]:
        with trained.open("a") as file:
            file.write(json.dumps({"step": trainer_state.global_step + 1, "ids": gc_id}) + "\n")
        return reward(gc_id=gc_id, **columns)

    trainer = trl.GRPOTrainer(
        model=model, reward_funcs=heard, args=config(output, **options), train_dataset=dataset(run)
    )
    attach(trainer, run)
    if kill is not None:
        trainer.add_callback(Killer(kill))
    trainer.train(resume_from_checkpoint=True)


if __name__ == "__main__":
    main()
