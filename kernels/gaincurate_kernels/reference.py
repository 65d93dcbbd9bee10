"""Angle concentration in PyTorch: takes packed hidden states and segment bounds, yields mean cosines.

The mean cosine over all pairs of two segments is the dot product of their sums of unit vectors over the
number of pairs, so no pairwise matrix is needed. Beside it, for the record and for tests, stand the
definition with its matrix in float64 and the formula of the released script. Knows nothing of prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A float32 running sum over tens of thousands of equal vectors drifts; partial sums of this many do not.
CHUNK = 512


@dataclass(frozen=True, slots=True)
class UnitSums:
    """Per segment: `sums` `[segments, hidden]` float32 (float64 for float64), the sum of its tokens'
    unit vectors; `squares` `[segments]` float64, the sum of their squared norms (1 each, 0 for a zero
    vector); `counts` `[segments]` int64.
    """

    sums: Tensor
    squares: Tensor
    counts: Tensor


@dataclass(frozen=True, slots=True)
class Concentration:
    """Per sample, `[samples]` float64; NaN where undefined: an empty question (intra), an empty question
    or prefix (inter), fewer than two question tokens (intra without the diagonal).
    """

    intra: Tensor
    inter: Tensor
    intra_offdiag: Tensor


def unit_vectors(hidden: Tensor) -> Tensor:
    """Rows of `hidden` `[tokens, hidden]` scaled to norm 1, in float32 (float64 for float64).

    Each row is divided by its largest magnitude first, so that squares neither overflow nor vanish. A
    zero vector stays zero; a row with an infinity or NaN becomes NaN.
    """
    values = hidden if hidden.dtype == torch.float64 else hidden.float()
    largest = values.abs().amax(-1, keepdim=True)
    scaled = values / torch.where(largest > 0, largest, 1)
    norms = scaled.norm(dim=-1, keepdim=True)
    return scaled / torch.where(norms == 0, 1, norms)


def segment_unit_sums(hidden: Tensor, bounds: Tensor) -> UnitSums:
    """Sum the unit vectors of each segment.

    Args:
        hidden: `[tokens, hidden]`, any floating dtype and row stride.
        bounds: `[segments, 2]` integers on any device, first row and row behind the last; segments may
            be empty and may overlap.

    Raises:
        ValueError: wrong shapes, or bounds outside `hidden`.
    """
    if hidden.dim() != 2 or bounds.dim() != 2 or bounds.shape[1] != 2:
        raise ValueError(
            f"expected hidden [tokens, hidden] and bounds [segments, 2], got {list(hidden.shape)} and "
            f"{list(bounds.shape)}"
        )
    pairs: list[tuple[int, int]] = [(int(a), int(b)) for a, b in bounds.tolist()]
    for begin, end in pairs:
        if not 0 <= begin <= end <= hidden.shape[0]:
            raise ValueError(f"segment {begin}:{end} is outside the {hidden.shape[0]} tokens")
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    sums = torch.zeros(len(pairs), hidden.shape[1], dtype=dtype, device=hidden.device)
    squares = torch.zeros(len(pairs), dtype=torch.float64, device=hidden.device)
    for row, (begin, end) in enumerate(pairs):
        if begin == end:
            continue
        # Chunks count from the segment's own start: its sum does not depend on what stands before it.
        units = unit_vectors(hidden[begin:end])
        sums[row] = torch.stack([chunk.sum(0) for chunk in torch.split(units, CHUNK)]).sum(0)
        squares[row] = units.double().square().sum()
    counts = torch.tensor([end - begin for begin, end in pairs], device=hidden.device)
    return UnitSums(sums, squares, counts)


def angle_concentration(
    question: UnitSums, prefix: UnitSums, prefix_of: Tensor | None = None
) -> Concentration:
    """GAIN-RL's C_intra and C_inter (arXiv 2506.02281), and C_intra without its diagonal.

    C_intra is the mean cosine over all ordered pairs of question tokens, each with itself included;
    C_inter over all pairs of a question and a prefix token; `intra_offdiag` leaves out the n pairs of a
    token with itself, which add (1 - c) / n to the mean c of a question of n tokens.

    Args:
        question: one segment per sample.
        prefix: one segment per sample, or shared ones with `prefix_of`.
        prefix_of: `[samples]`, the row of `prefix` for each sample.
    """
    if prefix_of is not None:
        prefix = UnitSums(*(t[prefix_of] for t in (prefix.sums, prefix.squares, prefix.counts)))
    total = question.sums.double()
    n, m = question.counts.double(), prefix.counts.double()
    own = total.square().sum(-1)
    cross = (total * prefix.sums.double()).sum(-1)
    # 0 / 0 is NaN: exactly where a mean over no pairs is asked for.
    return Concentration(
        intra=own / n.square(),
        inter=cross / (n * m),
        intra_offdiag=(own - question.squares) / torch.where(n > 1, n * (n - 1), torch.nan),
    )


def quadratic(hidden: Tensor, question: int, end: int) -> tuple[float, float, float]:
    """C_intra, C_inter and C_intra without the diagonal from the full cosine matrix, in float64.

    The definition word for word, for one sample: `hidden` is `[tokens, hidden]`, the prefix is rows 0 to
    `question`, the question rows `question` to `end`. Time and memory grow with the square of the tokens.
    """
    units = unit_vectors(hidden[:end].double())
    cosines = units @ units.T
    n = end - question
    block = cosines[question:, question:]
    inter = cosines[question:, :question]
    nan = float("nan")
    return (
        float(block.mean()) if n else nan,
        float(inter.mean()) if n and question else nan,
        float((block.sum() - block.diagonal().sum()) / (n * (n - 1))) if n > 1 else nan,
    )


def gainrl_as_published(hidden: Tensor, first: int = 110, last: int = -6, weight: float = 8) -> float:
    """The number that the released script computes; for comparison, never for scoring.

    It differs from the definition in four ways: the second index cuts rows again instead of columns, so
    a prompt of up to 2 * 110 + 6 + 6 tokens has an empty block and the result is NaN; the matrix keeps
    only what lies on or below the first superdiagonal, zeros counted; the bounds are one template's; the
    inter term counts eightfold. `hidden` is the whole prompt, `[tokens, hidden]`.
    """
    units = unit_vectors(hidden)
    cosines = (units @ units.T).tril(diagonal=1)
    rows = cosines[first:last]
    return float(rows[first:last].mean() + weight * rows[:first].mean())
