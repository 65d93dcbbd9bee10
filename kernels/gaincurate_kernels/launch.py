"""Prepares and launches the Triton kernels for checked tensors on a GPU.

Block sizes come from a fixed table by hidden size and are never tuned at run time: they decide the order of
additions, and a score must not depend on the machine that tuned it. This module imports triton, so it is
imported only when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from gaincurate_kernels.angle_kernels import concentration_kernel, join_chunks_kernel, unit_sums_kernel
from gaincurate_kernels.reference import Concentration, RMSNorm, UnitSums

CHUNK = 128
"""Tokens that one program sums, counted from the segment's start, so that a long sample fills the device."""


class Blocks(NamedTuple):
    """The layout of a tile of states in a program: `rows` tokens, `warps` warps, `stages` loads in flight."""

    rows: int
    warps: int
    stages: int


# By hidden size, rounded up to a power of two: 32 values in each thread, or 16 for short rows.
BLOCKS = {
    64: Blocks(rows=32, warps=4, stages=3),
    128: Blocks(rows=16, warps=4, stages=3),
    256: Blocks(rows=16, warps=4, stages=3),
    512: Blocks(rows=8, warps=4, stages=3),
    1024: Blocks(rows=4, warps=4, stages=3),
    2048: Blocks(rows=2, warps=4, stages=3),
    4096: Blocks(rows=1, warps=4, stages=3),
    8192: Blocks(rows=1, warps=8, stages=3),
    16384: Blocks(rows=1, warps=16, stages=2),
}
_DOT_COLUMNS, _JOIN_COLUMNS, _JOINED_CHUNKS = 1024, 128, 16
SMALL = {"num_warps": 4, "enable_fp_fusion": True}
_ROW_REGISTERS = 128  # of a thread, so that two programs of 8 warps fit on a multiprocessor

# The axis of a tile that holds rows: the one over which Triton spreads warps first. Until 3.6 that is the
# first axis, from 3.7 on the one before the last.
ROWS_AXIS = 0 if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7) else 1


def blocks_for(hidden: int) -> tuple[int, Blocks]:
    """The padded hidden size and its blocks."""
    padded = max(64, triton.next_power_of_2(hidden))
    return padded, BLOCKS[padded]


def compilation(
    hidden: int, itemsize: int, norm_itemsize: int = 0, offset: float = 0.0, hip: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The compile-time arguments of `unit_sums_kernel`, and the compiler's options.

    Fusing of multiply and add is set, because Triton's default differs between versions and changes bits.
    Rows that are read value by value get no limit of registers, because they need more.
    """
    padded, blocks = blocks_for(hidden)
    # A warp reads 512 bytes at once, 16 for each thread.
    width = min(padded, 512 // itemsize * max(1, blocks.warps // blocks.rows))
    constants = {
        "D": hidden,
        "VEC": _vector(hidden, itemsize),
        "WVEC": _vector(hidden, norm_itemsize),
        "BK": padded // width,
        "BT": blocks.rows,
        "BW": width,
        "ROWS": ROWS_AXIS,
        "FUSED": norm_itemsize > 0,
        "OFFSET": offset,
        "STAGES": blocks.stages,
    }
    options: dict[str, Any] = {"num_warps": blocks.warps, "enable_fp_fusion": True}
    if constants["VEC"] != 1 and not hip:
        options["maxnreg"] = _ROW_REGISTERS
    return constants, options


def join_constants(hidden: int) -> dict[str, Any]:
    """The compile-time arguments of `join_chunks_kernel`."""
    columns = min(blocks_for(hidden)[0], _JOIN_COLUMNS)
    return {"D": hidden, "BC": _JOINED_CHUNKS, "BD": columns}


def dot_constants(hidden: int, *, shared: bool) -> dict[str, Any]:
    """The compile-time arguments of `concentration_kernel`."""
    columns = min(blocks_for(hidden)[0], _DOT_COLUMNS)
    return {"D": hidden, "VEC": _vector(hidden, 4), "BD": columns, "SHARED": shared}


def _vector(hidden: int, itemsize: int) -> int:
    """The number of values in one read: 16 bytes if a row is a multiple of that, else one value."""
    return 16 // itemsize if itemsize and hidden * itemsize % 16 == 0 else 1


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """Segments split into chunks of `CHUNK` tokens; the tensors are flat and on the device.

    `chunks` `[programs, 3]`: first token, tokens, output row. `splits` `[segments of several chunks, 3]`:
    row, first partial row, partial rows. `counts` `[segments]`: tokens. `rows`: rows of the outputs,
    including partial sums. An empty segment is one empty chunk, so that its row is written.
    """

    chunks: Tensor
    splits: Tensor
    counts: Tensor
    rows: int


def plan_chunks(bounds: Tensor, device: torch.device) -> ChunkPlan:
    """Plan for bounds `[segments, 2]` int64 on the CPU, in one copy to the device."""
    segments = len(bounds)
    begins, tokens = bounds[:, 0], bounds[:, 1] - bounds[:, 0]
    pieces = ((tokens + CHUNK - 1) // CHUNK).clamp(min=1)
    segment = torch.arange(segments).repeat_interleave(pieces)
    place = torch.arange(len(segment)) - (pieces.cumsum(0) - pieces)[segment]
    split = pieces > 1
    partials = torch.where(split, pieces, 0)
    first_partial = segments + partials.cumsum(0) - partials
    chunks = torch.stack(
        [
            begins[segment] + place * CHUNK,
            (tokens[segment] - place * CHUNK).clamp(max=CHUNK),
            torch.where(split[segment], first_partial[segment] + place, segment),
        ],
        1,
    )
    splits = torch.stack([torch.arange(segments), first_partial, pieces], 1)[split]
    flat = _to_device(torch.cat([chunks.flatten(), splits.flatten(), tokens]), device)
    on_chunks, on_splits, counts = flat.split([chunks.numel(), splits.numel(), len(tokens)])
    return ChunkPlan(on_chunks, on_splits, counts, segments + int(partials.sum()))


def planned_unit_sums(hidden: Tensor, plan: ChunkPlan, norm: RMSNorm | None = None) -> UnitSums:
    """The sums of a plan, without synchronizing with the device."""
    device, width = hidden.device, hidden.shape[1]
    weight = None if norm is None else _aligned(norm.weight[None])[0]
    fused = (0, 0.0) if norm is None or weight is None else (weight.element_size(), norm.offset)
    constants, options = compilation(width, hidden.element_size(), *fused, hip=torch.version.hip is not None)
    hidden = _aligned(hidden)
    sums = torch.empty(plan.rows, width, dtype=torch.float32, device=device)
    zeros = torch.empty(plan.rows, dtype=torch.int32, device=device)
    with torch.cuda.device_of(sums):  # Triton launches on the current device
        if programs := len(plan.chunks) // 3:
            unit_sums_kernel[(programs,)](
                hidden,
                hidden if weight is None else weight,
                sums,
                zeros,
                plan.chunks,
                hidden.stride(0) // constants["VEC"],
                **constants,
                **options,
            )
        if splits := len(plan.splits) // 3:
            joins = join_constants(width)
            grid = (splits, triton.cdiv(width, joins["BD"]))
            join_chunks_kernel[grid](sums, zeros, plan.splits, **joins, **SMALL)
    segments = len(plan.counts)
    return UnitSums(sums[:segments], plan.counts, zeros[:segments])


def angle_concentration(question: UnitSums, prefix: UnitSums, prefix_of: Tensor | None) -> Concentration:
    """As `gaincurate_kernels.angle_concentration`, which checks the arguments."""
    samples, width = question.sums.shape
    out = torch.empty(samples, 3, dtype=torch.float64, device=question.sums.device)
    if samples:
        with torch.cuda.device_of(out):
            concentration_kernel[(samples,)](
                _aligned(question.sums.contiguous()),
                _aligned(prefix.sums.contiguous()),
                # The kernel reads plain pointers, so these must be contiguous.
                prefix.counts if prefix_of is None else _to_device(prefix_of.contiguous(), out.device),
                question.counts.contiguous(),
                prefix.counts.contiguous(),
                question.zeros.contiguous(),
                out,
                **dot_constants(width, shared=prefix_of is not None),
                **SMALL,
            )
    return Concentration(out[:, 0], out[:, 1], out[:, 2])


def _aligned(rows: Tensor) -> Tensor:
    """The rows, copied if their address or stride prevents reads of 16 bytes that their length allows."""
    size = rows.element_size()
    whole = rows.shape[1] * size % 16 == 0
    if rows.stride(1) == 1 and not (whole and (rows.data_ptr() % 16 or rows.stride(0) * size % 16)):
        return rows
    return rows.clone(memory_format=torch.contiguous_format)


def _to_device(plan: Tensor, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return plan
    return plan.pin_memory().to(device, non_blocking=True)
