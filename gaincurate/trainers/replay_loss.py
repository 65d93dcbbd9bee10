"""The loss of rollout replay: GRPO's loss on fresh and stored rollouts, from log-probs of three policies.

They are the policy that is trained, pi; the behaviour policy that generated a rollout, pi_behaviour; and the
policy before this step's updates, pi_old. On fresh rollouts, the last two are equal. Tensors are padded.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from gaincurate.errors import InputError

Clip = Literal["one", "old"]
"""The centre of the clip: `one` is 1, as in the paper on DOTS and rollout replay (arXiv 2506.05316); `old` is
pi_old / pi_behaviour, as in the code released with it."""
Scale = Literal["none", "std"]
"""The divisor of advantages: none, as in the paper; the group's standard deviation, as in the code."""
Mean = Literal["sequence", "token"]
"""The average of the tokens' losses: first within each rollout, 1/|o_i|, as in the paper; over all tokens at
once, as in the code."""

STD_FLOOR = 1e-6  # added to the standard deviation, as in the released code; TRL adds 1e-4


def group_advantages(rewards: torch.Tensor, *, scale: Scale = "none") -> torch.Tensor:
    """The advantages of rollouts: reward minus the group's mean reward, scaled.

    Args:
        rewards: `[..., G]`, one group in the last dimension.
        scale: see `Scale`; the standard deviation has Bessel's correction.

    Returns:
        `[..., G]`, of the same dtype.

    Raises:
        InputError: the scale is unknown, or a group has one rollout.
    """
    _check_choice(scale, Scale, "scale")
    if rewards.shape[-1] < 2:
        raise InputError("a group of one rollout has no advantage; give two or more.")
    centred = rewards - rewards.mean(-1, keepdim=True)
    if scale == "none":
        return centred
    return centred / (rewards.std(-1, keepdim=True) + STD_FLOOR)


def importance_ratios(logps: torch.Tensor, behaviour_logps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """pi(token) / pi_behaviour(token), `[rollouts, tokens]`; 1 where the mask is 0, also for NaN.

    Args:
        logps: `[rollouts, tokens]`, natural logarithms, of the policy that is trained.
        behaviour_logps: `[rollouts, tokens]`, as stored; at the same temperature.
        mask: `[rollouts, tokens]`, 1 where a token counts.
    """
    difference = torch.where(mask.bool(), logps - behaviour_logps, torch.zeros_like(logps))
    return difference.exp()


def anchored_advantages(
    advantages: torch.Tensor, old_logps: torch.Tensor, behaviour_logps: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Advantages by token with which a loss that clips pi / pi_old around 1 equals that with `clip="old"`.

    With r = pi / pi_behaviour and r_old = pi_old / pi_behaviour, min(r A, clip(r, r_old (1 - e),
    r_old (1 + e)) A) is r_old times the trainer's own term in pi / pi_old, so its loss needs no change.

    Args:
        advantages: `[rollouts]`.
        old_logps: `[rollouts, tokens]`, of the policy before this step's updates.
        behaviour_logps: `[rollouts, tokens]`.
        mask: `[rollouts, tokens]`.

    Returns:
        `[rollouts, tokens]`.
    """
    return advantages.unsqueeze(-1) * importance_ratios(old_logps, behaviour_logps, mask).detach()


def replay_loss(
    logps: torch.Tensor,
    behaviour_logps: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip: Clip = "one",
    old_logps: torch.Tensor | None = None,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    mean: Mean = "sequence",
) -> torch.Tensor:
    """GRPO's clipped loss with ratios r = pi / pi_behaviour (arXiv 2506.05316, section 2.2).

    The mean of -min(r A, clip(r, c (1 - epsilon), c (1 + epsilon_high)) A), where `Clip` is the centre c.

    Args:
        logps: `[rollouts, tokens]`, natural logarithms, with a gradient.
        behaviour_logps: `[rollouts, tokens]`, as stored.
        advantages: `[rollouts]`.
        mask: `[rollouts, tokens]`, 1 where a token counts. A rollout without tokens counts as 0 in the mean.
        clip: see `Clip`.
        old_logps: `[rollouts, tokens]`; required for `clip="old"`.
        epsilon: the clip range below the centre, relative to it.
        epsilon_high: the clip range above the centre; default: `epsilon`.
        mean: see `Mean`.

    Returns:
        The loss, a scalar to minimise.

    Raises:
        InputError: an option has an unknown value, or `clip="old"` comes without `old_logps`.
    """
    _check_choice(clip, Clip, "clip")
    _check_choice(mean, Mean, "mean")
    ratios = importance_ratios(logps, behaviour_logps, mask)
    centre = torch.ones_like(ratios)
    if clip == "old":
        if old_logps is None:
            raise InputError('clip="old" is centred on pi_old / pi_behaviour: give old_logps.')
        centre = importance_ratios(old_logps, behaviour_logps, mask).detach()
    high = epsilon if epsilon_high is None else epsilon_high
    clipped = torch.minimum(torch.maximum(ratios, centre * (1 - epsilon)), centre * (1 + high))
    weights = advantages.unsqueeze(-1)
    losses = -torch.minimum(ratios * weights, clipped * weights)
    counted = torch.where(mask.bool(), losses, torch.zeros_like(losses))
    if mean == "token":
        return counted.sum() / mask.sum().clamp(min=1)
    return (counted.sum(-1) / mask.sum(-1).clamp(min=1)).mean()


def _check_choice(value: str, names: object, option: str) -> None:
    choices = get_args(names)
    if value not in choices:
        raise InputError(f"{option}={value!r} is unknown; it must be one of {', '.join(choices)}.")
