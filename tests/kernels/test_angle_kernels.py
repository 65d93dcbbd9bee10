"""The Triton kernels against float64: in Triton's interpreter, or on the GPU where there is one."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gaincurate_kernels import RMSNorm, angle_concentration, launch, segment_unit_sums
from gaincurate_kernels.launch import CHUNK
from gaincurate_kernels.reference import quadratic
from triton_sums import DEVICE, DTYPES, INTERPRETED, assert_right, states, triton_sums, weights

pytestmark = INTERPRETED
HIDDEN = [64, 100, 576, 896, 1536, 2050, 3584, 8192, 16384]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_sums_equal_float64_at_every_width_and_dtype(hidden: int, dtype: Any) -> None:
    long = CHUNK + 2 if hidden <= 896 else 9
    bounds = [(0, 1), (1, 4), (4, 4), (2, 2 + long)]
    rows = states(long + 2, hidden, dtype)
    assert_right(triton_sums(rows, bounds), rows, bounds)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("hidden", [64, 100, 896, 3584, 8192])
def test_a_fused_norm_gives_its_outputs_directions(hidden: int, offset: float, dtype: Any) -> None:
    rows, bounds = states(8, hidden, dtype), [(0, 3), (3, 3), (3, 8)]
    rows[5] *= 1e-3  # where eps counts
    norm = RMSNorm(weights(hidden, dtype), offset, eps=1e-5)
    assert_right(triton_sums(rows, bounds, norm=norm), rows, bounds, norm)
    plain = segment_unit_sums(rows, torch.tensor(bounds), norm=norm, backend="torch")
    assert_right(plain, rows, bounds, norm)


WIDTHS = [64, 100, 896, *(pytest.param(width, marks=pytest.mark.slow) for width in (3584, 8192))]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("hidden", WIDTHS)
def test_either_axis_of_a_tile_may_hold_rows(hidden: int, axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "ROWS_AXIS", axis)  # by Triton's version, of which there is one here
    rows, bounds = states(41, hidden, torch.bfloat16), [(0, 3), (3, 3), (3, 41)]
    rows[20] = 0
    norm = RMSNorm(weights(hidden), offset=1.0, eps=1e-5)
    assert_right(triton_sums(rows, bounds), rows, bounds)
    assert_right(triton_sums(rows, bounds, norm=norm), rows, bounds, norm)


def test_the_norms_weight_may_have_another_dtype_than_the_states() -> None:
    rows, bounds = states(6, 96, torch.bfloat16), [(0, 6)]
    norm = RMSNorm(weights(96), offset=1.0)
    assert_right(triton_sums(rows, bounds, norm=norm), rows, bounds, norm)


@pytest.mark.parametrize(
    "tokens", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 16 * CHUNK + 5, pytest.param(32768, marks=pytest.mark.slow)]
)
def test_sums_hold_at_every_length(tokens: int) -> None:
    rows, bounds = states(tokens, 64, torch.bfloat16), [(0, tokens)]
    assert_right(triton_sums(rows, bounds), rows, bounds)


SHAPES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=4)


@settings(max_examples=25)
@given(shapes=SHAPES, hidden=st.sampled_from([64, 72, 100]), seed=st.integers(0, 99))
def test_scores_equal_the_full_cosine_matrix(shapes: list[tuple[int, int]], hidden: int, seed: int) -> None:
    rows = states(sum(p + q for p, q in shapes), hidden, torch.bfloat16, seed)
    rows[seed % 7 :: 7] = 0
    ends = list(accumulate(prefix + question for prefix, question in shapes))
    questions = [(end - question, end) for end, (_, question) in zip(ends, shapes, strict=True)]
    prefixes = [(end - sum(shape), end - shape[1]) for end, shape in zip(ends, shapes, strict=True)]
    sums, count = triton_sums(rows, questions + prefixes), len(shapes)
    found = angle_concentration(sums.rows(0, count), sums.rows(count, 2 * count), backend="triton")
    for row, (prefix, question) in enumerate(shapes):
        expected = quadratic(rows[prefixes[row][0] : ends[row]].cpu(), prefix, prefix + question)
        got = tuple(float(t[row]) for t in (found.intra, found.inter, found.intra_offdiag))
        assert got == pytest.approx(expected, abs=2e-6, nan_ok=True)


def test_a_shared_prefix_is_summed_once_and_named_by_its_row() -> None:
    rows = states(40, 96)
    questions = triton_sums(rows, [(10, 20), (20, 30), (30, 40)])
    shared = triton_sums(rows, [(0, 4), (4, 10)])
    own = triton_sums(rows, [(4, 10), (0, 4), (4, 10)])
    which = torch.tensor([1, 0, 1])
    a = angle_concentration(questions, shared, which, backend="triton")
    b = angle_concentration(questions, own, backend="triton")
    c = angle_concentration(questions, shared, which.to(DEVICE), backend="torch")
    d = angle_concentration(questions, own, backend="torch")
    for name in ("intra", "inter", "intra_offdiag"):
        assert torch.equal(getattr(a, name), getattr(b, name))
        assert torch.equal(getattr(c, name), getattr(d, name))
        assert torch.allclose(getattr(a, name), getattr(c, name), atol=1e-12, rtol=0)


SLOW = [(100, torch.float16), (100, torch.bfloat16), (576, torch.bfloat16)]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("hidden", "dtype"),
    [(72, torch.float32), *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)],
)
def test_a_sample_has_the_same_bits_alone_and_packed_anywhere(hidden: int, fused: bool, dtype: Any) -> None:
    rows = states(700, hidden, dtype)
    norm = RMSNorm(weights(hidden, dtype), offset=1.0) if fused else None
    for begin, end in [(0, 3), (101, 101 + CHUNK), (37, 37 + 2 * CHUNK + 9)]:
        alone = triton_sums(rows[begin:end].clone(), [(0, end - begin)], norm=norm)
        packed = triton_sums(rows, [(0, 700), (begin, end), (5, 5)], norm=norm).rows(1, 2)
        assert torch.equal(alone.sums, packed.sums)
        a, b = (angle_concentration(s, s, backend="triton").intra for s in (alone, packed))
        assert torch.equal(a, b)
