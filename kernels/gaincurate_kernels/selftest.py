"""A quick check of the angle code on this machine: takes a device name, yields what was checked.

The fast form is held against the definition in float64 on the CPU. Knows nothing of models.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from gaincurate_kernels.reference import angle_concentration, quadratic, segment_unit_sums

TOLERANCE = 2e-6
_LENGTHS = ((1, 1), (7, 2), (40, 130), (0, 33), (115, 700))
_HIDDEN = 576


def devices() -> list[dict[str, str]]:
    """The devices that torch can use here."""
    found = [{"device": "cpu", "name": f"{torch.backends.cpu.get_cpu_capability()}, {_threads()}"}]
    for index in range(torch.cuda.device_count()):
        found.append({"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)})
    return found


def _threads() -> str:
    return f"{torch.get_num_threads()} threads"


def run(device: str) -> list[dict[str, Any]]:
    """Check random vectors in each dtype, and equal vectors; each entry has check, ok, detail."""
    generator = torch.Generator().manual_seed(0)
    total = sum(prefix + question for prefix, question in _LENGTHS)
    exact = torch.randn(total, _HIDDEN, generator=generator) + 0.3
    checks = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        worst = _worst_error(exact.to(dtype), device)
        checks.append(_entry(f"random vectors, {str(dtype).removeprefix('torch.')}", worst))
    equal = exact[:1].expand(4096, -1)
    bounds = torch.tensor([[0, 4096]])
    sums = segment_unit_sums(equal.to(device), bounds)
    found = angle_concentration(sums, sums)
    worst = max(abs(float(v) - 1) for v in (found.intra, found.inter, found.intra_offdiag))
    checks.append(_entry("4,096 equal vectors", worst))
    return checks


def _entry(check: str, worst: float) -> dict[str, Any]:
    return {"check": check, "ok": worst <= TOLERANCE, "detail": f"largest error {worst:.1e}"}


def _worst_error(hidden: torch.Tensor, device: str) -> float:
    questions, prefixes, expected, start = [], [], [], 0
    for prefix, question in _LENGTHS:
        middle, end = start + prefix, start + prefix + question
        prefixes.append((start, middle))
        questions.append((middle, end))
        expected.append(quadratic(hidden[start:end], prefix, prefix + question))
        start = end
    moved = hidden.to(device)
    found = angle_concentration(
        segment_unit_sums(moved, torch.tensor(questions)), segment_unit_sums(moved, torch.tensor(prefixes))
    )
    got = torch.stack([found.intra, found.inter, found.intra_offdiag], 1).cpu()
    want = torch.tensor(expected, dtype=torch.float64)
    if not torch.equal(got.isnan(), want.isnan()):
        return math.inf
    return float((got - want).nan_to_num(0.0).abs().max())
