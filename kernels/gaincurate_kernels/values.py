"""Inputs and outputs of the angle functions, independent of the computation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """An RMS norm that was not applied yet: y = x / sqrt(mean(x^2) + eps) * (weight + offset).

    `weight` is `[hidden]`; `offset` is 1 for models that learn the weight's distance from 1 (Gemma). The
    scaling by the root mean square does not change a direction, so unit(y) = unit(x * (weight + offset)).
    """

    weight: Tensor
    offset: float = 0.0
    eps: float = 1e-6


@dataclass(frozen=True, slots=True)
class UnitSums:
    """Sums over segments, one row each.

    `sums` `[segments, hidden]`, the sum of the tokens' unit vectors; `counts` `[segments]` int64, tokens;
    `zeros` `[segments]` int32, how many of them are zero vectors, whose unit vector is 0. Sums are float32,
    or float64 for float64 states.
    """

    sums: Tensor
    counts: Tensor
    zeros: Tensor

    def rows(self, start: int, stop: int) -> UnitSums:
        """The segments `start` to `stop`, as views."""
        return UnitSums(self.sums[start:stop], self.counts[start:stop], self.zeros[start:stop])


@dataclass(frozen=True, slots=True)
class Concentration:
    """Per sample, `[samples]` float64; NaN where undefined: an empty question (intra), an empty question
    or prefix (inter), fewer than two question tokens (intra without the diagonal).
    """

    intra: Tensor
    inter: Tensor
    intra_offdiag: Tensor
