"""Tiny configurations of the architectures that scoring has to understand, and where their parts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import tiny
from gaincurate.scoring.segment import Segmented


@dataclass(frozen=True)
class Architecture:
    """`layers` is the decoder's list of layers, `norm` the layer's norm before its feed-forward block,
    `block` that block or the first of its two matrices, `final` the norm behind the last layer.
    """

    kind: str
    norm: str = "post_attention_layernorm"
    block: str = "mlp"
    layers: str = "layers"
    final: str = "norm"
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.kind

    @property
    def has_rms_norm(self) -> bool:
        """Whether the norm in front of either site is an RMS norm, as its authors say; else it is a layer norm."""
        return self.kind not in {"gpt2", "gpt_neox", "opt", "falcon", "phi"}

    def config(self) -> Any:
        return transformers.AutoConfig.for_model(self.kind, **{**tiny.COMMON, **self.options})


_GEMMA: dict[str, Any] = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
_MOE = {**_EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
_FULL = {"head_dim": 8, "layer_types": ["full_attention"] * 3, "num_kv_shared_layers": 0}
_PER_LAYER = {**_FULL, "vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 8}
_SHARED = {**_EXPERTS, "shared_intermediate_size": 24}
_GEMMA3N = {**_PER_LAYER, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 3}
_SERIAL, _OPT = {"use_parallel_residual": False}, {"ffn_dim": 32, "word_embed_proj_dim": 32, "dropout": 0.0}

ARCHITECTURES = [
    Architecture("llama"),
    Architecture("qwen2"),
    Architecture("qwen3", options={"head_dim": 8}),
    Architecture("gemma2", "pre_feedforward_layernorm", options=_GEMMA),
    Architecture("gemma3_text", "pre_feedforward_layernorm", options=_GEMMA),
    Architecture("mistral", options={"sliding_window": 8}),
    Architecture("phi3"),
    Architecture("gpt2", "ln_2", layers="h", final="ln_f", options={"n_positions": 512, "n_inner": 48}),
    Architecture("gpt_neox", final="final_layer_norm"),
    Architecture("gpt_neox", final="final_layer_norm", options=_SERIAL, label="gpt_neox_serial"),
    Architecture("opt", "final_layer_norm", "fc1", "decoder.layers", "decoder.final_layer_norm", _OPT),
    Architecture("mixtral", options=_EXPERTS),
    Architecture("qwen2_moe", options={**_MOE, "decoder_sparse_step": 1}),
    Architecture("falcon", "input_layernorm", layers="h", final="ln_f", options={"alibi": False}),
    Architecture("phi", "input_layernorm", final="final_layernorm"),
    Architecture("granitemoeshared", block="shared_mlp", options=_SHARED),
    Architecture("gemma3n_text", "pre_feedforward_layernorm", options=_GEMMA3N),
    Architecture("gemma4_text", "pre_feedforward_layernorm", options={**_PER_LAYER, "global_head_dim": 8}),
]

# One of each kind that scoring treats in its own way: RMS norm; norms around the block, with a window; layer norm
# and transposed weights; experts. The others run in `make test-all`.
FAST = {"llama", "gemma2", "gpt2", "qwen2_moe"}


def in_tiers(kinds: list[Architecture]) -> list[Any]:
    """Parameters for tests, with all but the four marked slow."""
    marks = {kind.name: () if kind.name in FAST else pytest.mark.slow for kind in kinds}
    return [pytest.param(kind, id=kind.name, marks=marks[kind.name]) for kind in kinds]


@torch.no_grad()
def plain_states(
    model: nn.Module, norm: nn.Module, rows: Sequence[Segmented], side: str = "left"
) -> list[Tensor]:
    """What a norm of the model makes of each prompt, `[tokens, hidden]`: of whole prompts, padded as Hugging Face
    does, with a mask.
    """
    longest = max(len(row.token_ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, places = torch.zeros_like(ids), []
    for i, row in enumerate(rows):
        start = longest - len(row.token_ids) if side == "left" else 0
        places.append(slice(start, start + row.end))
        ids[i, start : start + len(row.token_ids)] = torch.from_numpy(row.token_ids).long()
        mask[i, start : start + len(row.token_ids)] = 1
    seen: list[Tensor] = []
    handle = norm.register_forward_hook(lambda _m, _a, out: seen.append(out))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    handle.remove()
    states = seen[0].reshape(len(rows), longest, -1)
    return [states[i, place] for i, place in enumerate(places)]


def loops(states: Tensor, prefix: int) -> tuple[float, float | None]:
    """C_intra and C_inter of a prompt's states, pair by pair in float64; None without a prefix."""
    rows = states.double().numpy()
    rows = rows / np.sqrt((rows * rows).sum(1, keepdims=True))
    intra = [float(np.dot(a, b)) for a in rows[prefix:] for b in rows[prefix:]]
    inter = [float(np.dot(a, b)) for a in rows[prefix:] for b in rows[:prefix]]
    return sum(intra) / len(intra), sum(inter) / len(inter) if inter else None
