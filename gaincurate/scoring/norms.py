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

_EPS_NAMES = ("variance_epsilon", "eps", "epsilon")
_TOLERANCE = 2e-6  # of float32 against float64


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
    with _outputs_of_single_weights(model) as outputs:
        target = run()
    makers = [(module, found) for module, found in outputs.items() if any(_same(t, target) for t in found)]
    if len(makers) != 1 or len(makers[0][1]) != 1:
        return None
    module = makers[0][0]
    norm = as_rms_norm(module)
    return None if norm is None else NormBefore(module, norm)


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
        if found.shape == expected.shape and _close(found, expected):
            return RMSNorm(weight, offset, eps)
    return None


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool(((found - expected).norm(dim=-1) <= _TOLERANCE * expected.norm(dim=-1)).all())


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.numel() == b.numel()


@contextmanager
def _outputs_of_single_weights(model: nn.Module) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """The outputs of every module that has one vector of weights, kept so that no memory is used twice."""
    outputs: dict[nn.Module, list[Tensor]] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.setdefault(module, []).append(output)

    single = [
        module for module in model.modules() if [parameter.dim() for parameter in module.parameters()] == [1]
    ]
    handles = [module.register_forward_hook(note) for module in single]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
