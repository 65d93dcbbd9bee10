"""What verl 0.9.1's own loss makes of replayed rows under the two settings that replay asks for, by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("verl.trainer.ppo.checkpoint_callback", reason="needs verl 0.9.1: make test-verl")

import torch
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import ActorConfig

EPSILON = 0.2  # verl adds 1e-8 to the count of tokens, hence the tolerance below
RANDOM = np.random.default_rng(5)
BEHAVIOUR, OLD, NOW = (-RANDOM.uniform(0.05, 2.0, (6, 5)) for _ in range(3))
MASK = np.arange(5) < np.array([[5], [3], [1], [4], [2], [5]])
ADVANTAGES = np.array([0.5, -0.5, 0.75, -0.25, 1.0, -1.0])[:, None] * np.ones((6, 5))


def of_verl(old: np.ndarray, weights: np.ndarray | None, *, dual_clip: float = 1e9) -> float:
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=2,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio=EPSILON,
        clip_ratio_c=dual_clip,
    )
    found, _ = get_policy_loss_fn("vanilla")(
        old_log_prob=torch.tensor(old),
        log_prob=torch.tensor(NOW),
        advantages=torch.tensor(ADVANTAGES),
        response_mask=torch.tensor(MASK, dtype=torch.float64),
        loss_agg_mode="seq-mean-token-mean",
        config=config,
        rollout_is_weights=None if weights is None else torch.tensor(weights),
    )
    return float(found)


def by_hand(centre: np.ndarray) -> float:
    """-min(r A, clip(r, (1 - eps) centre, (1 + eps) centre) A), r = pi / pi_behaviour; a mean over sequences."""
    total = 0.0
    for row in range(6):
        terms = []
        for at in range(5):
            if MASK[row, at]:
                ratio = np.exp(NOW[row, at] - BEHAVIOUR[row, at])
                low, high = (1 - EPSILON) * centre[row, at], (1 + EPSILON) * centre[row, at]
                clipped = min(max(ratio, low), high)
                terms.append(-min(ratio * ADVANTAGES[row, at], clipped * ADVANTAGES[row, at]))
        total += sum(terms) / len(terms)
    return total / 6


def test_bypass_mode_is_the_papers_loss() -> None:
    assert of_verl(BEHAVIOUR, None) == pytest.approx(by_hand(np.ones((6, 5))), rel=1e-7)


def test_token_weights_are_the_released_codes_loss() -> None:
    ratio = np.exp(OLD - BEHAVIOUR)
    assert of_verl(OLD, ratio) == pytest.approx(by_hand(ratio), rel=1e-7)
    assert abs(by_hand(ratio) - by_hand(np.ones((6, 5)))) > 0.01  # the two differ


def test_verls_third_clip_is_in_neither() -> None:
    """Which is why the docs say to set `clip_ratio_c` high."""
    assert of_verl(BEHAVIOUR, None, dual_clip=3.0) != pytest.approx(by_hand(np.ones((6, 5))), rel=1e-6)
