"""TRL's own loss, given the log-probs of the policy that generated, against the paper's formula in plain loops."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
trl = pytest.importorskip("trl")

import accelerate  # noqa: E402
import torch  # noqa: E402

from replay_run import loss_by_hand  # noqa: E402

ROWS, LENGTH = 5, 6


def batch(seed: int, drift: float) -> dict[str, Any]:
    """Log-probs of the policy that generated, and of one that drifted away from it; ragged completions."""
    chance = random.Random(seed)
    behaviour = [[-chance.expovariate(1.0) for _ in range(LENGTH)] for _ in range(ROWS)]
    lengths = [chance.randint(1, LENGTH) for _ in range(ROWS)]
    return {
        "logps": [[min(0.0, value + chance.gauss(0, drift)) for value in row] for row in behaviour],
        "behaviour": behaviour,
        "advantages": [chance.gauss(0, 1) for _ in range(ROWS)],
        "mask": [[int(place < size) for place in range(LENGTH)] for size in lengths],
    }


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo"])
@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_trls_own_loss_is_the_papers_gradient_included(loss_type: str, drift: float) -> None:
    """The gradient by differences of the plain loops, which share nothing with autograd."""
    made = batch(11, drift)
    given = {name: torch.tensor(values, dtype=torch.float64) for name, values in made.items()}
    logps = given["logps"].requires_grad_(True)
    inputs = {
        "prompt_ids": torch.zeros(ROWS, 1, dtype=torch.long),
        "prompt_mask": torch.ones(ROWS, 1, dtype=torch.long),
        "completion_ids": torch.zeros(ROWS, LENGTH, dtype=torch.long),
        "completion_mask": given["mask"],
        "num_items_in_batch": given["mask"].sum(),
        "advantages": given["advantages"],
        "old_per_token_logps": given["behaviour"],
    }
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **options: (logps, torch.zeros(ROWS, LENGTH), None),
        model=SimpleNamespace(training=True),
        accelerator=accelerate.Accelerator(cpu=True),
        args=SimpleNamespace(delta=None, steps_per_generation=1),
        _metrics={"train": defaultdict(list)},
        current_gradient_accumulation_steps=1,
        loss_type=loss_type,
        importance_sampling_level="token",
        epsilon_low=0.2,
        epsilon_high=0.2,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        beta=0.0,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
    )
    found = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    found.backward()
    assert logps.grad is not None
    by_token = loss_type != "grpo"
    assert found.item() == pytest.approx(loss_by_hand(**made, by_token=by_token), rel=1e-9, abs=1e-12)
    step, clipped = 1e-6, 0
    for row, place in product(range(ROWS), range(LENGTH)):
        moved = []
        for sign in (1, -1):
            near = [list(values) for values in made["logps"]]
            near[row][place] += sign * step
            moved.append(loss_by_hand(**{**made, "logps": near}, by_token=by_token))
        slope = (moved[0] - moved[1]) / (2 * step)
        assert logps.grad[row, place].item() == pytest.approx(slope, abs=1e-7)
        clipped += slope == 0 and bool(made["mask"][row][place])
    assert (clipped > 2) == (drift > 0)  # some tokens are clipped where the policy drifted
