"""Sampling a token for each row: takes logits and uniform numbers, yields tokens and their log-probabilities.

A token is drawn by inverting the distribution function, in float64. Knows no model.
"""

from __future__ import annotations

import torch
import transformers

RULE = "inverse-cdf/1"
LOGPROBS = "of the distribution sampled from: after temperature and top-p"
_LIKELY = 1024  # tokens among which the nucleus mostly is


class Sampler(transformers.LogitsProcessor):
    """Draws a token for each row and leaves the others no chance, so that a greedy search takes it.

    Args:
        noise: `[rows, max tokens]`, float64, uniform inside (0, 1).
        temperature: the logits are divided by it.
        top_p: the smallest set of most probable tokens that reaches this mass is drawn from.
    """

    def __init__(self, noise: torch.Tensor, temperature: float, top_p: float) -> None:
        self._noise, self._temperature, self._top_p = noise, temperature, top_p
        self.logprobs: list[torch.Tensor] = []
        """For each step, of the drawn tokens: `[rows]`, float64."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores `[rows, vocabulary]` with 0 at the drawn token and minus infinity elsewhere."""
        chances = torch.softmax(scores.double() / self._temperature, -1)
        if self._top_p < 1:
            chances = nucleus(chances, self._top_p)
            chances /= chances.sum(-1, keepdim=True)
        mass = chances.cumsum(-1)
        whole = mass[:, -1:].contiguous()
        drawn = torch.searchsorted(mass, self._noise[:, len(self.logprobs), None] * whole, right=True)
        # Rounding must not carry the draw behind the last token that has any mass.
        drawn = torch.minimum(drawn, torch.searchsorted(mass, whole)).clamp_max(mass.shape[-1] - 1)
        self.logprobs.append(chances.gather(-1, drawn)[:, 0].log())
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn, 0.0)


def nucleus(chances: torch.Tensor, top_p: float) -> torch.Tensor:
    """`chances` `[rows, vocabulary]`, 0 outside the fewest most probable tokens that reach `top_p`.

    Of equally probable tokens the first come first. The vocabulary is sorted only where it must be: that
    would take longer than all else about a draw.
    """
    best = chances.topk(min(_LIKELY, chances.shape[-1]), -1).values
    if (best.sum(-1) < top_p).any():
        best = chances.sort(dim=-1, descending=True).values
    count = (best.cumsum(-1) - best < top_p).sum(-1, keepdim=True)
    border = best.gather(-1, count - 1)
    above, equal = chances > border, chances == border
    room = count - above.sum(-1, keepdim=True)
    if (equal.sum(-1, keepdim=True) > room).any():
        equal &= equal.cumsum(-1) <= room
    return torch.where(above | equal, chances, 0.0)
