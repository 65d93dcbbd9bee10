from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gaincurate_kernels import Concentration, angle_concentration, segment_unit_sums
from gaincurate_kernels.reference import CHUNK, quadratic, unit_vectors

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


@given(
    prefix=st.integers(0, 9), question=st.integers(1, 12), width=st.integers(1, 9), seed=st.integers(0, 999)
)
def test_linear_and_quadratic_forms_equal_double_loops(
    prefix: int, question: int, width: int, seed: int
) -> None:
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
    exact = score(row.expand(min(length, 4097) + 7, width), 7)
    expected = (1, 1, 1 if length > 1 else math.nan)
    assert single == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert exact == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert quadratic(row.float().expand(70, width), 7, 70) == pytest.approx((1, 1, 1), abs=1e-12)


def test_equal_vectors_in_float64_stay_within_1e_12_at_the_greatest_length() -> None:
    assert score(vectors(1, 64).expand(32768, 64), 5) == pytest.approx((1, 1, 1), abs=1e-12)


@pytest.mark.parametrize("factor", [1e-18, 1e-9, 0.3, 7.0, 1e9, 1e18])
def test_scaling_every_vector_by_one_factor_changes_nothing(factor: float) -> None:
    hidden = vectors(60).float()
    assert score(hidden * factor, 20) == pytest.approx(score(hidden, 20), abs=1e-6)


def test_scaling_each_vector_by_a_factor_of_its_own_changes_nothing() -> None:
    hidden = vectors(60).float()
    factors = torch.logspace(-18, 18, 60)[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    assert score(hidden * factors[:, None], 20) == pytest.approx(score(hidden, 20), abs=1e-6)
    powers = torch.exp2(torch.arange(60) % 41 - 20.0)[:, None]  # exact in binary, so bit for bit
    assert score(hidden * powers, 20) == score(hidden, 20)


def test_a_negative_factor_does_change_it() -> None:
    hidden = vectors(60).float()
    hidden[30] *= -1
    assert score(hidden, 20)[0] != pytest.approx(score(vectors(60).float(), 20)[0], abs=1e-4)


def test_rotation_of_the_space_and_order_of_tokens_change_nothing() -> None:
    hidden = vectors(60)
    rotation, _ = torch.linalg.qr(vectors(48, 48, seed=5, shift=0.0))
    expected = score(hidden, 20)
    assert score(hidden @ rotation, 20) == pytest.approx(expected, abs=1e-12)
    order = torch.cat([torch.randperm(20), 20 + torch.randperm(40)])
    assert score(hidden[order], 20) == pytest.approx(expected, abs=1e-12)


def test_opposite_and_orthogonal_vectors_have_their_closed_forms() -> None:
    eye = torch.eye(8)
    assert score(eye, 3) == pytest.approx((1 / 5, 0, 0), abs=1e-7)
    row = vectors(1).float()
    assert score(torch.cat([row, -row, row, -row]), 2) == pytest.approx((0, 0, -1), abs=1e-6)


def test_the_mean_with_diagonal_is_the_mean_without_plus_its_length_bias() -> None:
    intra, _, offdiag = score(vectors(50), 10)
    assert intra == pytest.approx(offdiag + (1 - offdiag) / 40, abs=1e-12)


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


@pytest.mark.parametrize("magnitude", [3e38, 1e-37])
def test_values_at_the_ends_of_float32_neither_overflow_nor_vanish(magnitude: float) -> None:
    hidden = (vectors(20).float() / 5).clamp(-1, 1)
    assert score(hidden * magnitude, 8) == pytest.approx(score(hidden, 8), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_before_anything_is_summed(dtype: Any) -> None:
    hidden = vectors(700, 64).to(dtype)
    assert score(hidden, 100) == pytest.approx(quadratic(hidden, 100, 700), abs=1e-6)
    assert segment_unit_sums(hidden, torch.tensor([[0, 9]])).sums.dtype == torch.float32


def test_rows_may_have_any_stride() -> None:
    wide = vectors(60, 96).float()
    view, turned = wide[:, 16:64], vectors(48, 60, seed=3).float().T
    for strided in (view, turned, wide[::2], wide.flip(0)[:, 1::2]):
        assert score(strided, 9) == pytest.approx(score(strided.contiguous(), 9), abs=1e-6)


def test_a_segments_sum_does_not_depend_on_what_stands_around_it() -> None:
    hidden = vectors(3000).float()
    alone = segment_unit_sums(hidden[700:2300].clone(), torch.tensor([[0, 1600]]))
    inside = segment_unit_sums(hidden, torch.tensor([[0, 3000], [700, 2300], [5, 5]]))
    assert torch.equal(alone.sums[0], inside.sums[1])
    assert torch.equal(alone.zeros[0], inside.zeros[1])
    assert inside.counts.tolist() == [3000, 1600, 0]


def test_shared_prefixes_give_what_own_prefixes_give() -> None:
    hidden = vectors(40).float()
    questions = segment_unit_sums(hidden, torch.tensor([[10, 20], [20, 30], [30, 40]]))
    shared = segment_unit_sums(hidden, torch.tensor([[0, 4], [4, 10]]))
    own = segment_unit_sums(hidden, torch.tensor([[4, 10], [0, 4], [4, 10]]))
    a = angle_concentration(questions, shared, torch.tensor([1, 0, 1]))
    b = angle_concentration(questions, own)
    for name in ("intra", "inter", "intra_offdiag"):
        assert torch.equal(getattr(a, name), getattr(b, name))


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


@pytest.mark.parametrize("bounds", [[[-1, 2]], [[0, 6]], [[3, 2]], [[0, 1, 2]], [0, 1]])
def test_bounds_that_fit_no_rows_are_refused(bounds: Any) -> None:
    with pytest.raises(ValueError, match=r"is outside the 5 tokens|expected hidden"):
        segment_unit_sums(vectors(5), torch.tensor(bounds))


def test_numpys_cosine_matrix_agrees_on_many_tokens() -> None:
    hidden = vectors(900, 32)
    units = hidden.numpy() / np.linalg.norm(hidden.numpy(), axis=1, keepdims=True)
    cosines = units @ units.T
    expected = (cosines[200:, 200:].mean(), cosines[200:, :200].mean())
    assert score(hidden.float(), 200)[:2] == pytest.approx(expected, abs=1e-6)
