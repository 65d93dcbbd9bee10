"""A quick check of the angle code on this machine: takes a device name, yields what was checked.

Each backend that can run there is held against the definition in float64 on the CPU. Knows nothing of models.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

import torch

from gaincurate_kernels.angle import Backend, angle_concentration, segment_unit_sums, triton_version
from gaincurate_kernels.reference import quadratic
from gaincurate_kernels.values import RMSNorm

TOLERANCE = 2e-6
_LENGTHS = ((1, 1), (7, 2), (40, 130), (0, 33), (115, 700))
_HIDDEN = 576


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a self-test."""

    check: str
    ok: bool
    detail: str


def devices() -> list[dict[str, str]]:
    """The devices that torch can use here."""
    found = [{"device": "cpu", "name": f"{torch.backends.cpu.get_cpu_capability()}, {_threads()}"}]
    for index in range(torch.cuda.device_count()):
        found.append({"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)})
    return found


def _threads() -> str:
    return f"{torch.get_num_threads()} threads"


def backends(device: str) -> list[Backend]:
    """The backends that can run on a device."""
    has_triton = torch.device(device).type == "cuda" and importlib.util.find_spec("triton") is not None
    return ["torch", "triton"] if has_triton else ["torch"]


def run(device: str, backend: Backend = "torch") -> list[Check]:
    """Check random vectors in each dtype, with and without a fused norm, and equal vectors."""
    name = backend if backend != "triton" else f"triton {triton_version()}"
    generator = torch.Generator().manual_seed(0)
    total = sum(prefix + question for prefix, question in _LENGTHS)
    exact = torch.randn(total, _HIDDEN, generator=generator) + 0.3
    weight = torch.rand(_HIDDEN, generator=generator) - 0.2
    checks = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for norm in (None, RMSNorm(weight.to(dtype), offset=1.0)):
            worst = _worst_error(exact.to(dtype), norm, device, backend)
            fused = "" if norm is None else " with a fused norm"
            title = f"{name}: random vectors, {str(dtype).removeprefix('torch.')}{fused}"
            checks.append(_entry(title, worst))
    equal = exact[:1].expand(4096, -1)
    sums = segment_unit_sums(equal.to(device), torch.tensor([[0, 4096]]), backend=backend)
    found = angle_concentration(sums, sums, backend=backend)
    worst = max(abs(float(v) - 1) for v in (found.intra, found.inter, found.intra_offdiag))
    checks.append(_entry(f"{name}: 4,096 equal vectors", worst))
    return checks


def _entry(check: str, worst: float) -> Check:
    return Check(check, worst <= TOLERANCE, f"largest error {worst:.1e}")


def _worst_error(hidden: torch.Tensor, norm: RMSNorm | None, device: str, backend: Backend) -> float:
    states = hidden.double()
    if norm is not None:
        states = states * (norm.weight.double() + norm.offset)
        norm = RMSNorm(norm.weight.to(device), norm.offset, norm.eps)
    questions, prefixes, expected, start = [], [], [], 0
    for prefix, question in _LENGTHS:
        middle, end = start + prefix, start + prefix + question
        prefixes.append((start, middle))
        questions.append((middle, end))
        expected.append(quadratic(states[start:end], prefix, prefix + question))
        start = end
    bounds = torch.tensor([*questions, *prefixes])
    sums = segment_unit_sums(hidden.to(device), bounds, norm=norm, backend=backend)
    count = len(questions)
    found = angle_concentration(sums.rows(0, count), sums.rows(count, 2 * count), backend=backend)
    got = torch.stack([found.intra, found.inter, found.intra_offdiag], 1).cpu()
    want = torch.tensor(expected, dtype=torch.float64)
    if not torch.equal(got.isnan(), want.isnan()):
        return math.inf
    return float((got - want).nan_to_num(0.0).abs().max())
