"""The loss of rollout replay against plain loops in float64, and differences; TRL's own: test_trl_replay.py."""

from __future__ import annotations

import math
import random
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.errors import InputError
from gaincurate.trainers.replay_loss import anchored_advantages, group_advantages, replay_loss

Rows = list[list[float]]
OPTIONS = list(product(("one", "old"), ("sequence", "token")))


def by_hand(
    logps: Rows,
    behaviour: Rows,
    old: Rows,
    advantages: list[float],
    mask: list[list[int]],
    *,
    clip: str,
    mean: str,
    low: float = 0.2,
    high: float = 0.2,
) -> float:
    """The formula, token by token, with Python's floats."""
    rows, tokens = [], []
    for one, mu, before, advantage, counts in zip(logps, behaviour, old, advantages, mask, strict=True):
        row = []
        for here, there, then, counted in zip(one, mu, before, counts, strict=True):
            if not counted:
                continue
            ratio = math.exp(here - there)
            centre = 1.0 if clip == "one" else math.exp(then - there)
            bounded = min(max(ratio, centre * (1 - low)), centre * (1 + high))
            row.append(-min(ratio * advantage, bounded * advantage))
        rows.append(sum(row) / len(row) if row else 0.0)
        tokens.extend(row)
    return sum(rows) / len(rows) if mean == "sequence" else sum(tokens) / max(len(tokens), 1)


def batch(seed: int, rows: int = 5, length: int = 6, fresh: int = 0) -> dict[str, Any]:
    """Log-probs of three policies that drifted apart; the first `fresh` rows have pi_old = pi_behaviour."""
    chance = random.Random(seed)
    behaviour = [[-chance.expovariate(1.0) for _ in range(length)] for _ in range(rows)]
    old = [[min(0.0, value + chance.gauss(0, 0.4)) for value in row] for row in behaviour]
    old[:fresh] = [list(row) for row in behaviour[:fresh]]
    logps = [[min(0.0, value + chance.gauss(0, 0.3)) for value in row] for row in old]
    lengths = [chance.randint(1, length) for _ in range(rows)]
    return {
        "logps": logps,
        "behaviour": behaviour,
        "old": old,
        "advantages": [chance.gauss(0, 1) for _ in range(rows)],
        "mask": [[int(place < size) for place in range(length)] for size in lengths],
    }


def tensors(made: dict[str, Any], kind: Any = None) -> dict[str, Any]:
    kind = kind or torch.float64
    found = {name: torch.tensor(values, dtype=kind) for name, values in made.items()}
    found["logps"].requires_grad_(True)
    return found


def loss_of(made: dict[str, Any], **options: Any) -> Any:
    given = (made[name] for name in ("logps", "behaviour", "advantages", "mask"))
    return replay_loss(*given, old_logps=made["old"], **options)


@given(st.integers(0, 10**6), st.sampled_from(OPTIONS), st.floats(0.05, 0.5), st.floats(0.05, 0.9))
def test_the_loss_is_the_formula(seed: int, names: tuple[str, str], low: float, high: float) -> None:
    clip, mean = names
    made = batch(seed)
    found = loss_of(tensors(made), clip=clip, mean=mean, epsilon=low, epsilon_high=high)
    expected = by_hand(**made, clip=clip, mean=mean, low=low, high=high)
    assert found.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("clip", "mean"), OPTIONS)
def test_the_gradient_is_that_of_the_formula(clip: str, mean: str) -> None:
    """By differences of the plain loops, which share nothing with autograd."""
    made = batch(11)
    given = tensors(made)
    loss_of(given, clip=clip, mean=mean).backward()
    step = 1e-6
    seen = 0
    for row, place in product(range(5), range(6)):
        moved = []
        for sign in (1, -1):
            logps = [list(values) for values in made["logps"]]
            logps[row][place] += sign * step
            moved.append(by_hand(**{**made, "logps": logps}, clip=clip, mean=mean))
        slope = (moved[0] - moved[1]) / (2 * step)
        assert given["logps"].grad[row, place].item() == pytest.approx(slope, abs=1e-7)
        seen += slope != 0
    assert seen > 5  # some tokens are clipped, and not all


@given(st.integers(0, 10**6), st.sampled_from(["sequence", "token"]))
def test_on_fresh_rollouts_both_clips_are_grpo_gradient_included(seed: int, mean: str) -> None:
    made = batch(seed, fresh=5)
    found = []
    for clip in ("one", "old"):
        given = tensors(made)
        loss = loss_of(given, clip=clip, mean=mean)
        loss.backward()
        found.append((loss.item(), given["logps"].grad))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    plain = tensors(made)  # GRPO as textbooks have it
    ratio = torch.exp(plain["logps"] - plain["old"])
    advantage = plain["advantages"][:, None]
    token = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage) * plain["mask"]
    over = plain["mask"].sum(-1)
    loss = (token.sum(-1) / over).mean() if mean == "sequence" else token.sum() / over.sum()
    loss.backward()
    assert found[0][0] == pytest.approx(loss.item(), rel=1e-12, abs=1e-15)
    assert torch.allclose(found[0][1], plain["logps"].grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("mean", ["sequence", "token"])
@given(seed=st.integers(0, 10**6))
def test_anchored_advantages_make_a_trainers_loss_the_one_with_the_clip_on_old(seed: int, mean: Any) -> None:
    made = tensors(batch(seed, fresh=2))
    weights = anchored_advantages(made["advantages"], made["old"], made["behaviour"], made["mask"])
    ratio = torch.exp(made["logps"] - made["old"])
    token = -torch.minimum(ratio * weights, ratio.clamp(0.8, 1.2) * weights)
    token, over = token * made["mask"], made["mask"].sum(-1)
    theirs = (token.sum(-1) / over).mean() if mean == "sequence" else token.sum() / over.sum()
    theirs.backward()
    again = tensors(batch(seed, fresh=2))
    ours = loss_of(again, clip="old", mean=mean)
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12, abs=1e-14)
    assert torch.allclose(made["logps"].grad, again["logps"].grad, rtol=1e-10, atol=1e-14)


def test_what_the_mask_leaves_out_does_nothing_whatever_lies_there() -> None:
    made = tensors(batch(3))
    made["mask"][0] = 0  # a rollout that was cut off
    whole = loss_of(made)
    whole.backward()
    dirty = tensors(batch(3))
    dirty["mask"][0] = 0
    gone = dirty["mask"] == 0
    dirty["behaviour"][gone] = -math.inf
    dirty["old"][gone] = math.nan
    for clip in ("one", "old"):
        found = loss_of(dirty, clip=clip)
        assert torch.isfinite(found)
    found = loss_of(dirty)
    found.backward()
    assert found.item() == whole.item()
    assert torch.equal(dirty["logps"].grad, made["logps"].grad)
    assert (dirty["logps"].grad[gone] == 0).all()
    assert replay_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1), torch.zeros(1, 2)).item() == 0


def test_advantages_are_centred_in_their_group_and_divided_if_asked() -> None:
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)
    plain = group_advantages(rewards)
    assert plain.tolist() == [[0.75, -0.25, -0.25, -0.25], [0.5, 0.5, -0.5, -0.5], [0, 0, 0, 0]]
    scaled = group_advantages(rewards, scale="std")
    std = math.sqrt((0.75**2 + 3 * 0.25**2) / 3)
    assert scaled[0, 0].item() == pytest.approx(0.75 / (std + 1e-6))
    assert (scaled[2] == 0).all()
    assert group_advantages(rewards[0]).tolist() == plain[0].tolist()


def test_what_is_not_there_is_refused() -> None:
    one: Any = torch.zeros(1, 1)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"clip": "two"}, r"^clip='two' is unknown; it must be one of one, old\.$"),
        ({"mean": "batch"}, r"^mean='batch' is unknown; it must be one of sequence, token\.$"),
        ({"clip": "old"}, r"^clip=\"old\" is centred on pi_old / pi_behaviour: give old_logps"),
    ]
    for options, sentence in refused:
        with pytest.raises(InputError, match=sentence):
            replay_loss(one, one, one[0], one, **options)
    with pytest.raises(InputError, match=r"^scale='batch' is unknown; it must be one of none, std\.$"):
        group_advantages(one, scale="batch")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^a group of one rollout has no advantage; give two or more"):
        group_advantages(one)
