from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from gaincurate.scoring.prefill import as_rms_norm, norm_before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("eps", [1e-5, 1e-3])
@pytest.mark.parametrize(("kind", "offset"), [(LlamaRMSNorm, 0), (Gemma2RMSNorm, 1), (nn.RMSNorm, 0)])
def test_what_an_rms_norm_computes_is_known(kind: Any, offset: int, eps: float, dtype: Any) -> None:
    made = kind(24, eps=eps)
    made.weight.data.copy_(torch.randn(24, generator=torch.Generator().manual_seed(3)))
    made = made.to(dtype)
    norm = as_rms_norm(made)
    assert norm is not None
    assert (norm.offset, norm.eps) == (offset, eps)
    assert norm.weight.dtype == dtype
    states = torch.randn(5, 24)
    expected = states / (states.square().mean(1, keepdim=True) + eps).sqrt() * (norm.weight.float() + offset)
    assert torch.allclose(made.float()(states), expected, rtol=1e-4, atol=1e-5)


class Named(nn.Module):
    """Called a norm, and none: it adds a thousandth, which turns every vector a little."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(24)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() + 1e-3)


def test_anything_else_is_no_rms_norm() -> None:
    # The eps of torch's RMS norm is of the dtype of its input.
    others = [nn.LayerNorm(24), nn.LayerNorm(24, bias=False), nn.RMSNorm(24), nn.Linear(24, 24, bias=False)]
    for module in [*others, Named(), nn.Identity()]:
        assert as_rms_norm(module) is None, module


class Body(nn.Module):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.norm, self.other, self.calls = LlamaRMSNorm(24), LlamaRMSNorm(24), calls

    def forward(self, x: Tensor) -> Tensor:
        x = self.other(x)
        for _ in range(self.calls):
            x = self.norm(x)
        return x


def test_the_norm_is_the_module_whose_output_the_tensor_is() -> None:
    body, states = Body(1), torch.randn(2, 24)
    found = norm_before(body, lambda: body(states).reshape(1, 2, 24))
    assert found is not None
    assert found[0] is body.norm
    assert norm_before(body, lambda: body(states) + 0) is None
    twice = Body(2)
    assert norm_before(twice, lambda: twice(states)) is None
    assert not [m for m in body.modules() if m._forward_hooks]


class Odd(nn.Module):
    """Bodies in which what a norm computes on its own is not what came of it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.norm, self.kind = (Gated() if kind == "gated" else LlamaRMSNorm(24)), kind

    def forward(self, x: Tensor) -> Any:
        if self.kind == "gated":
            return self.norm(x, torch.ones_like(x) * 3 - x)
        made = self.norm(x)
        made += 0.5  # in place: the same memory
        return made


class Gated(LlamaRMSNorm):
    def __init__(self) -> None:
        super().__init__(24)

    def forward(self, hidden_states: Tensor, gate: Tensor | None = None) -> Any:
        return super().forward(hidden_states if gate is None else hidden_states * gate)


@pytest.mark.parametrize("kind", ["gated", "in place"])
def test_a_norm_whose_output_is_something_else_here_is_left_alone(kind: str) -> None:
    odd, states = Odd(kind), torch.randn(3, 24)
    assert as_rms_norm(odd.norm) is not None
    assert norm_before(odd, lambda: odd(states)) is None


class InPlace(LlamaRMSNorm):
    """Computes in its input's memory, and adds what another layer left for it, if anything."""

    residual: Tensor | float = 0.0

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states += self.residual
        return hidden_states.copy_(super().forward(hidden_states))


@pytest.mark.parametrize("residual", [0.0, 2.0])
def test_a_norm_that_changes_its_input_is_judged_by_what_that_was(residual: float) -> None:
    norm, states = InPlace(24), torch.randn(3, 24)
    assert as_rms_norm(norm) is not None

    def run() -> Tensor:
        norm.residual = residual
        made: Tensor = norm(states.clone())
        norm.residual = 0.0
        return made

    with torch.inference_mode():
        found = norm_before(norm, run)
    assert (found is None) == (residual != 0)
