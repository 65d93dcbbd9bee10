"""The public functions' checks and their choice of a backend."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gaincurate_kernels import angle_concentration, resolve_backend, segment_unit_sums, triton_version
from gaincurate_kernels.reference import RMSNorm

BOUNDS = torch.tensor([[0, 2], [2, 5]])
SHAPES = "expected hidden [tokens, hidden] and bounds [segments, 2], got"


def choice(backend: Any = "auto", device: str = "cuda", hidden: int = 64, dtype: Any = torch.float32) -> str:
    return resolve_backend(backend, device=device, hidden=hidden, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auto_is_triton_on_a_gpu_and_pytorch_elsewhere(dtype: Any) -> None:
    assert choice(dtype=dtype, hidden=16384) == "triton"
    assert choice(dtype=dtype, device="cpu") == "torch"
    assert choice("torch", dtype=dtype) == "torch"


def test_auto_falls_back_on_what_the_kernel_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choice(dtype=torch.float64) == "torch"
    assert choice(hidden=16385) == "torch"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choice() == "torch"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "mps"}, "Triton's kernels run on a GPU, and the states are on mps"),
        ({"dtype": torch.float64}, "the kernel reads float32, bfloat16 and float16, not float64"),
        ({"hidden": 20000}, "the kernel takes hidden sizes up to 16384, not 20000"),
    ],
)
def test_triton_is_refused(options: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=f"^backend triton: {sentence}$"):
        choice("triton", **options)


@pytest.mark.parametrize(
    ("hidden", "bounds", "sentence"),
    [
        (torch.ones(5), BOUNDS, f"{SHAPES} [5] and [2, 2]"),
        (torch.ones(5, 4), BOUNDS[0], f"{SHAPES} [5, 4] and [2]"),
        (torch.ones(5, 4), BOUNDS.double(), "expected floating states and integer bounds, got torch.float32"),
        (torch.ones(5, 4).int(), BOUNDS, "expected floating states and integer bounds, got torch.int32"),
        (torch.ones(4, 4), BOUNDS, "segment 2:5 is outside the 4 tokens"),
        (torch.ones(5, 4), BOUNDS - 1, "segment -1:1 is outside the 5 tokens"),
        (torch.ones(5, 4), BOUNDS.flip(1), "segment 2:0 is outside the 5 tokens"),
        (torch.ones(5, 0), BOUNDS, "the states have no columns"),
    ],
)
def test_bad_arguments_are_refused(hidden: torch.Tensor, bounds: torch.Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        segment_unit_sums(hidden, bounds)


def test_a_norm_or_sums_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected a norm weight \[4\] on cpu, got \[1\] on cpu$"):
        segment_unit_sums(torch.ones(5, 4), BOUNDS, norm=RMSNorm(torch.ones(1)))
    two = segment_unit_sums(torch.ones(5, 4), BOUNDS)
    one = segment_unit_sums(torch.ones(5, 4), BOUNDS[:1])
    with pytest.raises(ValueError, match="^2 questions have 1 prefixes; expected one each, or `prefix_of`$"):
        angle_concentration(two, one)
    with pytest.raises(ValueError, match="^2 questions have 3 prefixes"):
        angle_concentration(two, one, torch.tensor([0, 0, 0]))
    for outside in (-1, 1):
        with pytest.raises(ValueError, match="^`prefix_of` names a row outside the 1 prefixes$"):
            angle_concentration(two, one, torch.tensor([0, outside]))
    for odd in (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"^expected `prefix_of` \[samples\] of integers, got \[2"):
            angle_concentration(two, one, odd)
    with pytest.raises(ValueError, match="^question and prefix have 4 and 3 columns$"):
        angle_concentration(two, segment_unit_sums(torch.ones(5, 3), BOUNDS))
    assert float(angle_concentration(two, one, torch.tensor([0, 0])).inter[0]) == pytest.approx(1)


def test_tritons_version_needs_no_triton_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triton.py").write_text("raise ImportError('no driver')")
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert triton_version() == importlib.metadata.version("triton")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert triton_version() is None
