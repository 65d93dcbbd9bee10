"""The Triton kernels against float64: in Triton's interpreter, or on the GPU where there is one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gaincurate_kernels import RMSNorm, UnitSums, angle_concentration, segment_unit_sums
from gaincurate_kernels.launch import CHUNK, _aligned, plan_chunks
from gaincurate_kernels.reference import quadratic

pytestmark = [
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),  # numpy, where a GPU is silent
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning"),
    pytest.mark.usefixtures("poisoned"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HIDDEN = [64, 100, 576, 896, 1536, 2050, 3584, 8192, 16384]


def states(tokens: int, hidden: int, dtype: Any = torch.float32, seed: int = 0) -> Tensor:
    """Random rows around a common direction."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(tokens, hidden, generator=generator) + 0.3).to(dtype).to(DEVICE)


def weights(hidden: int, dtype: Any = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(hidden, generator=generator).to(dtype).to(DEVICE)


def triton_sums(hidden: Tensor, bounds: list[tuple[int, int]], **options: Any) -> UnitSums:
    return segment_unit_sums(
        hidden, torch.tensor(bounds, dtype=torch.int64).reshape(-1, 2), backend="triton", **options
    )


def exact_sums(
    hidden: Tensor, bounds: list[tuple[int, int]], norm: RMSNorm | None = None
) -> tuple[Tensor, Tensor]:
    """Sums of unit vectors and means in float64, written for this test."""
    rows = hidden.cpu().double()
    if norm is not None:
        scale = torch.rsqrt((rows * rows).mean(1, keepdim=True) + norm.eps)
        rows = rows * scale * (norm.weight.cpu().double() + norm.offset)
    lengths = (rows * rows).sum(1, keepdim=True).sqrt()
    units = torch.where(lengths > 0, rows / lengths, 0)
    return (
        torch.stack([units[a:b].sum(0) for a, b in bounds]),
        torch.stack([rows[a:b].mean(0) for a, b in bounds]),
    )


def assert_right(
    found: UnitSums, hidden: Tensor, bounds: list[tuple[int, int]], norm: RMSNorm | None = None
) -> None:
    sums, means = exact_sums(hidden, bounds, norm)
    counts = torch.tensor([b - a for a, b in bounds])
    assert found.counts.cpu().tolist() == counts.tolist()
    assert ((found.sums.cpu().double() - sums).abs().amax(1) <= 2e-6 * counts.clamp(min=1)).all()
    if found.means is not None:
        empty = counts == 0
        assert found.means.cpu()[empty].isnan().all()
        gap = (found.means.cpu().double() - means)[~empty].norm(dim=1)
        assert (gap <= 1e-5 * means[~empty].norm(dim=1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_sums_and_means_equal_float64_at_every_width_and_dtype(hidden: int, dtype: Any) -> None:
    long = CHUNK + 2 if hidden <= 896 else 9
    bounds = [(0, 1), (1, 4), (4, 4), (2, 2 + long)]
    rows = states(long + 2, hidden, dtype)
    assert_right(triton_sums(rows, bounds), rows, bounds)
    assert_right(triton_sums(rows, bounds, means=True), rows, bounds)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("hidden", [64, 100, 896, 3584, 8192])
def test_a_fused_norm_gives_the_directions_and_means_of_its_output(
    hidden: int, offset: float, dtype: Any
) -> None:
    rows, bounds = states(8, hidden, dtype), [(0, 3), (3, 3), (3, 8)]
    rows[5] *= 1e-3  # where eps counts
    norm = RMSNorm(weights(hidden, dtype), offset, eps=1e-5)
    assert_right(triton_sums(rows, bounds, norm=norm), rows, bounds, norm)
    assert_right(triton_sums(rows, bounds, norm=norm, means=True), rows, bounds, norm)


def test_the_norms_weight_may_have_another_dtype_than_the_states() -> None:
    rows, bounds = states(6, 96, torch.bfloat16), [(0, 6)]
    norm = RMSNorm(weights(96), offset=1.0)
    assert_right(triton_sums(rows, bounds, norm=norm, means=True), rows, bounds, norm)


@pytest.mark.parametrize("tokens", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 16 * CHUNK + 5, 32768])
def test_sums_hold_at_every_length(tokens: int) -> None:
    rows, bounds = states(tokens, 64, torch.bfloat16), [(0, tokens)]
    assert_right(triton_sums(rows, bounds, means=True), rows, bounds)


@pytest.mark.parametrize("tokens", [1, 300, 4096, 32768])
def test_equal_vectors_give_one(tokens: int) -> None:
    sums = triton_sums(states(1, 64).expand(tokens, 64), [(0, tokens)])
    found = angle_concentration(sums, sums, backend="triton")
    expected = (1, 1, 1 if tokens > 1 else math.nan)
    got = (float(found.intra), float(found.inter), float(found.intra_offdiag))
    assert got == pytest.approx(expected, abs=1e-6, nan_ok=True)


SHAPES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(shapes=SHAPES, hidden=st.sampled_from([64, 72, 100]), seed=st.integers(0, 99))
def test_concentrations_equal_the_full_cosine_matrix(
    shapes: list[tuple[int, int]], hidden: int, seed: int
) -> None:
    rows = states(sum(p + q for p, q in shapes), hidden, torch.bfloat16, seed)
    rows[seed % 7 :: 7] = 0
    questions, prefixes, expected, start = [], [], [], 0
    for prefix, question in shapes:
        middle, end = start + prefix, start + prefix + question
        prefixes.append((start, middle))
        questions.append((middle, end))
        expected.append(quadratic(rows[start:end].cpu(), prefix, prefix + question))
        start = end
    count = len(shapes)
    sums = triton_sums(rows, questions + prefixes)
    found = angle_concentration(sums.rows(0, count), sums.rows(count, 2 * count), backend="triton")
    for row, terms in enumerate(expected):
        got = tuple(float(t[row]) for t in (found.intra, found.inter, found.intra_offdiag))
        assert got == pytest.approx(terms, abs=2e-6, nan_ok=True)


def test_views_of_every_other_segment_are_read_as_they_are() -> None:
    rows = states(40, 96)
    both = triton_sums(rows, [(0, 10), (10, 12), (12, 20), (20, 39)])
    odd, even = (UnitSums(both.sums[i::2], both.counts[i::2], both.zeros[i::2]) for i in (1, 0))
    which = torch.tensor([1, 7, 0, 7])[::2]
    for choice in (None, which):
        a = angle_concentration(odd, even, choice, backend="triton")
        b = angle_concentration(odd, even, choice, backend="torch")
        for name in ("intra", "inter", "intra_offdiag"):
            assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-12, rtol=0)


def test_undefined_numbers_are_written_too(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    def poison(*shape: Any, **options: Any) -> Tensor:
        made = empty(*shape, **options)
        return made.fill_(1e30 if made.is_floating_point() else 77)

    monkeypatch.setattr(torch, "empty", poison)
    rows = states(5, 64)
    sums = triton_sums(rows, [(0, 0), (1, 2), (0, 5)], means=True)
    assert sums.means is not None
    assert sums.means.isnan().all(1).tolist() == [True, False, False]
    found = angle_concentration(sums, sums, backend="triton")
    assert found.intra.isnan().tolist() == [True, False, False]
    assert found.inter.isnan().tolist() == [True, False, False]
    assert found.intra_offdiag.isnan().tolist() == [True, True, False]
    assert sums.zeros.tolist() == [0, 0, 0]


def test_alignment_and_stride_do_not_choose_the_code() -> None:
    wide = torch.zeros(9, 100)
    assert _aligned(wide[:, :64]).data_ptr() == wide.data_ptr()
    for view in (wide[:, 1:65], torch.zeros(64, 9).T, torch.zeros(9, 97)[:, :64]):
        found = _aligned(view)
        assert found.data_ptr() % 16 == 0
        assert found.stride(1) == 1
        assert found.stride(0) * 4 % 16 == 0
        assert torch.equal(found, view)


def test_a_shared_prefix_is_summed_once_and_named_by_its_row() -> None:
    rows = states(40, 96)
    questions = triton_sums(rows, [(10, 20), (20, 30), (30, 40)])
    shared = triton_sums(rows, [(0, 4), (4, 10)])
    own = triton_sums(rows, [(4, 10), (0, 4), (4, 10)])
    which = torch.tensor([1, 0, 1])
    a = angle_concentration(questions, shared, which, backend="triton")
    b = angle_concentration(questions, own, backend="triton")
    c = angle_concentration(questions, shared, which.to(DEVICE), backend="torch")
    for name in ("intra", "inter", "intra_offdiag"):
        assert torch.equal(getattr(a, name), getattr(b, name))
        assert torch.allclose(getattr(a, name), getattr(c, name), atol=1e-12, rtol=0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("hidden", "dtype"),
    [(72, torch.float32), (100, torch.float16), (100, torch.bfloat16), (576, torch.bfloat16)],
)
def test_a_sample_has_the_same_bits_alone_and_packed_anywhere(hidden: int, fused: bool, dtype: Any) -> None:
    rows = states(700, hidden, dtype)
    options: dict[str, Any] = {"means": True}
    if fused:
        options["norm"] = RMSNorm(weights(hidden, dtype), offset=1.0)
    for begin, end in [(0, 3), (101, 101 + CHUNK), (37, 37 + 2 * CHUNK + 9)]:
        alone = triton_sums(rows[begin:end].clone(), [(0, end - begin)], **options)
        packed = triton_sums(rows, [(0, 700), (begin, end), (5, 5)], **options)
        assert alone.means is not None
        assert packed.means is not None
        assert torch.equal(alone.sums[0], packed.sums[1])
        assert torch.equal(alone.means[0], packed.means[1])
        assert torch.equal(
            *(
                angle_concentration(s, s, backend="triton").intra
                for s in (alone.rows(0, 1), packed.rows(1, 2))
            )
        )


def strided(kind: str, rows: Tensor) -> Tensor:
    tokens, hidden = rows.shape
    wide = torch.zeros(2 * tokens, hidden + 24, dtype=rows.dtype, device=rows.device)
    views = {
        "padded": wide[:tokens, 8 : 8 + hidden],  # rows still begin at multiples of 16 bytes
        "skewed": wide[:tokens, 3 : 3 + hidden],
        "skipped": wide[::2, :hidden],
        "turned": torch.zeros(hidden, tokens, dtype=rows.dtype, device=rows.device).T,
    }
    return views[kind].copy_(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden", [64, 100])
@pytest.mark.parametrize("kind", ["padded", "skewed", "skipped", "turned"])
def test_rows_may_lie_anyhow_in_memory_and_the_bits_are_the_same(kind: str, hidden: int, dtype: Any) -> None:
    rows = states(50, hidden, dtype)
    bounds = [(0, 50), (7, 19)]
    view = strided(kind, rows)
    assert not view.is_contiguous()
    norm = RMSNorm(weights(hidden + 1, dtype)[1:])
    for fused, means in ((None, False), (norm, True)):
        found = triton_sums(view, bounds, norm=fused, means=means)
        assert torch.equal(found.sums, triton_sums(rows, bounds, norm=fused, means=means).sums)
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
    assert torch.equal(
        triton_sums(rows, bounds).sums, triton_sums(near, [(a - far, b - far) for a, b in bounds]).sums
    )


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
    assert_right(triton_sums(rows, [(0, 9)], means=True), rows, [(0, 9)])


@pytest.mark.parametrize("norm", [1e-18, 1e18])
def test_a_fused_norm_holds_for_states_of_any_size(norm: float) -> None:
    rows = states(5, 64) * (norm / 8)
    fused = RMSNorm(weights(64), eps=1e-6)
    assert_right(triton_sums(rows, [(0, 5)], norm=fused, means=True), rows, [(0, 5)], fused)


def test_denormal_float32_rows_keep_a_finite_direction() -> None:
    rows = torch.zeros(2, 64, device=DEVICE)
    rows[0, 3], rows[1, 4] = 1e-44, -1e-39
    found = triton_sums(rows, [(0, 2)])
    assert found.sums.isfinite().all()
    assert found.zeros.tolist() == [0]


def test_the_smallest_float16_has_a_direction() -> None:
    rows = torch.zeros(1, 64, dtype=torch.float16, device=DEVICE)
    rows[0, 7] = -6e-8
    found = triton_sums(rows, [(0, 1)])
    assert float(found.sums[0, 7]) == pytest.approx(-1)
    assert float(found.sums.abs().sum()) == pytest.approx(1)


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
def test_a_row_that_is_not_finite_makes_its_segment_nan_and_no_other(
    row: int, bad: float, fused: bool
) -> None:
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
    empty = triton_sums(rows[:0], [(0, 0)], means=True)
    assert not empty.sums.any()
    assert empty.zeros.tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5 * CHUNK), max_size=8), st.integers(0, 9))
def test_chunks_cover_every_segment_once_in_order(lengths: list[int], gap: int) -> None:
    begins = [gap + sum(lengths[:i]) for i in range(len(lengths))]
    bounds = torch.tensor([[b, b + n] for b, n in zip(begins, lengths, strict=True)], dtype=torch.int64)
    bounds = bounds.reshape(-1, 2)
    chunks, splits, rows = plan_chunks(bounds)
    joined = {row: [(row, n)] for row, n in enumerate(lengths)}
    for row, first, count, tokens in splits.tolist():
        assert tokens == lengths[row] > CHUNK
        joined[row] = [(first + k, 1) for k in range(count)]
    outputs = [output for parts in joined.values() for output, _ in parts]
    assert len(set(outputs)) == len(outputs)
    assert sorted({*outputs, *range(len(lengths))}) == list(range(rows))
    by_output = {output: (begin, n, divisor) for begin, n, output, divisor in chunks.tolist()}
    assert len(by_output) == len(chunks)
    for row, parts in joined.items():
        at = begins[row]
        for output, divisor in parts:
            begin, n, found = by_output[output]
            assert (begin, found) == (at, divisor)
            assert n <= CHUNK
            at += n
        assert at == begins[row] + lengths[row]
