"""Random states, sums through the Triton kernels, and the same in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gaincurate_kernels import RMSNorm, UnitSums, segment_unit_sums

INTERPRETED = [
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),  # numpy, where a GPU is silent
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning"),
    pytest.mark.usefixtures("poisoned"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


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


def exact_sums(hidden: Tensor, bounds: list[tuple[int, int]], norm: RMSNorm | None = None) -> Tensor:
    """Sums of unit vectors in float64, written for this test."""
    rows = hidden.cpu().double()
    if norm is not None:
        scale = torch.rsqrt((rows * rows).mean(1, keepdim=True) + norm.eps)
        rows = rows * scale * (norm.weight.cpu().double() + norm.offset)
    lengths = (rows * rows).sum(1, keepdim=True).sqrt()
    units = torch.where(lengths > 0, rows / lengths, 0)
    return torch.stack([units[a:b].sum(0) for a, b in bounds])


def assert_right(
    found: UnitSums, hidden: Tensor, bounds: list[tuple[int, int]], norm: RMSNorm | None = None
) -> None:
    sums = exact_sums(hidden, bounds, norm)
    counts = torch.tensor([b - a for a, b in bounds])
    assert found.counts.cpu().tolist() == counts.tolist()
    assert ((found.sums.cpu().double() - sums).abs().amax(1) <= 2e-6 * counts.clamp(min=1)).all()
