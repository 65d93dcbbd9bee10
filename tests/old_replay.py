"""A TRL training that follows a run and replays rollouts: killed by the older code, resumed by today's.

Run as a program in a folder it makes the fixture: model, set, run and a checkpoint after four of eight updates.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def reward(completions: list[Any], gc_id: list[str], **columns: Any) -> list[float]:
    """Whether an answer has an even number of characters."""
    return [float(len(completion[0]["content"]) % 2 == 0) for completion in completions]


def trainer(folder: Path) -> Any:
    """Eight prompts an update, four of them fresh, with four rollouts each; it follows the run."""
    import trl

    from gaincurate.trainers.trl import attach, dataset
    from gaincurate.trainers.trl_replay import Replay, ReplayGRPOTrainer

    config = trl.GRPOConfig(
        output_dir=str(folder / "output"),
        max_steps=8,
        save_steps=2,
        save_total_limit=1,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=1,
        num_generations=4,
        max_completion_length=4,
        loss_type="grpo",
        scale_rewards="none",
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        shuffle_dataset=False,
        report_to="none",
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        seed=3,
    )
    made = ReplayGRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=reward,
        args=config,
        train_dataset=dataset(folder / "run"),
        replay=Replay(capacity=12),
    )
    attach(made, folder / "run")
    return made


def go_on(folder: Path) -> Json:
    """Resume from the newest checkpoint and train to the end."""
    made = trainer(folder)
    made.train(resume_from_checkpoint=True)
    names = ("step", "loss", "reward", "completions/mean_length", "replay/share", "replay/age_mean")
    log = [{name: line.get(name) for name in names} for line in made.state.log_history if "loss" in line]
    plans = [json.loads(path.read_text())["ids"] for path in sorted(folder.glob("run/rounds/*/plan.json"))]
    return {"log": log, "buffer": [list(group.key) for group in made.buffer.groups], "plans": plans}


def make(folder: Path) -> None:
    """Train until it is killed."""
    folder.mkdir()
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (checkpoint,) = folder.glob("output/checkpoint-*")
    assert checkpoint.name == "checkpoint-4"
    (checkpoint / "training_args.bin").unlink()  # a pickle with this machine's paths, which nothing reads


def _make(folder: Path) -> None:
    import transformers

    import arithmetic

    class Killer(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == 5:
                os.kill(os.getpid(), signal.SIGKILL)

    arithmetic.save_taught(folder / "model", [], seed=0, width=16, heads=2, positions=32)
    os.chdir(folder)
    arithmetic.begin(Path(), rounds=4)
    facts = Path("run/run.json")  # checkpoints name its hash; the set is found by its relative place
    facts.write_text(facts.read_text().replace(str(folder), "/elsewhere"))
    made = trainer(folder)
    made.add_callback(Killer())
    made.train()


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
