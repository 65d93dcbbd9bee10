"""The RMS norm in front of a tensor: takes a model and a way to run it, yields the norm if it can wait.

A direction does not change when a state is divided by its root mean square, so the angle kernel can take
the residual stream and the norm's weight instead of the normalised tensor. A module counts as an RMS norm
only if it computes one, tried on random numbers; its name says nothing. Knows nothing of scores.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gaincurate_kernels import RMSNorm
from gaincurate_kernels.reference import normalised

_EPS_NAMES = ("variance_epsilon", "eps", "epsilon")
_TOLERANCE = 2e-6  # of float32 against float64
_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3, torch.float64: 1e-5}


@dataclass(frozen=True, slots=True)
class NormBefore:
    """A module whose output is the tensor in question, and what it computes."""

    module: nn.Module
    norm: RMSNorm


def norm_before(model: nn.Module, run: Callable[[], Tensor]) -> NormBefore | None:
    """The RMS norm that makes a tensor, or None where there is none that is called just once.

    Args:
        model: holds the norm.
        run: one forward of any input; returns the tensor.
    """
    with _calls_of_single_weights(model) as calls:
        target = run()
    makers = [
        (module, found) for module, found in calls.items() if any(_same(c.output, target) for c in found)
    ]
    if len(makers) != 1 or len(makers[0][1]) != 1:
        return None
    module, (call,) = makers[0]
    norm = as_rms_norm(module)
    if norm is None or len(call.inputs) != 1:
        return None
    # What the module computes on its own need not be what came of it here: changed in place, gated, summed.
    width = target.shape[-1]
    made = normalised(call.inputs[0].reshape(-1, width), norm)
    if not _close(made.double(), target.reshape(-1, width).double(), _ROUNDING[target.dtype]):
        return None
    return NormBefore(module, norm)


def as_rms_norm(module: nn.Module) -> RMSNorm | None:
    """What an RMS norm computes, x / sqrt(mean(x^2) + eps) * (weight + 0 or 1); None for anything else."""
    parameters = list(module.parameters())
    eps = next((getattr(module, name) for name in _EPS_NAMES if hasattr(module, name)), None)
    if len(parameters) != 1 or parameters[0].dim() != 1 or not isinstance(eps, float):
        return None
    weight = parameters[0].detach()
    generator = torch.Generator().manual_seed(0)
    # Small rows too, where eps counts, and a mean that is not zero, which a layer norm would take away.
    states = torch.randn(12, len(weight), generator=generator) + 0.5
    states *= torch.logspace(-4, 4, 12)[:, None]
    exact = states.double()
    scaled = exact / (exact.square().mean(-1, keepdim=True) + eps).sqrt()
    with torch.inference_mode():
        found = copy.deepcopy(module).float().cpu()(states).double()
    for offset in (0.0, 1.0):
        expected = scaled * (weight.double().cpu() + offset)
        if found.shape == expected.shape and _close(found, expected, _TOLERANCE):
            return RMSNorm(weight, offset, eps)
    return None


def _close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool(((found - expected).norm(dim=-1) <= tolerance * expected.norm(dim=-1)).all())


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.numel() == b.numel()


@dataclass(slots=True)
class _Call:
    """One call of a module: copies of the tensors it was given, and what it gave."""

    inputs: list[Tensor]
    output: Tensor


@contextmanager
def _calls_of_single_weights(model: nn.Module) -> Iterator[dict[nn.Module, list[_Call]]]:
    """Every call of every module that has one vector of weights; outputs are held, so no memory is reused."""
    calls: dict[nn.Module, list[_Call]] = {}
    given: dict[nn.Module, list[Tensor]] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given[module] = [v.clone() for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]

    def after(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            calls.setdefault(module, []).append(_Call(given[module], output))

    single = [
        module for module in model.modules() if [parameter.dim() for parameter in module.parameters()] == [1]
    ]
    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in single]
    handles += [module.register_forward_hook(after) for module in single]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
