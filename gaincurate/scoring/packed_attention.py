"""Attention over packed sequences: one row holds the tokens of many prompts.

It is registered with transformers under its own name. Each sequence attends causally to itself, and to a
prefix that was computed before, if it has one. A `Packing` passes the borders of the sequences to every call.
Unsupported arguments are refused and never ignored, because scores would be silently wrong.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

NAME = "gaincurate_packed"
KEYWORD = "gaincurate_packing"
# Arguments that models pass to every attention function and that change nothing here: positions are already
# in queries and keys, nothing is cached, and nothing is dropped.
_HARMLESS = {
    "position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states", "is_causal",
    "dropout", "layer_idx", "position_embeddings", "return_dict", "logits_to_keep",
}  # fmt: skip
_SCORES = 2**24  # computed at once: 64 MB of float32 for a prompt of any length
_QUERIES = 128  # at once on a CPU, which saves the scores of masked keys after them
_LARGEST_STORED_MASK = 2**20
_LONG = 1024  # tokens above which a mask costs more than folding queries saves

KeysAndValues = tuple[Tensor, Tensor]
"""`[heads, tokens, head size]` each."""


class UnsupportedAttention(Exception):
    """The model requests something that this attention does not support; the text names it."""


@dataclass(slots=True)
class Packing:
    """One row of sequences. Sequence i has tokens `borders[i]` to `borders[i + 1]`, after the keys and values
    that `prefixes[i]` has for each attention module. `keep`, if given, gets the keys and values of this pass.

    `windows` collects the sliding window of each module that was called, to check the model.
    """

    borders: Sequence[int]
    prefixes: Sequence[dict[nn.Module, KeysAndValues] | None]
    keep: dict[nn.Module, KeysAndValues] | None = None
    windows: dict[nn.Module, int | None] = field(default_factory=dict)
    memo: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)  # masks, the same for every layer
    varlen: dict[str, Any] | None = None  # index tensors, the same for every layer


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """An attention function with the signature of transformers; `query` is `[1, heads, tokens, head size]`.

    Returns `[1, tokens, heads, head size]`, and None in place of the weights.

    Raises:
        UnsupportedAttention: the model did not pass the `Packing` on, or requests something unknown
            (attention sinks, a mask of its own), which must not be ignored.
    """
    packing = others.pop(KEYWORD, None)
    if not isinstance(packing, Packing):
        raise UnsupportedAttention("the model does not hand keywords on to its attention")
    if attention_mask is not None:
        raise UnsupportedAttention("the model makes an attention mask of its own")
    unknown = sorted(name for name, wanted in others.items() if wanted is not None and name not in _HARMLESS)
    if unknown:
        raise UnsupportedAttention(f"its attention takes {', '.join(unknown)}")
    if module in packing.windows:
        raise UnsupportedAttention("an attention module is called twice")
    packing.windows[module] = sliding_window
    if packing.keep is not None:
        packing.keep[module] = (key[0], value[0])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    call = _Call(module, query[0], key[0], value[0], packing, scale, sliding_window, softcap)
    return (_varlen if _has_varlen(call) else _one_by_one)(call)[None], None


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of an attention module: queries, keys and values `[heads, tokens, head size]`."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    packing: Packing
    scale: float
    window: int | None
    softcap: float | None


def _one_by_one(call: _Call) -> Tensor:
    """Attention of one sequence after the other, on any device and dtype."""
    query, key, value, packing, window = call.query, call.key, call.value, call.packing, call.window
    heads, tokens = query.shape[:2]
    out = query.new_empty(tokens, heads, value.shape[-1])  # [tokens, heads, value size]
    # On a GPU, float32 has no kernel for grouped queries that does not store all scores at once.
    flash = query.device.type == "cpu" or query.dtype != torch.float32
    for index, prefix in enumerate(packing.prefixes):
        begin, end = packing.borders[index], packing.borders[index + 1]
        keys, values = key[:, begin:end], value[:, begin:end]
        if prefix is not None:
            before = prefix[call.module]
            keys, values = torch.cat([before[0], keys], 1), torch.cat([before[1], values], 1)
        # keys and values: [key heads, past + own tokens, size]
        past = keys.shape[1] - (end - begin)
        if past == 0 and window is None and call.softcap is None and end - begin > _LONG and flash:
            attended = torch.nn.functional.scaled_dot_product_attention(
                query[None, :, begin:end],
                keys[None],
                values[None],
                is_causal=True,
                scale=call.scale,
                enable_gqa=True,
            )
            out[begin:end] = attended[0].transpose(0, 1)
            continue
        # In parts, so that masks and scores do not grow with the square of the prompt's length.
        step = max(1, _SCORES // (heads * keys.shape[1]))
        if query.device.type == "cpu":
            step = min(step, _QUERIES)
        for first in range(0, end - begin, step):
            last = min(first + step, end - begin)
            oldest = 0 if window is None else max(0, past + first - window + 1)
            seen = slice(oldest, past + last)
            shape = (past + first - oldest, last - first, window)
            part = query[:, begin + first : begin + last]
            attended = _sequence(call, part, keys[:, seen], values[:, seen], shape)
            out[begin + first : begin + last] = attended.transpose(0, 1)
    return out


def _sequence(
    call: _Call, query: Tensor, key: Tensor, value: Tensor, shape: tuple[int, int, int | None]
) -> Tensor:
    """`[heads, tokens, value size]`; queries that share keys are folded into one longer list of queries.

    `shape` has the number of keys before the first query, the number of queries, and the window.
    """
    heads, tokens = query.shape[:2]
    mask = _mask(call.packing, *shape, heads // key.shape[0], query)
    folded = query.reshape(key.shape[0], -1, query.shape[-1])  # [key heads, groups * tokens, head size]
    # On a CPU, matrix products beat the flash kernel in bfloat16 (0.31 to 0.50 ms at 85 queries, 202 keys, 9
    # heads of 64; 33 to 50 ms at 2,000 queries), and lose to it in float32.
    products = query.device.type == "cpu" and query.dtype != torch.float32
    if call.softcap is None and not products:
        mixed = torch.nn.functional.scaled_dot_product_attention(
            folded[None], key[None], value[None], attn_mask=mask, scale=call.scale
        )[0]
    else:
        if call.softcap is None:
            scores = torch.baddbmm(mask, folded, key.transpose(1, 2), alpha=call.scale)
        else:
            scores = torch.bmm(folded * call.scale, key.transpose(1, 2))
            scores = (torch.tanh(scores / call.softcap) * call.softcap).add_(mask)
        # `scores` is [key heads, groups * tokens, keys]. Softmax computes in float32 internally.
        mixed = torch.bmm(torch.softmax(scores, -1), value)
    return mixed.reshape(heads, tokens, -1)


def _mask(packing: Packing, past: int, tokens: int, window: int | None, groups: int, like: Tensor) -> Tensor:
    """`[groups * tokens, past + tokens]`: for query i 0 where j <= past + i and in the window, else -inf."""
    name = (past, tokens, window, groups)
    if name in packing.memo:
        return packing.memo[name]
    keys = torch.arange(past + tokens, device=like.device)
    distance = torch.arange(past, past + tokens, device=like.device)[:, None] - keys
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    mask = mask.masked_fill_(hidden, -torch.inf).repeat(groups, 1)
    if mask.numel() <= _LARGEST_STORED_MASK:  # all masks of a long prompt grow with its square
        packing.memo[name] = mask
    return mask


@functools.cache
def _knows_varlen() -> bool:
    """Whether this torch has variable-length flash attention with the arguments used here."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    keywords = inspect.signature(varlen_attn).parameters.keys()
    return {"scale", "window_size", "enable_gqa", "num_splits"} <= keywords


def _has_varlen(call: _Call) -> bool:
    """Whether flash attention supports this call: half precision on a GPU, without a soft cap."""
    on_gpu = call.query.device.type == "cuda" and call.query.dtype != torch.float32
    return on_gpu and call.softcap is None and _knows_varlen()


def _varlen(call: _Call) -> Tensor:
    """Attention of all sequences in one launch, each with its prefix copied in front of it."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value, window = call.query, call.key, call.value, call.window
    plan = _varlen_plan(call.packing, query.device)
    distinct = list({id(prefix): prefix for prefix in call.packing.prefixes if prefix is not None}.values())
    befores = [prefix[call.module] for prefix in distinct]
    # [tokens of distinct prefixes and of the row, key heads, size]; `rows` repeats a prefix for each use.
    keys = torch.cat([*(before[0] for before in befores), key], 1).transpose(0, 1)[plan["rows"]]
    values = torch.cat([*(before[1] for before in befores), value], 1).transpose(0, 1)[plan["rows"]]
    attended = varlen_attn(
        query.transpose(0, 1).contiguous(),
        keys,
        values,
        plan["query_borders"],
        plan["key_borders"],
        plan["longest_query"],
        plan["longest_key"],
        scale=call.scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
        # Else a batch's longest sequence would choose the order of additions. ROCm does not support 1.
        num_splits=1 if torch.version.hip is None else None,
    )
    return attended if isinstance(attended, Tensor) else attended[0]


def _varlen_plan(packing: Packing, device: torch.device) -> dict[str, Any]:
    """The row of each key in [distinct prefixes, tokens of the row], and the borders of queries and keys."""
    if packing.varlen is not None:
        return packing.varlen
    starts, before = dict[int, tuple[int, int]](), 0
    for prefix in packing.prefixes:
        if prefix is not None and id(prefix) not in starts:
            length = next(iter(prefix.values()))[0].shape[1]
            starts[id(prefix)] = (before, length)
            before += length
    rows, lengths = [], []
    for index, prefix in enumerate(packing.prefixes):
        begin, end = packing.borders[index], packing.borders[index + 1]
        start, length = (0, 0) if prefix is None else starts[id(prefix)]
        rows += [torch.arange(start, start + length), torch.arange(before + begin, before + end)]
        lengths.append(length + end - begin)
    borders = torch.tensor(packing.borders, dtype=torch.int32)
    packing.varlen = {
        "rows": torch.cat(rows).to(device),
        "query_borders": borders.to(device),
        "key_borders": torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32),
        "longest_query": int(borders.diff().max()),
        "longest_key": max(lengths),
    }
    return packing.varlen
