"""Packed attention against float64 softmax over explicit pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gaincurate.scoring import packed_attention
from gaincurate.scoring.packed_attention import KEYWORD, KeysAndValues, Packing, UnsupportedAttention, attend

LAYER: nn.Module = nn.Identity()
SIZE = 8


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(
    query: Tensor, key: Tensor, value: Tensor, past: int, window: int | None, softcap: float | None, scale: float
) -> Tensor:  # fmt: skip
    """One sequence, `[tokens, heads, size]`, pair by pair in float64."""
    heads, tokens = query.shape[:2]
    out = torch.zeros(tokens, heads, value.shape[-1], dtype=torch.float64)
    for head in range(heads):
        other = head // (heads // key.shape[0])
        for i in range(tokens):
            oldest = 0 if window is None else max(0, past + i - window + 1)
            seen = range(oldest, past + i + 1)
            dots = [(query[head, i].double() * key[other, j].double()).sum() for j in seen]
            scores = torch.stack(dots) * scale
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            out[i, head] = (torch.softmax(scores, 0)[:, None] * value[other, list(seen)].double()).sum(0)
    return out


def packed(
    lengths: list[int], pasts: list[int], groups: int = 2, dtype: Any = torch.float32, **options: Any
) -> tuple[Tensor, Tensor]:
    """What `attend` gives for sequences with prefixes of their own, and what it should."""
    tokens, heads = sum(lengths), 4
    limits = (options.get("sliding_window"), options.get("softcap"), options.get("scaling", SIZE**-0.5))
    query = random(heads, tokens, SIZE, seed=1).to(dtype)
    key, value = (random(heads // groups, tokens, SIZE, seed=s).to(dtype) for s in (2, 3))
    borders, expected = [0], []
    prefixes: list[dict[nn.Module, KeysAndValues] | None] = []
    for index, (length, past) in enumerate(zip(lengths, pasts, strict=True)):
        borders.append(borders[-1] + length)
        before = [random(heads // groups, past, SIZE, seed=10 + 2 * index + s).to(dtype) for s in (0, 1)]
        prefixes.append({LAYER: (before[0], before[1])} if past else None)
        own = slice(borders[-2], borders[-1])
        keys, values = torch.cat([before[0], key[:, own]], 1), torch.cat([before[1], value[:, own]], 1)
        expected.append(exact(query[:, own], keys, values, past, *limits))
    packing = Packing(borders, prefixes)
    keywords: dict[str, Any] = {KEYWORD: packing, **options}
    out, weights = attend(LAYER, query[None], key[None], value[None], None, **keywords)
    assert weights is None
    assert packing.windows == {LAYER: options.get("sliding_window")}
    return out[0], torch.cat(expected)


CASES = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 7)), min_size=1, max_size=4)


@given(CASES, st.none() | st.integers(1, 6), st.sampled_from([None, 5.0]), st.sampled_from([1, 2, 4]))
def test_each_sequence_attends_to_its_prefix_and_itself(
    cases: list[tuple[int, int]], window: int | None, softcap: float | None, groups: int
) -> None:
    options = {"sliding_window": window, "softcap": softcap, "scaling": 0.7}
    found, expected = packed([n for n, _ in cases], [p for _, p in cases], groups, **options)
    assert torch.allclose(found.double(), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_long_sequence(window: int | None, softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_attention, "_SCORES", 4 * 40 * 7)
    found, expected = packed([33, 2], [7, 0], sliding_window=window, softcap=softcap)
    assert torch.allclose(found.double(), expected, atol=2e-6, rtol=0)


def test_a_long_sequence_without_prefix_or_window_needs_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_attention, "_LONG", 8)
    masks, made = [], packed_attention._mask

    def noted(*shape: Any) -> Tensor:
        masks.append(shape[1:3])
        return made(*shape)

    monkeypatch.setattr(packed_attention, "_mask", noted)
    found, expected = packed([33, 2, 9], [0, 0, 3])
    assert torch.allclose(found.double(), expected, atol=2e-6, rtol=0)
    assert masks == [(0, 2), (3, 9)]


@pytest.mark.parametrize("tokens", [9, 129])
@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 2e-2), (torch.float32, 2e-6)])
def test_any_number_of_parts_is_right_to_its_rounding(tokens: int, dtype: torch.dtype, most: float) -> None:
    found, expected = packed([tokens, 3], [5, 5], dtype=dtype)
    assert torch.allclose(found.double(), expected, atol=most, rtol=0)


def test_variable_length_attention_gets_sequences_behind_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain function stands where GPUs have the flash kernel."""
    seen: list[dict[str, Any]] = []

    def varlen_attn(
        query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, **more: Any
    ) -> Tensor:  # fmt: skip
        assert (cu_q.dtype, cu_k.dtype) == (torch.int32, torch.int32)
        assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
        seen.append(more)
        parts = []
        for a, b, c, d in zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:], strict=True):
            q, k, v = (t.transpose(0, 1) for t in (query[a:b], key[c:d], value[c:d]))
            window = more["window_size"][0] + 1
            parts.append(exact(q, k, v, int(d - c - (b - a)), window, None, more["scale"]).float())
        return torch.cat(parts)

    assert packed_attention._knows_varlen()
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    monkeypatch.setattr(packed_attention, "_has_varlen", lambda call: True)
    found, expected = packed([3, 5, 1], [4, 0, 2], sliding_window=3, scaling=0.6)
    assert torch.allclose(found.double(), expected, atol=2e-6, rtol=0)
    assert seen == [{"scale": 0.6, "window_size": (2, 0), "enable_gqa": True, "num_splits": 1}]


def test_where_varlen_attention_is_taken() -> None:
    for device, dtype, softcap, taken in [
        ("cuda", torch.bfloat16, None, True),
        ("cuda", torch.float32, None, False),
        ("cuda", torch.bfloat16, 30.0, False),
        ("cpu", torch.bfloat16, None, False),
    ]:
        states: Any = SimpleNamespace(device=torch.device(device), dtype=dtype)
        made = packed_attention._Call(LAYER, states, states, states, Packing([], []), 1.0, None, softcap)
        assert packed_attention._has_varlen(made) is taken


def test_variable_length_attention_has_a_shared_prefix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {LAYER: (random(2, 4, SIZE), random(2, 4, SIZE))}
    packing = Packing([0, 2, 5, 6], [before, None, before])
    plan = packed_attention._varlen_plan(packing, torch.device("cpu"))
    assert plan["rows"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 9]
    assert plan["query_borders"].tolist() == [0, 2, 5, 6]
    assert plan["key_borders"].tolist() == [0, 6, 9, 14]
    assert packed_attention._varlen_plan(packing, torch.device("cpu")) is plan


def call(packing: Any, mask: Tensor | None = None, **options: Any) -> None:
    states = random(1, 2, 3, SIZE)
    keywords = {} if packing is None else {KEYWORD: packing}
    attend(LAYER, states, states, states, mask, **keywords, **options)


def test_what_is_not_understood_is_refused_and_not_ignored() -> None:
    packing = Packing([0, 3], [None])
    with pytest.raises(UnsupportedAttention, match="does not hand keywords on to its attention"):
        call(None)
    with pytest.raises(UnsupportedAttention, match="makes an attention mask of its own"):
        call(packing, torch.zeros(3, 3))
    with pytest.raises(UnsupportedAttention, match="its attention takes position_bias, s_aux"):
        call(packing, s_aux=torch.zeros(2), position_bias=1)
    call(packing, s_aux=None, dropout=0.0, position_ids=torch.arange(3), is_causal=True)
    with pytest.raises(UnsupportedAttention, match="an attention module is called twice"):
        call(packing)


def test_keys_and_values_are_kept_where_asked() -> None:
    keep: dict[Any, Any] = {}
    states = random(1, 2, 3, SIZE)
    keywords: dict[str, Any] = {KEYWORD: Packing([0, 3], [None], keep)}
    attend(LAYER, states, states + 1, states + 2, **keywords)
    assert torch.equal(keep[LAYER][0], states[0] + 1)
    assert torch.equal(keep[LAYER][1], states[0] + 2)
