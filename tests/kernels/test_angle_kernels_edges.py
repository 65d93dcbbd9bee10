"""The Triton kernels where memory or numbers are unusual: any layout, far addresses, tiny and huge norms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gaincurate_kernels import RMSNorm, UnitSums, angle_concentration
from gaincurate_kernels.launch import CHUNK, plan_chunks
from triton_sums import DEVICE, DTYPES, INTERPRETED, assert_right, states, triton_sums, weights

pytestmark = INTERPRETED


def test_views_of_every_other_segment_are_read_as_they_are() -> None:
    rows = states(40, 96)
    rows[30] = 0
    both = triton_sums(rows, [(0, 10), (10, 12), (12, 20), (20, 39)])
    odd, even = (UnitSums(both.sums[i::2], both.counts[i::2], both.zeros[i::2]) for i in (1, 0))
    which = torch.tensor([1, 7, 0, 7])[::2]
    for choice in (None, which):
        a = angle_concentration(odd, even, choice, backend="triton")
        b = angle_concentration(odd, even, choice, backend="torch")
        for name in ("intra", "inter", "intra_offdiag"):
            assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-12, rtol=0)


def test_undefined_numbers_are_written_too(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty  # which `poisoned` fills with NaN, and NaN is what has to be written here
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: empty(*shape, **options).fill_(77))
    rows = states(5, 64)
    sums = triton_sums(rows, [(0, 0), (1, 2), (0, 5)])
    found = angle_concentration(sums, sums, backend="triton")
    assert found.intra.isnan().tolist() == [True, False, False]
    assert found.inter.isnan().tolist() == [True, False, False]
    assert found.intra_offdiag.isnan().tolist() == [True, True, False]
    assert sums.zeros.tolist() == [0, 0, 0]


def strided(kind: str, rows: Tensor) -> Tensor:
    tokens, hidden = rows.shape
    wide = torch.zeros(tokens, hidden + 24, dtype=rows.dtype, device=rows.device)
    views = {
        "padded": wide[:, 8 : 8 + hidden],  # rows still begin at multiples of 16 bytes
        "skewed": wide[:, 3 : 3 + hidden],
        "ragged": torch.zeros(tokens, hidden + 3, dtype=rows.dtype, device=rows.device)[:, :hidden],
        "turned": torch.zeros(hidden, tokens, dtype=rows.dtype, device=rows.device).T,
    }
    return views[kind].copy_(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden", [64, 100])
@pytest.mark.parametrize("kind", ["padded", "skewed", "ragged", "turned"])
def test_rows_may_lie_anyhow_in_memory_and_the_bits_are_the_same(kind: str, hidden: int, dtype: Any) -> None:
    rows = states(50, hidden, dtype)
    bounds = [(0, 50), (7, 19)]
    view = strided(kind, rows)
    assert not view.is_contiguous()
    norm = RMSNorm(weights(hidden + 1, dtype)[1:])
    for fused in (None, norm):
        found = triton_sums(view, bounds, norm=fused)
        assert torch.equal(found.sums, triton_sums(rows, bounds, norm=fused).sums)
        assert_right(found, rows, bounds, fused)


def test_addresses_past_two_to_the_31_elements_are_reached(tmp_path: Path) -> None:
    hidden, far = 64, 2**31 // 64 + 5
    size = (far + 40) * hidden
    if DEVICE == "cpu":  # a file with a hole in it: what is never touched takes neither disk nor memory
        whole = torch.from_file(str(tmp_path / "hole"), shared=True, size=size, dtype=torch.bfloat16)
    else:
        whole = torch.zeros(size, dtype=torch.bfloat16, device=DEVICE)
    rows = whole.view(-1, hidden)
    rows[far:] = states(40, hidden, torch.bfloat16)
    bounds = [(far, far + 1), (far + 1, far + 40)]
    near = rows[far:].clone()
    expected = triton_sums(near, [(a - far, b - far) for a, b in bounds]).sums
    assert torch.equal(triton_sums(rows, bounds).sums, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", [1e-18, 1e-9, 1.0, 1e4, 1e18])
def test_norms_of_any_size_hold(norm: float, dtype: Any) -> None:
    if dtype == torch.float16 and not 1e-4 < norm < 1e5:
        pytest.skip("float16 does not hold it")
    units = states(9, 64)
    units /= units.norm(dim=1, keepdim=True)
    rows = (units * norm).to(dtype)
    assert rows.isfinite().all()
    assert (rows != 0).any(1).all()
    assert_right(triton_sums(rows, [(0, 9)]), rows, [(0, 9)])


@pytest.mark.parametrize("norm", [1e-18, 1e18])
def test_a_fused_norm_holds_for_states_of_any_size(norm: float) -> None:
    rows = states(5, 64) * (norm / 8)
    fused = RMSNorm(weights(64), eps=1e-6)
    assert_right(triton_sums(rows, [(0, 5)], norm=fused), rows, [(0, 5)], fused)


def test_rows_at_the_ends_of_float32_keep_a_finite_direction() -> None:
    rows = torch.zeros(3, 64, device=DEVICE)
    rows[0, 3], rows[1, 4], rows[2, 5] = 1e-44, -1e-39, 3e38
    found = triton_sums(rows, [(0, 3)])
    assert found.sums.isfinite().all()
    assert found.zeros.tolist() == [0]


@pytest.mark.parametrize("fused", [False, True])
def test_zero_vectors_add_nothing_and_are_counted_in_every_chunk(fused: bool) -> None:
    rows = states(3 * CHUNK, 64)
    rows[[0, CHUNK, CHUNK + 1, 3 * CHUNK - 1]] = 0
    norm = RMSNorm(weights(64)) if fused else None
    bounds = [(0, 3 * CHUNK), (1, CHUNK), (CHUNK, CHUNK + 2), (4, 4)]
    found = triton_sums(rows, bounds, norm=norm)
    assert found.zeros.tolist() == [4, 0, 2, 0]
    assert not found.sums[2:].any()
    assert_right(found, rows, bounds, norm)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("row", [1, CHUNK + 3])
def test_a_row_that_is_not_finite_makes_only_its_segment_nan(row: int, bad: float, fused: bool) -> None:
    rows = states(2 * CHUNK, 64)
    rows[row, 5] = bad
    bounds = [(0, CHUNK), (CHUNK, 2 * CHUNK), (0, 2 * CHUNK)]
    sums = triton_sums(rows, bounds, norm=RMSNorm(weights(64)) if fused else None)
    broken = [row < CHUNK, row >= CHUNK, True]
    assert sums.sums.isnan().all(1).tolist() == broken
    assert angle_concentration(sums, sums, backend="triton").intra.isnan().tolist() == broken


def test_no_segments_and_no_tokens_give_empty_and_zero_rows() -> None:
    rows = states(5, 64)
    nothing = triton_sums(rows, [])
    assert nothing.sums.shape == (0, 64)
    assert len(angle_concentration(nothing, nothing, backend="triton").intra) == 0
    empty = triton_sums(rows[:0], [(0, 0)])
    assert not empty.sums.any()
    assert empty.zeros.tolist() == [0]


@given(st.lists(st.integers(0, 5 * CHUNK), max_size=8), st.integers(0, 9))
def test_chunks_cover_every_segment_once_in_order(lengths: list[int], gap: int) -> None:
    begins = [gap + sum(lengths[:i]) for i in range(len(lengths))]
    bounds = torch.tensor([(b, b + n) for b, n in zip(begins, lengths, strict=True)]).long().reshape(-1, 2)
    plan = plan_chunks(bounds, torch.device("cpu"))
    chunks, splits = plan.chunks.reshape(-1, 3), plan.splits.reshape(-1, 3)
    assert plan.counts.tolist() == lengths
    joined = {row: [row] for row in range(len(lengths))}
    for row, first, count in splits.tolist():
        assert lengths[row] > CHUNK
        joined[row] = list(range(first, first + count))
    outputs = [output for parts in joined.values() for output in parts]
    assert len(set(outputs)) == len(outputs)
    assert sorted({*outputs, *range(len(lengths))}) == list(range(plan.rows))
    by_output = {output: (begin, n) for begin, n, output in chunks.tolist()}
    assert len(by_output) == len(chunks)
    for row, parts in joined.items():
        pieces = [by_output[output] for output in parts]
        assert [begin for begin, _ in pieces] == [begins[row] + place * CHUNK for place in range(len(parts))]
        assert [n for _, n in pieces[:-1]] == [CHUNK] * (len(parts) - 1)
        assert sum(n for _, n in pieces) == lengths[row]
        assert pieces[-1][1] <= CHUNK
