"""Inputs and outputs of the angle functions, unit vectors, and the definition that they are tested against.

The definition is a matrix of all pairs in float64. The formula of the released script is here for the record.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Squares of a row outside these norms may overflow or vanish in float32.
_PLAIN_NORMS = (1e-15, 1e15)


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """An RMS norm that was not applied: y = x / sqrt(mean(x^2) + eps) * (weight + offset).

    `weight` is `[hidden]`; `offset` is 1 for models that learn the weight's difference from 1 (Gemma). A
    division by a number does not change a direction, so unit(y) = unit(x * (weight + offset)).
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
    """Per sample, `[samples]` float64; NaN if undefined: an empty question (intra), an empty question or
    prefix (inter), fewer than two question tokens (intra without the diagonal).
    """

    intra: Tensor
    inter: Tensor
    intra_offdiag: Tensor


def inverse_norms(values: Tensor) -> Tensor:
    """1 / |x| of each row of `values` `[tokens, hidden]`; 0 for a zero vector, NaN if it is not finite.

    Rows of a very large or small norm are divided by their largest magnitude before they are squared.
    """
    norms = torch.linalg.vector_norm(values, dim=-1)
    odd = ~((norms > _PLAIN_NORMS[0]) & (norms < _PLAIN_NORMS[1]))
    inverse: Tensor = 1 / norms
    if odd.any():
        rows = values[odd]
        largest = rows.abs().amax(-1)
        scaled = rows / torch.where(largest > 0, largest, 1)[:, None]
        norm = torch.linalg.vector_norm(scaled, dim=-1)
        # In two steps, because the inverse of a denormal number overflows.
        exact = torch.where(norm > 0, (1 / norm) / largest, 0).clamp(max=torch.finfo(values.dtype).max)
        inverse[odd] = torch.where(norm.isfinite() & largest.isfinite(), exact, torch.nan)
    return inverse


def unit_vectors(hidden: Tensor) -> Tensor:
    """Rows of `hidden` `[tokens, hidden]` scaled to norm 1, in float32 (float64 for float64).

    A zero vector stays zero; a row with an infinity or NaN becomes NaN.
    """
    values = hidden if hidden.dtype == torch.float64 else hidden.float()
    units: Tensor = values * inverse_norms(values)[:, None]
    return units


def normalised(hidden: Tensor, norm: RMSNorm) -> Tensor:
    """The output of a norm, in float32 (float64 for float64), without the rounding of a narrower dtype."""
    values = hidden if hidden.dtype == torch.float64 else hidden.float()
    # float64: the square of a large float32 does not fit into one.
    rms = (values.double().square().mean(-1, keepdim=True) + norm.eps).sqrt()
    return (weighted(values, norm) / torch.where(rms > 0, rms, 1)).to(values.dtype)


def weighted(values: Tensor, norm: RMSNorm) -> Tensor:
    """The output of a norm without its division by the root mean square; directions are the same."""
    return values * (norm.weight.to(values.dtype) + norm.offset)


def quadratic(hidden: Tensor, question: int, end: int) -> tuple[float, float, float]:
    """C_intra, C_inter and C_intra without the diagonal from the full cosine matrix, in float64.

    The literal definition, for one sample: `hidden` is `[tokens, hidden]`, the prefix is rows 0 to
    `question`, and the question rows `question` to `end`. Time and memory are quadratic in the tokens.
    """
    units = unit_vectors(hidden[:end].double())
    cosines = units @ units.T
    n = end - question
    block = cosines[question:, question:]
    inter = cosines[question:, :question]
    offdiagonal = (block.sum() - block.diagonal().sum()) / (n * (n - 1))
    return float(block.mean()), float(inter.mean()), float(offdiagonal)  # NaN without any pair


def gainrl_as_published(hidden: Tensor, first: int = 110, last: int = -6, weight: float = 8) -> float:
    """The number that the released script computes; for comparison, never for scoring.

    It differs from the definition in four ways. The second index selects rows again instead of columns, so a
    prompt of up to 2 * 110 + 6 + 6 tokens has an empty block and the result is NaN. The matrix is zero above
    the first superdiagonal, and its zeros count. The bounds are those of one template. The inter term has a
    weight of 8. `hidden` is the whole prompt, `[tokens, hidden]`.
    """
    units = unit_vectors(hidden)
    cosines = (units @ units.T).tril(diagonal=1)
    rows = cosines[first:last]
    return float(rows[first:last].mean() + weight * rows[:first].mean())
