"""A quick check of the angle code on this machine.

Each backend that can run on a device is compared with the definition in float64 on the CPU.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

import torch

from gaincurate_kernels.angle import Backend, angle_concentration, segment_unit_sums, triton_version
from gaincurate_kernels.reference import RMSNorm, quadratic

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
    cpu = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    gpus = range(torch.cuda.device_count())
    return [
        {"device": "cpu", "name": cpu},
        *({"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)} for index in gpus),
    ]


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
    errors: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for norm in (None, RMSNorm(weight.to(dtype), offset=1.0)):
            fused = "" if norm is None else " with a fused norm"
            title = f"random vectors, {str(dtype).removeprefix('torch.')}{fused}"
            errors[title] = _worst_error(exact.to(dtype), norm, device, backend)
    same = exact[:1].expand(4096, -1).to(device)
    sums = segment_unit_sums(same, torch.tensor([[0, 4096]]), backend=backend)
    equal = angle_concentration(sums, sums, backend=backend)
    cosines = (equal.intra, equal.inter, equal.intra_offdiag)
    errors["4,096 equal vectors"] = max(abs(float(cosine) - 1) for cosine in cosines)
    return [
        Check(f"{name}: {title}", worst <= TOLERANCE, f"largest error {worst:.1e}")
        for title, worst in errors.items()
    ]


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
    angles = angle_concentration(sums.rows(0, count), sums.rows(count, 2 * count), backend=backend)
    got = torch.stack([angles.intra, angles.inter, angles.intra_offdiag], 1).cpu()
    want = torch.tensor(expected, dtype=torch.float64)
    if not torch.equal(got.isnan(), want.isnan()):
        return math.inf
    return float((got - want).nan_to_num(0.0).abs().max())
