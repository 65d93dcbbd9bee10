"""One training of the lean study: GRPO on short answers, judged by the exact likelihood of the right ones.

The settings are those of docs/head-to-head.md, and so is the bill: generated tokens, and the scoring pass for
a strategy that reads scores. What makes it fast changes no gradient: rollouts share their prompt in one pass,
groups whose rewards do not differ are not passed through, and finished rollouts leave the batch.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from choosing import Chooser
from policy import Policy, Tensor, trees
from pydantic import BaseModel, ConfigDict, Field
from world import LONGEST, Prompts, World

from gaincurate.compare.config import Arm as ComparedArm
from gaincurate.core.files import digest_json
from gaincurate.core.rng import Floats, Ints
from gaincurate.difficulty.verify_worker import said_answer

GROUP, BETAS, CLIP, EPSILON = 8, (0.9, 0.95), 1.0, 0.2
MARKS = 4
PREFILL_WEIGHT = 0.1
CAPACITY = 64  # groups that wait to be replayed
Row = dict[str, Any]


class Arm(BaseModel):
    """What one arm is trained with; what it does not say is as in the study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    strategy: str = "uniform"
    options: dict[str, Any] = Field(default_factory=dict)
    by: str | None = None
    ascending: bool | None = None
    stratify: bool = False
    """Whether every task keeps its share of each round."""
    step_prompts: int = 16
    """Fresh prompts of a step."""
    rollouts: int = GROUP
    """Of each prompt; the mean, where the strategy has group sizes."""
    history: int = 0
    """Earlier trainings with uniform sampling whose outcomes the strategy is given."""
    replayed: int = 0
    """Groups of earlier steps that each step trains on besides, once there are so many."""
    round_steps: int = 5
    learning_rate: float = 5e-5
    warmup_steps: int = 6
    budget_tokens: int = 24_000
    marks: int = MARKS
    """How often it is judged, at equal shares of the budget."""

    @property
    def reads_scores(self) -> bool:
        """Whether a scoring pass is charged, by the rule of `gaincurate compare`."""
        return ComparedArm(
            name=self.name,
            strategy=self.strategy,
            by=self.by,
            ascending=self.ascending,
            options=self.options,
        ).needs_scores


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt, their advantages `[G]` and, once trained on, their log-probabilities
    `[tokens]` under the policy that generated them.
    """

    prompt: list[int]
    completions: list[list[int]]
    advantages: Floats
    behaviour: Tensor | None = None


class Training:
    """One arm with one seed.

    Args:
        world: with the prompts and the model.
        arm: the settings.
        seed: of everything random; no two arms share random numbers.
    """

    def __init__(self, world: World, arm: Arm, seed: int) -> None:
        number = int(digest_json([arm.name, seed])[:7], 16)
        self.world, self.arm = world, arm
        self.policy = world.policy()
        self._random = torch.Generator().manual_seed(number)
        self._draws = np.random.default_rng(number)
        self.chooser = Chooser(
            world,
            arm.strategy,
            arm.options,
            arm.by,
            arm.ascending,
            arm.step_prompts * arm.round_steps,
            number,
            arm.stratify,
        )
        if arm.history:
            self.chooser.history = earlier(world, arm)
        self.outcomes = np.zeros((2, len(world.rows)))
        """Right and wrong rollouts of each prompt so far."""
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=arm.learning_rate, betas=BETAS, weight_decay=0.0, fused=True
        )
        self.tokens = self.scoring = 0
        if arm.reads_scores:
            prompt_tokens = world.scored.take(world.rows).column("gc_prompt_tokens").to_numpy()
            self.tokens = self.scoring = round(int(prompt_tokens.sum()) * PREFILL_WEIGHT)
        self.steps: list[Row] = []
        self.drawn: Counter[int] = Counter()
        self.seconds: Counter[str] = Counter()
        self._replay: deque[Group] = deque(maxlen=CAPACITY)
        self._groups: list[Group] = []  # of the round, in its order

    def run(self) -> Row:
        """Train to the end of the budget; what the study keeps of it."""
        begun, wall = time.process_time(), time.perf_counter()
        marks = [self._judge()]
        targets = [self.arm.budget_tokens * k // self.arm.marks for k in range(1, self.arm.marks + 1)]
        for _ in self.train():
            while len(marks) <= self.arm.marks and self.tokens >= targets[len(marks) - 1]:
                marks.append(self._judge())
        return {
            **self._account(),
            "accuracy": [round(float(mark.mean()), 6) for mark in marks],
            "last": [round(p, 4) for p in marks[-1].tolist()],
            "seconds": round(time.process_time() - begun, 1),
            "wall_seconds": round(time.perf_counter() - wall, 1),
            "parts": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
        }

    def _account(self) -> Row:
        tasks = Counter(self.world.prompts.tasks[place] for place in self.drawn.elements())
        mean = {name: float(np.mean([step[name] for step in self.steps])) for name in self.steps[0]}
        return {
            "tokens": self.tokens,
            "scoring": self.scoring,
            "spent": dict(self.chooser.bill),
            "steps": len(self.steps),
            "drawn": self.drawn.total(),
            "distinct": len(self.drawn),
            "shares": {str(task): round(n / self.drawn.total(), 4) for task, n in sorted(tasks.items())},
            **{name: round(value, 4) for name, value in mean.items()},
        }

    def train(self) -> Iterator[None]:
        """Step by step, to the end of the budget."""
        size, round_ = self.arm.step_prompts, 0
        while True:
            spent = self.chooser.bill.total()
            with self._timed("choose"):
                places = self.chooser.draw(round_, self.policy)
                sizes = self.chooser.sizes(len(places), self.arm.rollouts)
            self.tokens += self.chooser.bill.total() - spent
            reused = self.chooser.reused
            wins, tokens, start = np.zeros(len(places)), np.zeros(len(places)), 0
            while start < len(places):
                # They fill the first steps by half: the policy that generated them is the newest there.
                joining, reused = reused[: size // 2], reused[size // 2 :]
                here = slice(start, start + size - len(joining))
                wins[here], tokens[here] = self._step(places[here].tolist(), sizes[here], joining)
                start = here.stop
                yield
                if self.tokens >= self.arm.budget_tokens:
                    return
            with self._timed("choose"):
                self.chooser.rolled(places, self._groups, self.policy)
                self.chooser.observe(round_, wins, sizes - wins, tokens)
            self._groups, round_ = [], round_ + 1

    def _step(self, places: list[int], sizes: Ints, reused: list[Group]) -> tuple[Floats, Floats]:
        """Generate for these prompts, and train on it and on groups that are there already.

        Returns:
            How many rollouts of each prompt were right, and their mean tokens, `[prompts]` each.
        """
        with self._timed("generate"):
            groups, wins, lengths = roll_out(self.world.prompts, self.policy, places, self._random, sizes)
        self._groups += groups
        with self._timed("train"):
            facts = self._update(groups, reused)
        self.drawn.update(places)
        self.outcomes[:, places] += [wins, sizes - wins]
        self.tokens += int(lengths.sum())
        variances = wins * (sizes - wins) / (sizes * (sizes - 1))  # of p (1 - p), without bias
        differ = (wins > 0) & (wins < sizes)
        reward = wins.sum() / sizes.sum()
        self.steps.append({"differ": differ.mean(), "variance": variances.mean(), "reward": reward, **facts})
        return wins, lengths / sizes

    def _update(self, fresh: list[Group], reused: list[Group]) -> Row:
        """One optimizer step on these groups and as many old ones as the arm replays."""
        old: list[Group] = []
        if self.arm.replayed and len(self._replay) >= self.arm.replayed:
            chosen = self._draws.choice(len(self._replay), self.arm.replayed, replace=False)
            old = [self._replay[place] for place in chosen]
        new = [group for group in fresh if group.advantages.any()]
        # Those left out have a gradient of 0, but count in the mean.
        rollouts = sum(len(group.completions) for group in [*fresh, *reused, *old])
        self.optimizer.zero_grad()
        if trained := new + reused + old:
            loss, logps = loss_of(self.policy, trained, rollouts)
            loss.backward()
            if self.arm.replayed:
                parts = logps.detach().split([sum(map(len, g.completions)) for g in trained])
                kept = zip(new, parts, strict=False)
                self._replay.extend(Group(g.prompt, g.completions, g.advantages, p) for g, p in kept)
        else:
            for weights in self.policy.parameters():
                weights.grad = torch.zeros_like(weights)
        norm = float(torch.nn.utils.clip_grad_norm_(self.policy.parameters(), CLIP))
        share = min(1.0, len(self.steps) / max(self.arm.warmup_steps, 1))  # 0 at the first step, as there
        for settings in self.optimizer.param_groups:
            settings["lr"] = self.arm.learning_rate * share
        self.optimizer.step()
        return {"grad_norm": norm, "clipped": float(norm > CLIP), "replayed": len(old), "reused": len(reused)}

    def _judge(self) -> Floats:
        with self._timed("judge"):
            bfloat16, self.policy.bfloat16 = self.policy.bfloat16, False
            accuracies = self.world.heldout.accuracies(self.policy)
            self.policy.bfloat16 = bfloat16
            return accuracies

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.seconds[part] += time.process_time() - begun


_EARLIER: dict[Any, Floats] = {}


def earlier(world: World, arm: Arm) -> Floats:
    """Outcomes of `arm.history` trainings with uniform sampling and seeds of their own, `[2, N]`."""
    key = world.folder, len(world.rows), arm.history, arm.step_prompts, arm.budget_tokens
    if key not in _EARLIER:
        uniform = Arm(
            name="earlier",
            step_prompts=arm.step_prompts,
            round_steps=arm.round_steps,
            budget_tokens=arm.budget_tokens,
        )
        trainings = [Training(world, uniform, 900 + number) for number in range(arm.history)]
        for training in trainings:
            for _ in training.train():
                pass
        _EARLIER[key] = np.sum([training.outcomes for training in trainings], axis=0)
    return _EARLIER[key]


def roll_out(
    prompts: Prompts, policy: Policy, places: list[int], random: torch.Generator, sizes: Ints | None = None
) -> tuple[list[Group], Floats, Floats]:
    """A group of rollouts for each of these prompts, of `sizes` `[prompts]` or of `GROUP`.

    Returns:
        The groups, how many rollouts of each were right, and how many tokens each has, `[prompts]` each.
    """
    asked = [prompts.tokens[place] for place in places]
    sizes = np.full(len(asked), GROUP) if sizes is None else sizes
    completions = policy.sample(asked, sizes, LONGEST, random)
    texts = prompts.tokenizer.batch_decode(completions, skip_special_tokens=True)
    golds = np.repeat([prompts.answers[place].strip() for place in places], sizes)
    rewards = np.array([said_answer(t) == gold for t, gold in zip(texts, golds, strict=True)], float)
    lengths = np.array([len(tokens) for tokens in completions], float)
    ends = np.cumsum(sizes)
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    groups = [
        Group(prompt, completions[part], rewards[part] - rewards[part].mean())
        for prompt, part in zip(asked, parts, strict=True)
    ]
    wins, tokens = np.array([[rewards[part].sum(), lengths[part].sum()] for part in parts]).T
    return groups, wins, tokens


def loss_of(policy: Policy, groups: list[Group], rollouts: int) -> tuple[Tensor, Tensor]:
    """GRPO's loss with 1/|o| per rollout, clipped around the policy that generated each, over `rollouts`.

    Returns:
        A scalar, and the log-probabilities `[tokens]` of all completions, group after group.
    """
    batch = trees([g.prompt for g in groups], [g.completions for g in groups])
    logps = policy.log_probs(batch)
    sizes = [sum(map(len, g.completions)) for g in groups]
    now = logps.detach().split(sizes)
    behaviour = torch.cat(
        [g.behaviour if g.behaviour is not None else n for g, n in zip(groups, now, strict=True)]
    )
    advantages = torch.from_numpy(np.concatenate([g.advantages for g in groups])).float()[batch.branch]
    lengths = torch.bincount(batch.branch).float()[batch.branch]
    ratios = (logps - behaviour).exp()
    gains = torch.minimum(ratios * advantages, ratios.clamp(1 - EPSILON, 1 + EPSILON) * advantages)
    return -(gains / lengths).sum() / rollouts, logps
