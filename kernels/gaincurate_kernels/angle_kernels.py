"""The Triton kernels of the angle score: device code without checks and allocations.

The kernels write every element of the outputs that `launch` allocates. A program's sums depend only on its
rows, the hidden size and the dtype, so a sample's bits do not depend on the samples packed around it.

Names: `i_` index, `o_` offsets, `m_` mask, `p_` pointers, `b_` values in registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

# The alignment and stride of an argument must not select the code, because another layout adds in another
# order; VEC is the width of reads that `launch` guarantees.


@triton.jit
def _inverse_norm(b_x, ROWS: tl.constexpr):
    """1 / |x| of each row, `[1, BT, 1]`, or `[BT, 1, 1]` where ROWS is 0.

    0 for a zero vector, NaN for one that is not finite. A row is multiplied by a power of two, which is
    exact, so that its largest value is in [1, 4), or above 2^-23 if it is denormal: its squares neither
    overflow nor vanish.
    """
    b_max = tl.max(tl.max(tl.abs(b_x), axis=1 - ROWS, keep_dims=True), axis=2, keep_dims=True)
    b_power = tl.minimum(b_max.to(tl.int32, bitcast=True) & 0x7F800000, 0x7E800000)
    b_scale = (0x7F000000 - b_power).to(tl.float32, bitcast=True)
    b_x = b_x * b_scale
    b_square = tl.sum(tl.sum(b_x * b_x, axis=1 - ROWS, keep_dims=True), axis=2, keep_dims=True)
    b_by = tl.minimum(b_scale * tl.div_rn(1.0, tl.sqrt_rn(b_square)), 3.0e38)
    b_by = tl.where(b_square < float("inf"), b_by, float("nan"))
    return tl.where(b_square == 0.0, 0.0, b_by)


@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["x", "w"])
def unit_sums_kernel(
    x,  # [tokens, hidden], rows `stride * VEC` elements apart
    w,  # [hidden], the norm's weight (FUSED)
    sums,  # [rows, hidden] float32: segments first, then partial sums
    zeros,  # [rows] int32: how many of a row's tokens are zero vectors
    chunks,  # [programs, 3] int64: first token, tokens, row of the outputs
    stride,
    D: tl.constexpr,
    VEC: tl.constexpr,
    WVEC: tl.constexpr,
    BK: tl.constexpr,
    BT: tl.constexpr,
    BW: tl.constexpr,
    ROWS: tl.constexpr,
    FUSED: tl.constexpr,
    OFFSET: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Sum the unit vectors of one chunk of a segment; a row of hidden states is [BK, BW] in registers.

    A tile is [BK, BT, BW] if ROWS is 1, or [BT, BK, BW] if it is 0, so that this version of Triton spreads
    warps over rows first: a thread then holds the same columns of every group, and short rows are reduced
    inside one warp.
    """
    i_c = tl.program_id(0).to(tl.int64)
    bos = tl.load(chunks + 3 * i_c)
    n = tl.load(chunks + 3 * i_c + 1).to(tl.int32)
    i_row = tl.load(chunks + 3 * i_c + 2)

    if ROWS == 1:
        o_d = (tl.arange(0, BK) * BW)[:, None, None] + tl.arange(0, BW)[None, None, :]
        o_t = tl.arange(0, BT)[None, :, None]
    else:
        o_d = (tl.arange(0, BK) * BW)[None, :, None] + tl.arange(0, BW)[None, None, :]
        o_t = tl.arange(0, BT)[:, None, None]
    m_d = o_d < D
    o_tile = tl.zeros_like(o_d + o_t)
    b_sum = o_tile.to(tl.float32)
    b_zeros = tl.zeros_like(o_t)
    if FUSED:
        # As wide as a tile of states; otherwise its layout would spread each row over all warps.
        o_w = o_d + o_tile
        p_w = tl.multiple_of(w + o_w, [1, 1, WVEC * w.dtype.element_ty.primitive_bitwidth // 8])
        b_w = tl.load(p_w, mask=m_d, other=0.0).to(tl.float32) + OFFSET

    for i_t in tl.range(0, n, BT, num_stages=STAGES):
        m_t = i_t + o_t < n
        o_x = (bos + i_t + o_t).to(tl.int64) * (stride.to(tl.int64) * VEC) + o_d
        p_x = tl.multiple_of(x + o_x, [1, 1, VEC * x.dtype.element_ty.primitive_bitwidth // 8])
        b_x = tl.load(p_x, mask=m_t & m_d, other=0.0).to(tl.float32)
        if FUSED:
            b_x *= b_w
        b_norm = _inverse_norm(b_x, ROWS)
        b_sum += b_x * b_norm
        b_zeros += (m_t & (b_norm == 0.0)).to(tl.int32)

    o_out = i_row * D + o_d
    b_sum = tl.sum(b_sum, axis=ROWS, keep_dims=True)
    tl.store(sums + o_out, b_sum, mask=m_d)
    tl.store(zeros + i_row, tl.sum(b_zeros))


@triton.jit
def join_chunks_kernel(
    sums,  # as above
    zeros,
    splits,  # [segments of several chunks, 3] int64: row, first partial row, partial rows
    D: tl.constexpr,
    BC: tl.constexpr,
    BD: tl.constexpr,
):
    """Add the partial sums of a segment that was split, in the order of its chunks."""
    i_s, i_d = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i_row = tl.load(splits + 3 * i_s)
    first = tl.load(splits + 3 * i_s + 1)
    count = tl.load(splits + 3 * i_s + 2).to(tl.int32)
    o_d = i_d * BD + tl.arange(0, BD)
    o_c = tl.arange(0, BC)
    b_sum = tl.zeros([BD], dtype=tl.float32)
    b_zeros = tl.zeros([BC], dtype=tl.int32)
    for i_c in range(0, count, BC):
        m_c = i_c + o_c < count
        m_p = m_c[:, None] & (o_d < D)[None, :]
        o_p = (first + i_c + o_c)[:, None] * D + o_d[None, :]
        b_sum += tl.sum(tl.load(sums + o_p, mask=m_p, other=0.0), axis=0)
        b_zeros += tl.load(zeros + first + i_c + o_c, mask=m_c, other=0)
    tl.store(sums + i_row * D + o_d, b_sum, mask=o_d < D)
    if i_d == 0:
        tl.store(zeros + i_row, tl.sum(b_zeros, axis=0))


@triton.jit(
    do_not_specialize_on_alignment=["question", "prefix", "prefix_of", "tokens", "prefix_tokens", "zeros"]
)
def concentration_kernel(
    question,  # [samples, hidden] float32
    prefix,  # [prefixes, hidden] float32
    prefix_of,  # [samples] int64 (SHARED)
    tokens,  # [samples] int64
    prefix_tokens,  # [prefixes] int64
    zeros,  # [samples] int32
    out,  # [samples, 3] float64: intra, inter, intra without the diagonal
    D: tl.constexpr,
    VEC: tl.constexpr,
    BD: tl.constexpr,
    SHARED: tl.constexpr,
):
    """The dots of one sample's sums, in float64, over its numbers of pairs."""
    i_s = tl.program_id(0).to(tl.int64)
    i_p = i_s
    if SHARED:
        i_p = tl.load(prefix_of + i_s)
    b_own = tl.zeros([BD], dtype=tl.float64)
    b_cross = tl.zeros([BD], dtype=tl.float64)
    for i_d in range(0, D, BD):
        o_d = i_d + tl.arange(0, BD)
        p_q = tl.multiple_of(question + i_s * D + o_d, VEC * 4)
        p_p = tl.multiple_of(prefix + i_p * D + o_d, VEC * 4)
        b_q = tl.load(p_q, mask=o_d < D, other=0.0).to(tl.float64)
        b_own += b_q * b_q
        b_cross += b_q * tl.load(p_p, mask=o_d < D, other=0.0).to(tl.float64)
    own, cross = tl.sum(b_own, axis=0), tl.sum(b_cross, axis=0)
    n = tl.load(tokens + i_s).to(tl.float64)
    m = tl.load(prefix_tokens + i_p).to(tl.float64)
    diagonal = n - tl.load(zeros + i_s).to(tl.float64)
    # Without pairs 0 / 0 is NaN; one token has only the pair with itself.
    pairs = tl.where(n > 1.0, n * (n - 1.0), float("nan"))
    tl.store(out + 3 * i_s, own / (n * n))
    tl.store(out + 3 * i_s + 1, cross / (n * m))
    tl.store(out + 3 * i_s + 2, (own - diagonal) / pairs)
