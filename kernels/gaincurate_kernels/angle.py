"""The public functions: from packed hidden states and segment bounds to sums and mean cosines.

The mean cosine over all pairs of two segments is the dot product of their sums of unit vectors, divided by
the number of pairs, so no pairwise matrix is needed. The functions check their arguments and compute with
PyTorch or Triton. They do not depend on prompts or models.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from typing import Literal

import torch
from torch import Tensor

from gaincurate_kernels.reference import Concentration, RMSNorm, UnitSums, inverse_norms, weighted

Backend = Literal["auto", "triton", "torch"]
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TRITON_MAX_HIDDEN = 16384
# Rows of a partial sum: a running float32 sum over tens of thousands of equal vectors drifts.
CHUNK = 512


def resolve_backend(
    backend: Backend, *, device: str, hidden: int, dtype: torch.dtype
) -> Literal["triton", "torch"]:
    """Resolve `auto`: Triton on a GPU if its kernel supports the states, else PyTorch.

    `device` is the device's type, `cpu` or `cuda`, `hidden` the hidden size and `dtype` that of the states.

    Raises:
        ValueError: an unknown name, or `triton` if the kernel cannot run; the text names the reason.
    """
    if backend not in ("auto", "triton", "torch"):
        raise ValueError(f"backend {backend!r}: expected auto, triton or torch")
    if backend == "torch":
        return "torch"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    obstacle = None
    if importlib.util.find_spec("triton") is None:
        obstacle = "triton is not installed"
    elif device != "cuda" and not (interpreted and backend == "triton"):
        obstacle = f"Triton's kernels run on a GPU, and the states are on {device}"
    elif dtype not in TRITON_DTYPES:
        obstacle = f"the kernel reads float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    elif hidden > TRITON_MAX_HIDDEN:
        obstacle = f"the kernel takes hidden sizes up to {TRITON_MAX_HIDDEN}, not {hidden}"
    if obstacle is None:
        return "triton"
    if backend == "triton":
        raise ValueError(f"backend triton: {obstacle}")
    return "torch"


def triton_version() -> str | None:
    """Triton's version; None if Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:  # another package, such as pytorch-triton-rocm
        import triton

        return str(triton.__version__)


def segment_unit_sums(
    hidden: Tensor, bounds: Tensor, *, norm: RMSNorm | None = None, backend: Backend = "auto"
) -> UnitSums:
    """Sum the unit vectors of each segment (GAIN-RL, arXiv 2506.02281, in linear time: see the README).

    With Triton, and with PyTorch on a CPU, a segment's bits depend only on its rows, the dtype and the hidden
    size. Backends differ from the float64 value by at most 2e-6 times the count. No gradients.

    Args:
        hidden: `[tokens, hidden]`, any floating dtype and row stride.
        bounds: `[segments, 2]` integers, first row and row after the last; segments may be empty and may
            overlap. Bounds on a GPU are copied to the CPU, which synchronizes.
        norm: an RMS norm after `hidden` that was not applied: directions are then those of its output.
        backend: `auto` is Triton on a GPU and PyTorch elsewhere.

    Raises:
        ValueError: wrong shapes, bounds outside `hidden`, or a backend that does not support the states.
    """
    if hidden.dim() != 2 or bounds.dim() != 2 or bounds.shape[1] != 2:
        raise ValueError(
            f"expected hidden [tokens, hidden] and bounds [segments, 2], got {list(hidden.shape)} and "
            f"{list(bounds.shape)}"
        )
    if hidden.shape[1] == 0:
        raise ValueError("the states have no columns")
    if not hidden.is_floating_point() or bounds.is_floating_point():
        raise ValueError(f"expected floating states and integer bounds, got {hidden.dtype}, {bounds.dtype}")
    if norm is not None and (norm.weight.shape != hidden.shape[1:] or norm.weight.device != hidden.device):
        raise ValueError(
            f"expected a norm weight [{hidden.shape[1]}] on {hidden.device}, got "
            f"{list(norm.weight.shape)} on {norm.weight.device}"
        )
    bounds = bounds.to("cpu", torch.int64)
    wrong = (bounds[:, 0] < 0) | (bounds[:, 1] < bounds[:, 0]) | (bounds[:, 1] > hidden.shape[0])
    if wrong.any():
        begin, end = bounds[wrong][0].tolist()
        raise ValueError(f"segment {begin}:{end} is outside the {hidden.shape[0]} tokens")
    chosen = resolve_backend(backend, device=hidden.device.type, hidden=hidden.shape[1], dtype=hidden.dtype)
    if chosen == "triton":
        import gaincurate_kernels.launch as launch

        return launch.planned_unit_sums(hidden, launch.plan_chunks(bounds, hidden.device), norm)
    if hidden.stride(1) != 1:
        hidden = hidden.contiguous()  # another stride would change the order of additions
    values = hidden if hidden.dtype == torch.float64 else hidden.float()
    vectors = values if norm is None else weighted(values, norm)
    inverse = inverse_norms(vectors)
    sums = torch.zeros(len(bounds), hidden.shape[1], dtype=values.dtype, device=hidden.device)
    for row, (begin, end) in enumerate(bounds.tolist()):
        # Chunks count from the segment's start, so its sum does not depend on the rows before it.
        parts = zip(vectors[begin:end].split(CHUNK), inverse[begin:end].split(CHUNK), strict=True)
        chunks = [(part * factors[:, None]).sum(0) for part, factors in parts]
        sums[row] = chunks[0] if len(chunks) == 1 else torch.stack(chunks).sum(0)
    before = torch.nn.functional.pad((inverse == 0).cumsum(0), (1, 0))
    zeros = (before[bounds[:, 1]] - before[bounds[:, 0]]).to(torch.int32)
    return UnitSums(sums, (bounds[:, 1] - bounds[:, 0]).to(hidden.device), zeros)


def angle_concentration(
    question: UnitSums, prefix: UnitSums, prefix_of: Tensor | None = None, *, backend: Backend = "auto"
) -> Concentration:
    """GAIN-RL's C_intra and C_inter (arXiv 2506.02281), and C_intra without its diagonal.

    C_intra is the mean cosine over all ordered pairs of question tokens, including each with itself, and
    C_inter that over all pairs of a question and a prefix token. `intra_offdiag` leaves out the n pairs of a
    token with itself, which add (1 - c) / n to the mean c of a question of n tokens.

    Args:
        question: one segment per sample.
        prefix: one segment per sample, or shared ones with `prefix_of`.
        prefix_of: `[samples]` integers, the row of `prefix` for each sample, so that a prefix which many
            samples share is summed once. Integers on a GPU are copied to the CPU.
        backend: as for `segment_unit_sums`.

    Raises:
        ValueError: shapes that do not match, or a backend that does not support the sums.
    """
    samples = len(question.counts)
    if question.sums.shape[1] != prefix.sums.shape[1]:
        raise ValueError(
            f"question and prefix have {question.sums.shape[1]} and {prefix.sums.shape[1]} columns"
        )
    rows = len(prefix.counts) if prefix_of is None else len(prefix_of)
    if rows != samples:
        raise ValueError(f"{samples} questions have {rows} prefixes; expected one each, or `prefix_of`")
    if question.sums.device != prefix.sums.device:
        raise ValueError(f"question is on {question.sums.device} and prefix on {prefix.sums.device}")
    if prefix_of is not None:
        if prefix_of.dim() != 1 or prefix_of.is_floating_point():
            raise ValueError(f"expected `prefix_of` [samples] of integers, got {list(prefix_of.shape)}")
        prefix_of = prefix_of.to("cpu", torch.int64)
        if not ((prefix_of >= 0) & (prefix_of < len(prefix.counts))).all():
            raise ValueError(f"`prefix_of` names a row outside the {len(prefix.counts)} prefixes")
    chosen = resolve_backend(
        backend, device=question.sums.device.type, hidden=question.sums.shape[1], dtype=question.sums.dtype
    )
    if chosen == "triton":
        import gaincurate_kernels.launch as launch

        return launch.angle_concentration(question, prefix, prefix_of)
    others, other_counts = prefix.sums, prefix.counts
    if prefix_of is not None:
        prefix_of = prefix_of.to(others.device)
        others, other_counts = others[prefix_of], other_counts[prefix_of]
    total = question.sums.double()
    n, m = question.counts.double(), other_counts.double()
    squared, cross = total.square().sum(-1), (total * others.double()).sum(-1)
    # A mean over no pairs is 0 / 0, which is NaN.
    return Concentration(
        intra=squared / n.square(),
        inter=cross / (n * m),
        intra_offdiag=(squared - (n - question.zeros)) / torch.where(n > 1, n * (n - 1), torch.nan),
    )
