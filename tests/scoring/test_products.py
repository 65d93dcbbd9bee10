"""Weights laid out once: the same numbers, the same weights afterwards, and nothing touched that must not be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import tiny
from bench.score_speed import made_up_prompts
from gaincurate.scoring import packed_prefill
from gaincurate.scoring.packed_prefill import PackedPrefill, lay_out, layers_to_lay_out, take_back
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.segment import Segmented
from gaincurate.scoring.signals import angle_scores

needs_avx = pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="an x86 with AVX"
)


def linear(into: int, out: int, *, bias: bool, dtype: Any = torch.float32, seed: int = 0) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(into, out, bias=bias, dtype=dtype)
    for parameter in layer.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.requires_grad_(False)


SIZES, SHAPES = st.integers(1, 70), st.lists(st.integers(0, 9), min_size=0, max_size=2)


@needs_avx
@given(SIZES, SIZES, SHAPES, st.booleans(), st.sampled_from(["contiguous", "strided", "expanded"]))
def test_a_product_is_that_of_float64_and_comes_again_with_the_same_bits(
    into: int, out: int, shape: list[int], bias: bool, layout: str
) -> None:
    layer = linear(into, out, bias=bias)
    states = torch.randn(*shape, 2 * into)
    states = states[..., ::2] if layout == "strided" else states[..., :into]
    if layout == "expanded":
        states = states[..., :1].expand(*shape, into)
    expected = states.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    assert layers_to_lay_out(layer) == [layer]
    lay_out([layer])
    with torch.inference_mode():
        found = layer(states)
        assert found.shape == expected.shape
        assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(layer(states.clone()), found)


@needs_avx
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (130, 257)])
def test_weights_come_back_with_their_bits(shape: tuple[int, int], dtype: Any) -> None:
    layer = linear(shape[1], shape[0], bias=True, dtype=dtype)
    before, states = layer.weight.detach().clone(), torch.randn(3, shape[1]).to(dtype)
    expected = layer(states)
    for change in (lay_out, lay_out, take_back, take_back) * 2:  # asked twice is as good as once
        change([layer])
    assert type(layer) is nn.Linear
    assert torch.equal(layer.weight, before)
    assert torch.equal(layer(states), expected)


class Other(nn.Linear):
    """Not just a linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class Tied(nn.Module):
    """An embedding and a linear layer with one weight, two other kinds of linear layer, and a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.tied = nn.Linear(4, 6, bias=False)
        self.tied.weight = self.embedding.weight
        self.other = Other(4, 4)
        self.in_float64 = nn.Linear(4, 4).double()
        self.plain = nn.Linear(4, 4)


@needs_avx
def test_only_a_plain_linear_layer_with_a_weight_of_its_own_is_exchanged() -> None:
    model = Tied()
    lay_out(layers_to_lay_out(model))
    kinds = {name: type(module) for name, module in model.named_children()}
    exchanged = kinds.pop("plain")
    assert exchanged is not nn.Linear
    assert kinds == {"embedding": nn.Embedding, "tied": nn.Linear, "other": Other, "in_float64": nn.Linear}
    assert model.tied.weight is model.embedding.weight


@pytest.mark.parametrize("reason", ["processor", "operators", "dtype"])
def test_where_it_cannot_be_nothing_is_exchanged(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(weight: Tensor, rows: int) -> Tensor:
        raise RuntimeError("bf16 path needs the cpu support avx512bw")

    refusing = SimpleNamespace(_linear_pointwise=None, _reorder_linear_weight=refuses)
    if reason == "processor":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    else:
        monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace() if reason == "operators" else refusing)
    assert layers_to_lay_out(linear(4, 4, bias=True)) == []


def scores(forward: Any, rows: Any) -> list[float]:
    """Of each row alone."""
    batches = ((row, batch) for row in rows for batch in forward.run([row], 256))
    return [s.angle_intra for row, batch in batches for s, _ in angle_scores(batch.states, [row]) if s]


def llama() -> tuple[Any, Prefill, list[Segmented], list[float]]:
    """A model, its padded forward, prompts, and their scores by that."""
    model = tiny.model(transformers.LlamaConfig(**tiny.COMMON)).base_model
    prefill, rows = Prefill(model), made_up_prompts(3, prefix=7, vocab_size=512)
    return model, prefill, rows, scores(prefill, rows)


@needs_avx
def test_the_packed_forward_takes_them_and_gives_them_back() -> None:
    model, prefill, rows, expected = llama()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    packed = PackedPrefill(prefill, rows[:2])
    exchanged = [m for m in model.modules() if isinstance(m, nn.Linear) and type(m) is not nn.Linear]
    assert len(exchanged) == 3 * 7
    found = scores(packed, rows)
    assert found == pytest.approx(expected, abs=1e-5)
    packed.give_back()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert scores(prefill, rows) == expected
    packed.take()
    assert scores(packed, rows) == found


@needs_avx
@pytest.mark.parametrize("wrong", [RuntimeError, "differs", "not laid out"])
def test_a_model_that_does_not_bear_them_runs_without(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that reads the weight of a layer itself."""

    def broken(self: Any, states: Tensor) -> Tensor:
        if wrong != "differs":
            raise wrong("could not create a primitive")
        return nn.functional.linear(states, self.weight.to_dense()) * 1.01

    def broken_layout(layers: Any) -> None:
        lay_out(layers)
        if layers:
            raise RuntimeError("could not create a primitive")

    if wrong == "not laid out":
        monkeypatch.setattr(packed_prefill, "lay_out", broken_layout)
    else:
        monkeypatch.setattr(packed_prefill._Linear, "forward", broken)
    model, prefill, rows, expected = llama()
    packed = PackedPrefill(prefill, rows[:2])
    assert packed.name == "packed, plain products"
    assert not any(isinstance(module, packed_prefill._Linear) for module in model.modules())
    assert scores(packed, rows) == pytest.approx(expected, abs=1e-5)


@needs_avx
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_broken_trials_change_nothing(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, states: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(packed_prefill._Linear, "forward", broken)
    model, prefill, rows, _ = llama()
    before = model.config._attn_implementation
    with pytest.raises(error):
        PackedPrefill(prefill, rows[:2])
    assert model.config._attn_implementation == before
    assert not any(isinstance(module, packed_prefill._Linear) for module in model.modules())
