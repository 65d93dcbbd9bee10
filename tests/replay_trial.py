"""Whether replay costs anything: the same training of sums with and without it, at equal updates, as a table.

Usage: replay_trial.py OUTPUT [seeds]. Three seeds of 60 updates take a few minutes on one CPU core. Writes
OUTPUT/trial.json and prints the table of docs/studies/replay/README.md.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import transformers
import trl

import arithmetic
import trl_run
from gaincurate.replay.group import RolloutGroup
from gaincurate.trainers.trl.replay import Replay, ReplayGRPOTrainer

STEPS, PROMPTS, ROLLOUTS, SHOWN = 60, 32, 8, 200
ARMS: dict[str, tuple[int, Replay | None]] = {
    "32 prompts, no replay": (PROMPTS, None),
    "16 prompts, no replay": (PROMPTS // 2, None),
    "16 and 16 replayed, clip one": (PROMPTS, Replay(capacity=PROMPTS)),
    "16 and 16 replayed, clip old": (PROMPTS, Replay(capacity=PROMPTS, clip="old")),
}


class Weights(transformers.TrainerCallback):
    """Keeps the weights of every policy version."""

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        model = more["model"]
        self.kept[state.global_step] = {name: value.clone() for name, value in model.state_dict().items()}


class Draws(ReplayGRPOTrainer):
    """Keeps every group that was replayed, and on which step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.drawn: list[tuple[int, RolloutGroup]] = []

    def _plan(self) -> Any:
        plan = super()._plan()
        self.drawn += [(plan_step(self), group) for group in plan.replayed]
        return plan


def plan_step(trainer: Any) -> int:
    """Updates that were made before."""
    return int(trainer.state.global_step)


@torch.no_grad()
def logprobs(model: Any, group: RolloutGroup, temperature: float = 1.0) -> list[torch.Tensor]:
    """Of a group's completions, from the logits in float64; padded behind the last token alone."""
    start, longest = len(group.prompt_ids), max(map(len, group.completion_ids))
    whole = torch.zeros(group.size, start + longest, dtype=torch.long)
    for row, completion in zip(whole, group.completion_ids, strict=True):
        row[:start] = torch.tensor(group.prompt_ids)
        row[start : start + len(completion)] = torch.tensor(completion)
    logits = model(input_ids=whole).logits[:, start - 1 : -1].double() / temperature
    found = logits.log_softmax(-1).gather(-1, whole[:, start:, None])[..., 0]
    return [row[: len(ids)] for row, ids in zip(found, group.completion_ids, strict=True)]


def farthest(
    trainer: Any, weights: dict[int, dict[str, torch.Tensor]], model: Path, temperature: float = 1.0
) -> tuple[float, float]:
    """How far stored log-probs are from those of the stored version's weights, and of the newest ones'."""
    fresh = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    stored = newest = 0.0
    for step, group in trainer.drawn:
        for version in (group.policy_version, step):
            fresh.load_state_dict(weights[version])
            for given, there in zip(group.logprobs, logprobs(fresh, group, temperature), strict=True):
                distance = (torch.tensor(given).double() - there).abs().max().item()
                if version == group.policy_version:
                    stored = max(stored, distance)
                else:
                    newest = max(newest, distance)
    return stored, newest


def train(model: Path, output: Path, seed: int, prompts: int, replay: Replay | None) -> dict[str, Any]:
    """One training of `STEPS` updates on so many prompts each."""
    generated: list[tuple[int, int]] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        generated.append((len(completions), sum(map(len, completion_ids))))
        return arithmetic.right(completions, **columns)

    config = trl_run.config(
        output,
        max_steps=STEPS,
        seed=seed,
        per_device_train_batch_size=prompts * ROLLOUTS,
        num_generations=ROLLOUTS,
        loss_type="grpo",
        scale_rewards="none",
        learning_rate=3e-4,
        shuffle_dataset=True,
        save_strategy="no",
        logging_strategy="no",
    )
    given: dict[str, Any] = {"model": str(model), "reward_funcs": reward, "args": config}
    given["train_dataset"] = arithmetic.dataset()
    weights = Weights()
    trainer: Any = trl.GRPOTrainer(**given) if replay is None else Draws(**given, replay=replay)
    trainer.add_callback(weights)
    began = time.monotonic()
    trainer.train()
    found = {"seconds": time.monotonic() - began, "generated": generated}
    if replay is not None:
        found["replayed"] = sorted({step for step, _ in trainer.drawn})
        found["ages"] = [step - group.policy_version for step, group in trainer.drawn]
        found["distance"], found["distance_newest"] = farthest(trainer, weights.kept, model)
    torch.manual_seed(seed)
    found["end"] = arithmetic.pass_rate(trainer.model.eval(), samples=8)
    return found


def main() -> None:
    """Train all and print."""
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    output = Path(sys.argv[1])
    seeds = range(int(sys.argv[2]) if len(sys.argv) > 2 else 3)
    output.mkdir(parents=True, exist_ok=True)
    model = arithmetic.save_model(output / "model", SHOWN)
    before = arithmetic.pass_rate(transformers.AutoModelForCausalLM.from_pretrained(model).eval(), samples=8)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        for name, arm in ARMS.items():
            results.setdefault(name, []).append(train(model, output / "out", seed, *arm))
            (output / "trial.json").write_text(json.dumps({"before": before, "arms": results}))
    tell(before, results)


def tell(before: float, results: dict[str, list[dict[str, Any]]]) -> None:
    """Print the tables."""
    print(f"right before: {before:.3f}\n")
    print("| a step | right after, by seed | mean | sd | rollouts generated | tokens a rollout | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, runs in results.items():
        ends = [run["end"] for run in runs]
        counts = [
            sum(column) for column in zip(*(pair for run in runs for pair in run["generated"]), strict=True)
        ]
        each = ", ".join(f"{end:.3f}" for end in ends)
        spread = stdev(ends) if len(ends) > 1 else 0.0
        print(
            f"| {name} | {each} | {mean(ends):.3f} | {spread:.3f} | {counts[0] // len(runs):,} | "
            f"{counts[1] / counts[0]:.2f} | {mean(run['seconds'] for run in runs):.0f} |"
        )
    print()
    for name, runs in results.items():
        if "replayed" in runs[0]:
            steps = [len(run["replayed"]) for run in runs]
            fresh = {run["generated"][step][0] for run in runs for step in run["replayed"]}
            ages = mean(age for run in runs for age in run["ages"])
            stored, newest = (max(run[key] for run in runs) for key in ("distance", "distance_newest"))
            print(
                f"{name}: {steps} of {STEPS} steps replay, with {fresh} rollouts generated on each; mean age "
                f"{ages:.1f}; stored log-probs off by {stored:.1e} at most, and by {newest:.1f} with newer weights"
            )


if __name__ == "__main__":
    main()
