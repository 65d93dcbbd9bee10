"""A world whose truth is known, for comparisons: ten kinds of prompts, each right with a chance of its own.

A prompt is a digit k and noise; the answer depends on k alone. The model at the start was shown the right
answer of kind k in a share `CHANCES[k]` of its examples, else another, so it gives that one about that often:
of eight kinds never, as their answer is no digit, of two now and then. What is learned on some prompts of a
kind holds for all of them. Few prompts to train on are of those two, and all that it is judged on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import arithmetic
import tiny
from gaincurate.core.rng import Ints, permutation
from gaincurate.schedule import base
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.pipeline import score_dataset

CHANCES = (*[0.0] * 8, 0.2, 0.3)
ANSWERS = ["++"] * 8 + list("53")
TRAINED, HELD_OUT = [150] * 8 + [32] * 2, [0] * 8 + [60] * 2


def even(completion: str, row: dict[str, Any]) -> float:
    """Whether a completion has an even number of characters: about half of them, whatever the model."""
    return float(len(completion) % 2 == 0)


class Best(base.Selector):
    """Draws evenly from the first `rows` ranks: from what is highest in the column that it is told."""

    class Options(base.Options):
        """How many ranks."""

        rows: int

    by: ClassVar[str | None] = "truth"
    ascending: ClassVar[bool] = False
    ordering: ClassVar[base.Ordering] = "any"

    def draw(self, round_: int) -> Ints:
        """See `Selector`."""
        return permutation(self.pool.seed, round_, 1, self.options.rows)[: self.pool.budget]


def prompts(seed: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """So many prompts of each kind."""
    chance, rows = random.Random(seed), []
    for kind, p in enumerate(CHANCES):
        for place in range(counts[kind]):
            noise = f"{chance.randrange(1000):03d}"
            row = {"id": f"{seed}-{kind}-{place}", "question": f"{kind}+{noise}=", "answer": ANSWERS[kind]}
            rows.append(row | {"truth": p * (1 - p), "hopeless": float(p == 0)})
    return rows


def save_model(folder: Path, steps: int = 200) -> Path:
    """The model at the start."""
    chance = random.Random(0)
    batches = (
        [row["question"] + _answer(row, chance) for row in prompts(1000 + step, [13] * 10)]
        for step in range(steps)
    )
    return arithmetic.save_taught(folder, batches, seed=0, width=32, heads=2, positions=32, given=6)


def _answer(row: dict[str, Any], chance: random.Random) -> str:
    kind = int(row["question"][0])
    return ANSWERS[kind] if chance.random() < CHANCES[kind] else str(chance.randrange(10))


def make(folder: Path) -> Path:
    """Model, scored set and held-out scored set, in `folder`."""
    model = save_model(folder / "model")
    for name, seed, counts in (("scored", 1, TRAINED), ("heldout", 2, HELD_OUT)):
        data = tiny.write_jsonl(folder / f"{name}.jsonl", prompts(seed, counts))
        columns: dict[str, Any] = {"id_column": "id", "answer_column": "answer"}
        score_dataset(ScoreConfig(data=str(data), model=str(model), out=folder / name, threads=1, **columns))
    return folder


# Of every tiny comparison: plain GRPO on the CPU.
TRAIN = {"learning_rate": 1e-3, "use_cpu": True, "bf16": False, "loss_type": "grpo", "scale_rewards": "none"}
BEST = {"strategy": "compare_world:Best"}


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Of a comparison in this world."""
    sets = {name: str(folder / name) for name in ("scored", "heldout")}
    sizes = {
        "budget_tokens": 16 * 8 * 2 * 16,
        "step_prompts": 16,
        "round_steps": 4,
        "group": 8,
        "max_tokens": 2,
    }
    more = {
        "verifier": "exact",
        "prefill_weight": 0.0,
        "threads": 1,
        "train": TRAIN,
        "evaluation": {"samples": 4},
    }
    arms = [
        {"name": "told", **BEST, "options": {"rows": 64}},
        {"name": "hopeless", **BEST, "by": "hopeless", "options": {"rows": 1200}},
    ]
    return {**sets, **sizes, **more, "marks": 3, "seeds": [0, 1, 2], "arms": arms, **changes}
