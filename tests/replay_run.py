"""A TRL trainer that replays sums, as a program: one process of it, told by its environment which.

Usage: replay_run.py MODEL RUN OUTPUT [key=value ...]; RUN may be no folder. Keys: kill (the step after which it
kills itself), any field of Replay, and any field of GRPOConfig. Writes what each generation
brought to OUTPUT/told-RANK.json, with the trainer's log.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import transformers
import trl

import arithmetic
import trl_run
from gaincurate.replay.group import RolloutGroup
from gaincurate.trainers.trl.live import attach
from gaincurate.trainers.trl.replay import Replay, ReplayGRPOTrainer
from rollouts import digests

LARGEST = 9  # a hundred sums


def config(output: Path, **options: Any) -> trl.GRPOConfig:
    """Eight prompts a generation with four rollouts each, on one process or two."""
    given: dict[str, Any] = {
        "per_device_train_batch_size": 32 // int(os.environ.get("WORLD_SIZE", "1")),
        "num_generations": 4,
        "loss_type": "grpo",
        "scale_rewards": "none",
        "learning_rate": 3e-4,
        "save_strategy": "no",
    }
    return trl_run.config(output, **(given | options))


@dataclass
class Line:
    """What one generation brought on this process."""

    step: int
    before: list[Any]
    replayed: list[Any]
    fresh: list[str]
    rewards: list[float]
    tokens: int
    rows: int
    marked: int
    buffer: list[str]
    groups: list[RolloutGroup] = field(default_factory=list, repr=False, compare=False)


class Told(ReplayGRPOTrainer):
    """Keeps a line a generation, and what its loss was given."""

    def __init__(self, *args: Any, reward: Any = arithmetic.right, **options: Any) -> None:
        self.lines: list[Line] = []
        self.losses: list[tuple[dict[str, Any], Any, float]] = []
        self._got: list[tuple[list[float], int]] = []

        def heard(completions: list[str], completion_ids: list[Any], **columns: Any) -> list[float]:
            rewards: list[float] = reward(completions, **columns)
            self._got.append((rewards, sum(map(len, completion_ids))))
            return rewards

        super().__init__(*args, reward_funcs=heard, **options)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        before = [list(group.key) for group in self.buffer.groups]
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            plan = self.buffer.last_plan
            rewards, tokens = self._got[-1]
            replayed = [list(group.key) for group in plan.replayed]
            fresh, rows = [row["gc_id"] for row in inputs], len(output["prompt_ids"])
            marked, after = int(output["replayed"].sum()), digests(self.buffer.groups)
            line = Line(self.state.global_step, before, replayed, fresh, rewards, tokens, rows, marked, after)
            line.groups += plan.replayed
            self.lines.append(line)
        return output

    def _get_per_token_logps_and_entropies(self, *args: Any, **options: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **options)
        self._newest = found[0]
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        loss = super()._compute_loss(model, inputs)
        if model.training:
            self.losses.append((inputs, self._newest.detach(), loss.item()))
        return loss


class Weights(transformers.TrainerCallback):
    """Keeps the weights of every policy version."""

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        model = more["model"]
        self.kept[state.global_step] = {name: value.clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def logprobs(model: Any, group: RolloutGroup, temperature: float) -> list[torch.Tensor]:
    """Of a group's completions, from the logits in float64; padded behind the last token alone."""
    start, longest = len(group.prompt_ids), max(map(len, group.completion_ids))
    whole = torch.zeros(group.size, start + longest, dtype=torch.long)
    for row, completion in zip(whole, group.completion_ids, strict=True):
        row[:start] = torch.tensor(group.prompt_ids)
        row[start : start + len(completion)] = torch.tensor(completion)
    logits = model(input_ids=whole).logits[:, start - 1 : -1].double() / temperature
    found = logits.log_softmax(-1).gather(-1, whole[:, start:, None])[..., 0]
    return [row[: len(ids)] for row, ids in zip(found, group.completion_ids, strict=True)]


def farthest(trainer: Any, model: Path, temperature: float) -> list[float]:
    """How far stored log-probs are from those of the stored version's weights, and of the newest ones'."""
    fresh = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    found = [0.0, 0.0]
    for step, group in [(line.step, group) for line in trainer.lines for group in line.groups]:
        for place, version in enumerate((group.policy_version, step)):
            fresh.load_state_dict(trainer.weights.kept[version])
            for given, there in zip(group.logprobs, logprobs(fresh, group, temperature), strict=True):
                distance = (torch.tensor(given).double() - there).abs().max().item()
                found[place] = max(found[place], distance)
    return found


def audit(lines: Sequence[Line], *, batch: int, fresh: int, group: int, capacity: int, lag: int = 1) -> int:
    """Check each generation against Algorithm 1 of the paper, walked through by hand; how many replayed.

    Args:
        lines: of all processes together.
        batch: groups that a full step trains on.
        fresh: groups that are generated.
        group: rollouts of each.
        capacity: groups in the buffer at most.
        lag: updates from one generation to the next.
    """
    stored: deque[list[Any]] = deque(maxlen=capacity)
    replays = 0
    for number, line in enumerate(lines):
        assert line.step == number * lag
        assert line.before == list(stored)
        ids = line.fresh[::group]
        assert line.fresh == [gc_id for gc_id in ids for _ in range(group)]
        assert len(ids) == fresh
        if len(stored) >= batch - fresh:
            assert len({tuple(key) for key in line.replayed}) == len(line.replayed) == batch - fresh
            assert all(key in stored for key in line.replayed)
            assert all(version < line.step for _, version, _ in line.replayed)
            replays += 1
        else:
            assert line.replayed == []
        assert line.rows == (fresh + len(line.replayed)) * group
        assert line.marked == len(line.replayed) * group
        for place, gc_id in enumerate(ids):
            if len(set(line.rewards[place * group : place * group + group])) > 1:
                stored.append([gc_id, line.step, number])
        assert len(line.buffer) == len(set(line.buffer)) == len(stored)
    return replays


def main() -> None:
    """Train."""
    model, run, output, options = trl_run.arguments()
    kill = options.pop("kill", None)
    replay = {one.name: options.pop(one.name) for one in fields(Replay) if one.name in options}
    output.mkdir(exist_ok=True)
    trainer = Told(
        model=model,
        args=config(output, **options),
        train_dataset=arithmetic.dataset(LARGEST),
        replay=Replay(**replay),
    )
    follows = run.exists()
    if follows:
        attach(trainer, run)
    if kill is not None:
        trainer.add_callback(trl_run.Killer(kill))
    there = any(output.glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=True if there or follows else None)
    lines = [
        {name: value for name, value in vars(line).items() if name != "groups"} for line in trainer.lines
    ]
    told = {"lines": lines, "log": trainer.state.log_history}
    (output / f"told-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
