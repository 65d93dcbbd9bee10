from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gaincurate_kernels import Concentration, angle_concentration, segment_unit_sums
from gaincurate_kernels.angle import CHUNK
from gaincurate_kernels.reference import RMSNorm, normalised, quadratic, unit_vectors

LENGTHS = [1, 2, 3, 10, CHUNK - 1, CHUNK, CHUNK + 1, 1000, 4097, 32768]


def vectors(tokens: int, width: int = 48, seed: int = 0, shift: float = 0.3) -> Tensor:
    """Random rows around a common direction."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, width, generator=generator, dtype=torch.float64) + shift


def score(hidden: Tensor, question: int, end: int | None = None) -> tuple[float, float, float]:
    """Linear time: rows before `question` are the prefix."""
    end = len(hidden) if end is None else end
    found = angle_concentration(
        segment_unit_sums(hidden, torch.tensor([[question, end]])),
        segment_unit_sums(hidden, torch.tensor([[0, question]])),
    )
    return float(found.intra), float(found.inter), float(found.intra_offdiag)


def loops(hidden: Tensor, question: int) -> tuple[float, float, float]:
    """The definition, pair by pair, in Python's own floats."""
    rows = [[float(v) for v in row] for row in hidden.double()]
    norms = [math.sqrt(math.fsum(v * v for v in row)) for row in rows]

    def cosine(i: int, j: int) -> float:
        if not norms[i] or not norms[j]:
            return 0.0
        return math.fsum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / (norms[i] * norms[j])

    own, before = range(question, len(rows)), range(question)
    n, m = len(own), len(before)
    intra = math.fsum(cosine(i, j) for i in own for j in own) / n**2
    inter = math.fsum(cosine(i, j) for i in own for j in before) / (n * m) if m else math.nan
    pairs = math.fsum(cosine(i, j) for i in own for j in own if i != j)
    return intra, inter, pairs / (n * (n - 1)) if n > 1 else math.nan


@given(st.integers(0, 9), st.integers(1, 12), st.integers(1, 9), st.integers(0, 999))
def test_both_forms_equal_double_loops(prefix: int, question: int, width: int, seed: int) -> None:
    hidden = vectors(prefix + question, width, seed)
    hidden[seed % len(hidden)] *= seed % 3  # now and then a zero vector
    expected = loops(hidden, prefix)
    assert quadratic(hidden, prefix, len(hidden)) == pytest.approx(expected, abs=1e-13, nan_ok=True)
    assert score(hidden, prefix) == pytest.approx(expected, abs=1e-13, nan_ok=True)
    assert score(hidden.float(), prefix) == pytest.approx(expected, abs=2e-6, nan_ok=True)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("width", [1, 64, 576])
def test_equal_vectors_give_one_at_every_length_without_the_diagonal_too(length: int, width: int) -> None:
    row = vectors(1, width, seed=length)
    single = score(row.float().expand(length + 7, width), 7)
    exact = score(row.expand((length if width == 64 else min(length, 4097)) + 7, width), 7)
    expected = (1, 1, 1 if length > 1 else math.nan)
    assert single == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert exact == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert quadratic(row.float().expand(70, width), 7, 70) == pytest.approx((1, 1, 1), abs=1e-12)


def test_zero_vectors_count_as_tokens_and_add_nothing() -> None:
    hidden = torch.zeros(6, 4)
    assert score(hidden, 2) == (0, 0, 0)
    hidden[3] = torch.tensor([1.0, 2.0, 0.0, 0.0])
    assert score(hidden, 2) == pytest.approx((1 / 16, 0, 0), abs=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("row", [1, 4])
def test_a_row_that_is_not_finite_makes_its_segments_nan_and_no_others(bad: float, row: int) -> None:
    hidden = vectors(9).float()
    hidden[row, 3] = bad
    assert unit_vectors(hidden)[row].isnan().all()
    bounds = torch.tensor([[0, 3], [3, 6], [6, 9]])
    sums = segment_unit_sums(hidden, bounds)
    found = angle_concentration(sums, sums, torch.tensor([2, 0, 1]))
    broken = row // 3
    assert found.intra.isnan().tolist() == [k == broken for k in range(3)]
    assert found.intra_offdiag.isnan().tolist() == [k == broken for k in range(3)]
    assert found.inter.isnan().tolist() == [broken in pair for pair in ((0, 2), (1, 0), (2, 1))]


def test_the_output_of_a_norm_is_torchs() -> None:
    states, made = vectors(4).float(), torch.nn.RMSNorm(48, eps=0.5)
    assert torch.allclose(normalised(states, RMSNorm(made.weight.detach(), eps=0.5)), made(states))


@pytest.mark.parametrize("magnitude", [3e38, 1e-22, 1e-37])
def test_values_at_the_ends_of_float32_neither_overflow_nor_vanish(magnitude: float) -> None:
    hidden = (vectors(20).float() / 5).clamp(-1, 1)
    assert score(hidden * magnitude, 8) == pytest.approx(score(hidden, 8), abs=1e-5)
    assert unit_vectors(torch.full((1, 3), 1e-44)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_before_anything_is_summed(dtype: Any) -> None:
    hidden = vectors(700, 64).to(dtype)
    assert score(hidden, 100) == pytest.approx(quadratic(hidden, 100, 700), abs=1e-6)
    assert segment_unit_sums(hidden, torch.tensor([[0, 9]])).sums.dtype == torch.float32


def test_rows_may_have_any_stride_and_the_bits_are_the_same() -> None:
    wide = vectors(60, 96).float()
    view, turned = wide[:, 16:64], vectors(48, 60, seed=3).float().T
    for strided in (view, turned, wide[::2], wide.flip(0)[:, 1::2]):
        assert score(strided, 9) == score(strided.contiguous(), 9)


def test_means_over_no_pairs_are_nan() -> None:
    hidden = vectors(5)
    one = score(hidden, 4)
    assert one[0] == pytest.approx(1, abs=1e-12)
    assert math.isnan(one[2])
    assert math.isnan(score(hidden, 0)[1])
    assert all(map(math.isnan, score(hidden, 5)))
    nothing = segment_unit_sums(hidden, torch.zeros(0, 2, dtype=torch.long))
    assert [len(t) for t in (nothing.sums, nothing.zeros, nothing.counts)] == [0, 0, 0]
    assert isinstance(angle_concentration(nothing, nothing), Concentration)
