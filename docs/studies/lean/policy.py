"""The study's decoder as plain tensors: likelihoods of many answers to a prompt in one pass, and sampling.

A prompt's rollouts share it, so one pass reads it once, and each branch sees it and itself, not the others.
Tokens of all prompts stand in one row without padding. Only attention pads, by prompt. Log-probabilities and
gradients are those of `transformers` up to rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

Tensor = torch.Tensor
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Takes a layer and its queries, keys and values `[T, heads, d]`, yields `[T, heads * d]`."""


class Trees(NamedTuple):
    """Prompts with branches: T tokens in all, P prompts of at most L tokens with branches, S scored tokens.

    A branch's last token is only scored, nothing comes after it, so it is none of the T.
    """

    ids: Tensor
    """`[T]`."""
    positions: Tensor
    """`[T]`, in the text."""
    places: Tensor
    """`[T]`: where a token stands in `[P * L]`."""
    mask: Tensor
    """`[P, 1, L, L]`: true where a token (third) sees another (fourth)."""
    before: Tensor
    """`[S]`: the token of T that a scored one is predicted from."""
    scored: Tensor
    """`[S]`: ids of the branches' tokens, branch after branch."""
    branch: Tensor
    """`[S]`: which branch, counted over all prompts."""
    ends: Tensor
    """`[P]`: the last token of each prompt, among T."""


def trees(prompts: Sequence[Sequence[int]], branches: Sequence[Sequence[Sequence[int]]]) -> Trees:
    """Lay out prompts `[P]` of tokens and the branches of each, which have a token or more."""
    ids: list[int] = []
    positions: list[int] = []
    owners: list[int] = []  # the branch of a token in its prompt; -1 for the prompt itself
    sizes, before, scored, branch, ends = [], [], [], [], []
    for prompt, each in zip(prompts, branches, strict=True):
        begin, width = len(ids), len(prompt)
        ids += prompt
        positions += range(width)
        owners += [-1] * width
        last = len(ids) - 1
        ends.append(last)
        for owner, tokens in enumerate(each):
            inner = len(tokens) - 1
            before += [last, *range(len(ids), len(ids) + inner)]
            scored += tokens
            branch += [branch[-1] + 1 if branch else 0] * len(tokens)
            ids += tokens[:-1]
            positions += range(width, width + inner)
            owners += [owner] * inner
        sizes.append(len(ids) - begin)
    lengths = np.array(sizes)
    longest = int(lengths.max())
    rows = np.repeat(np.arange(len(lengths)), lengths)
    columns = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    table = np.full((len(lengths), longest), -2)
    table[rows, columns] = owners
    owner = torch.from_numpy(table)
    sees = (owner[:, None, :] == -1) | (owner[:, None, :] == owner[:, :, None])
    mask = sees.tril() | torch.eye(longest, dtype=torch.bool)  # padding sees itself, so that nothing is 0 / 0
    return Trees(
        *map(torch.tensor, (ids, positions)),
        torch.from_numpy(rows * longest + columns),
        mask[:, None],
        *map(torch.tensor, (before, scored, branch, ends)),
    )


def by_prompt(parts: Sequence[Tensor], places: Tensor, prompts: int, longest: int) -> list[Tensor]:
    """Parts `[T, heads, d]` of a layer as attention reads them, `[P, heads, L, d]`, padded with 0."""
    return [
        part.new_zeros(prompts * longest, *part.shape[1:])
        .index_copy(0, places, part)
        .view(prompts, longest, *part.shape[1:])
        .transpose(1, 2)
        for part in parts
    ]


class Policy:
    """A decoder in a folder of `transformers` (Llama, tied embeddings), with weights in float32.

    Products of the layers are in the `dtype` of `config.json`, those of the output layer in float32.

    Args:
        folder: with `config.json` and `model.safetensors`.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.heads, self.end = config["num_attention_heads"], config["eos_token_id"]
        self._epsilon = config["rms_norm_eps"]
        self.key_heads = config["num_key_value_heads"]
        self.bfloat16 = config.get("dtype") == "bfloat16"
        if not config["tie_word_embeddings"]:
            raise ValueError(f"{folder}: the study's model has tied embeddings")
        found = {name: w.float() for name, w in load_file(folder / "model.safetensors").items()}
        self.embedding = found["model.embed_tokens.weight"]
        self.norm = found["model.norm.weight"]
        self.layers: list[dict[str, Tensor]] = []
        for number in range(config["num_hidden_layers"]):
            name = f"model.layers.{number}."
            attention, block = f"{name}self_attn.", f"{name}mlp."
            self.layers.append(
                {
                    "in": found[f"{name}input_layernorm.weight"],
                    "qkv": torch.cat([found[f"{attention}{part}_proj.weight"] for part in "qkv"]),
                    "o": found[f"{attention}o_proj.weight"],
                    "mid": found[f"{name}post_attention_layernorm.weight"],
                    "up": torch.cat([found[f"{block}{part}_proj.weight"] for part in ("gate", "up")]),
                    "down": found[f"{block}down_proj.weight"],
                }
            )
        width = self.embedding.shape[1] // self.heads
        theta = (config.get("rope_parameters") or config)["rope_theta"]
        turns = theta ** -(torch.arange(0, width, 2) / width)
        angles = torch.outer(torch.arange(config["max_position_embeddings"]).float(), turns).repeat(1, 2)
        self._cos, self._sin = angles.cos()[:, None], angles.sin()[:, None]  # [positions, 1, d]
        for weights in self.parameters():
            weights.requires_grad_()

    def parameters(self) -> list[Tensor]:
        """All weights, in one order."""
        return [self.embedding, self.norm, *(w for layer in self.layers for w in layer.values())]

    def named(self) -> dict[str, Tensor]:
        """All weights by their names in `transformers`."""
        found = {"model.embed_tokens.weight": self.embedding, "model.norm.weight": self.norm}
        width = self.embedding.shape[1] // self.heads
        sizes = [width * self.heads, width * self.key_heads, width * self.key_heads]
        for number, layer in enumerate(self.layers):
            name = f"model.layers.{number}."
            found[f"{name}input_layernorm.weight"] = layer["in"]
            found[f"{name}post_attention_layernorm.weight"] = layer["mid"]
            found[f"{name}self_attn.o_proj.weight"] = layer["o"]
            found[f"{name}mlp.down_proj.weight"] = layer["down"]
            for part, weights in zip("qkv", layer["qkv"].split(sizes), strict=True):
                found[f"{name}self_attn.{part}_proj.weight"] = weights
            for part, weights in zip(("gate", "up"), layer["up"].chunk(2), strict=True):
                found[f"{name}mlp.{part}_proj.weight"] = weights
        return {name: weights.detach().clone() for name, weights in found.items()}

    def _hidden(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """`[T, width]`: what the output layer reads."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            return self._layers(ids, positions, attend).float()

    def _layers(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        turning, shared = self.heads + self.key_heads, self.heads // self.key_heads
        shape, width = (len(ids), turning + self.key_heads, -1), self.embedding.shape[1:]
        cos, sin = self._cos[positions], self._sin[positions]
        x = self.embedding[ids]
        for number, layer in enumerate(self.layers):
            heads = F.linear(F.rms_norm(x, width, layer["in"], self._epsilon), layer["qkv"]).view(shape)
            turned, v = heads[:, :turning], heads[:, turning:]
            left, right = turned.chunk(2, -1)
            turned = turned * cos + torch.cat([-right, left], -1) * sin
            q, k = turned[:, : self.heads], turned[:, self.heads :]
            if shared > 1:
                k, v = (part.repeat_interleave(shared, 1) for part in (k, v))
            x = x + F.linear(attend(number, q, k, v), layer["o"])
            gate, up = F.linear(F.rms_norm(x, width, layer["mid"], self._epsilon), layer["up"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer["down"])
        return F.rms_norm(x, width, self.norm, self._epsilon)

    def states(self, batch: Trees) -> Tensor:
        """`[T, width]`: what the output layer reads at each token."""
        rows, longest = len(batch.mask), batch.mask.shape[-1]

        def attend(_: int, *parts: Tensor) -> Tensor:
            q, k, v = by_prompt(parts, batch.places, rows, longest)
            mixed = F.scaled_dot_product_attention(q, k, v, batch.mask).transpose(1, 2)
            return mixed.reshape(rows * longest, -1)[batch.places]

        return self._hidden(batch.ids, batch.positions, attend)

    def log_probs(self, batch: Trees) -> Tensor:
        """`[S]`: natural logarithms of the branches' tokens' probabilities."""
        logits = F.linear(self.states(batch)[batch.before], self.embedding)
        return logits.log_softmax(-1).gather(1, batch.scored[:, None])[:, 0]

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        count: int | npt.NDArray[np.int64],
        longest: int,
        random: torch.Generator,
    ) -> list[list[int]]:
        """Completions at temperature 1, with their end tokens: `count` of each prompt, or `count[p]` of p."""
        batch = trees(prompts, [[] for _ in prompts])
        rows, width = len(prompts), batch.mask.shape[-1]
        counts = torch.from_numpy(np.broadcast_to(np.asarray(count, np.int64), (rows,)).copy())
        total = int(counts.sum())
        caches: list[tuple[Tensor, Tensor]] = []

        def read(number: int, *parts: Tensor) -> Tensor:
            q, k, v = by_prompt(parts, batch.places, rows, width)
            room = k.new_zeros(total, k.shape[1], width + longest, k.shape[3])
            cache = room, room.clone()
            for stored, values in zip(cache, (k, v), strict=True):
                stored[:, :, :width] = values.repeat_interleave(counts, 0)
            caches.append(cache)
            mixed = F.scaled_dot_product_attention(q, k, v, batch.mask).transpose(1, 2)
            return mixed.reshape(rows * width, -1)[batch.places]

        hidden = self._hidden(batch.ids, batch.positions, read)[batch.ends].repeat_interleave(counts, 0)
        lengths = torch.tensor([len(prompt) for prompt in prompts]).repeat_interleave(counts)
        seen = (
            torch.arange(width + longest) < lengths[:, None]
        )  # prompts are padded behind, and not seen there
        running = torch.arange(total)
        completions: list[list[int]] = [[] for _ in range(total)]
        for column in range(longest):
            tokens = F.linear(hidden, self.embedding).softmax(-1).multinomial(1, generator=random)[:, 0]
            for row, token in zip(running.tolist(), tokens.tolist(), strict=True):
                completions[row].append(token)
            going = (tokens != self.end).nonzero()[:, 0]
            if not len(going) or column == longest - 1:
                break
            if len(going) < len(tokens):
                running, tokens, lengths, seen = running[going], tokens[going], lengths[going], seen[going]
                caches = [(keys[going], values[going]) for keys, values in caches]
            seen[:, width + column] = True
            sees = seen[:, None, None, : width + column + 1]

            def attend(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                keys, values = caches[number]  # noqa: B023 - called in this turn of the loop
                here = width + column  # noqa: B023
                keys[:, :, here], values[:, :, here] = k, v
                keys, values = keys[:, :, : here + 1], values[:, :, : here + 1]
                mixed = F.scaled_dot_product_attention(q[:, :, None], keys, values, sees)  # noqa: B023
                return mixed.reshape(len(q), -1)

            hidden = self._hidden(tokens, lengths + column, attend)
        return completions
