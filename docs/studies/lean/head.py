"""The policy gradient of prompts at the output head, from forward passes alone.

A token's gradient at the head is (one-hot - probabilities) times its hidden state, outer product. The model's
embedding is its head too: what the gradient has as an embedding is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from policy import Policy, Tensor, trees
from world import Prompts

_CHUNK, _TOKENS = 32, 8192  # of one pass: prompts, scored tokens


class Completions(NamedTuple):
    """R completions of N prompts as the head reads them, T tokens in all."""

    prompt: Tensor
    """`[R]`: whose."""
    tokens: Tensor
    """`[T]`: ids."""
    hidden: Tensor
    """`[T, width]`: what the head predicts them from."""
    completion: Tensor
    """`[T]`: which of the R."""
    log_probs: Tensor
    """`[R]`, of whole completions."""
    entropies: Tensor
    """`[R]`: mean over their tokens."""
    angles: Tensor
    """`[R]`: mean cosine of all pairs of tokens of prompt and completion, less the last token."""


@torch.no_grad()
def read(policy: Policy, prompts: Prompts, completions: list[list[list[int]]]) -> Completions:
    """One pass over each prompt with its completions."""
    firsts = np.cumsum([0, *map(len, completions)])
    sizes = [len(p) + sum(map(len, c)) for p, c in zip(prompts.tokens, completions, strict=True)]
    parts, count = [], int(firsts[-1])
    log_probs, entropies, angles = torch.zeros(count), torch.zeros(count), torch.zeros(count)
    for places in np.array_split(np.argsort(sizes, kind="stable"), -(-len(sizes) // _CHUNK)):
        each = [completions[place] for place in places]
        batch = trees([prompts.tokens[place] for place in places], each)
        rows = torch.from_numpy(np.concatenate([np.arange(firsts[k], firsts[k + 1]) for k in places]))
        states = policy.states(batch)
        hidden, branch = states[batch.before], batch.branch
        logs = (hidden @ policy.embedding.T).log_softmax(-1)
        lengths = torch.bincount(branch, minlength=len(rows))
        picked = logs.gather(1, batch.scored[:, None])[:, 0]
        log_probs[rows] = torch.zeros(len(rows)).index_add(0, branch, picked)
        entropy = -(logs.exp() * logs).sum(-1)
        entropies[rows] = torch.zeros(len(rows)).index_add(0, branch, entropy) / lengths
        units = states / states.norm(dim=-1, keepdim=True)
        widths = [len(prompts.tokens[place]) for place in places]
        owners: list[int] = []  # of each token: its completion, or after them all its prompt
        seen = 0
        for number, (width, own) in enumerate(zip(widths, each, strict=True)):
            owners += [len(rows) + number] * width
            owners += [seen + k for k, tokens in enumerate(own) for _ in tokens[1:]]
            seen += len(own)
        sums = torch.zeros(len(rows) + len(places), units.shape[1]).index_add(0, torch.tensor(owners), units)
        whose = np.repeat(np.arange(len(places)), list(map(len, each)))
        whole = sums[: len(rows)] + sums[len(rows) + whose]
        angles[rows] = whole.square().sum(-1) / (torch.tensor(widths)[whose] + lengths - 1) ** 2
        parts.append((batch.scored, hidden, rows[branch]))
    tokens, states, completion = (torch.cat(each) for each in zip(*parts, strict=True))
    prompt = torch.from_numpy(np.repeat(np.arange(len(prompts)), np.diff(firsts)))
    return Completions(prompt, tokens, states, completion, log_probs, entropies, angles)


class Head:
    """Gradients of log-probabilities at the output head, of completions, in sums with weights.

    Args:
        weight: `[V, width]`, of the head.
        rows: the completions.
        prompts: N.
        rank: of the sketch P g Q, with rows of P and Q normal. None: the gradient itself.
        seed: of P and Q.
    """

    def __init__(
        self, weight: Tensor, rows: Completions, prompts: int, rank: int | None = None, seed: int = 0
    ) -> None:
        self.weight, self.rows, self.prompts = weight.detach(), rows, prompts
        random = torch.Generator().manual_seed(seed)
        self._sides = rank and [
            torch.randn(size, rank, generator=random) / rank**0.5 for size in weight.shape
        ]

    def _parts(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`[T, a]` and `[T, b]`: both sides of these tokens' gradients."""
        hidden = self.rows.hidden[tokens]
        errors = -(hidden @ self.weight.T).softmax(-1)
        errors[torch.arange(len(tokens)), self.rows.tokens[tokens]] += 1
        return (errors @ self._sides[0], hidden @ self._sides[1]) if self._sides else (errors, hidden)

    def _chunks(self, weights: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Completions `[T]` and both sides of the tokens that have a weight."""
        used = weights.any(1)[self.rows.completion].nonzero()[:, 0]
        for tokens in used.split(_TOKENS):
            yield self.rows.completion[tokens], *self._parts(tokens)

    def mean(self, weights: Tensor) -> Tensor:
        """`[C, a, b]`: of all prompts' gradients, for C columns of weights `[R, C]`."""
        sums: Any = [0.0] * weights.shape[1]
        for rows, left, right in self._chunks(weights):
            for column, each in enumerate(weights[rows].T):
                sums[column] = sums[column] + (left * each[:, None]).T @ right
        return torch.stack(sums) / self.prompts

    def along(self, weights: Tensor, directions: Tensor) -> Tensor:
        """`[N, C]`: inner products of prompts' gradients with the directions `[C, a, b]`."""
        products = torch.zeros(self.prompts, weights.shape[1])
        for rows, left, right in self._chunks(weights):
            values = torch.stack([((left @ each) * right).sum(-1) for each in directions], 1)
            products.index_add_(0, self.rows.prompt[rows], values * weights[rows])
        return products

    def squares(self, weights: Tensor) -> Tensor:
        """`[N, C]`: squared norms of prompts' gradients."""
        found = torch.zeros(self.prompts, weights.shape[1])
        used = weights.any(1)[self.rows.completion].nonzero()[:, 0]
        owners = self.rows.prompt[self.rows.completion[used]]
        order = owners.argsort(stable=True)
        counts = torch.bincount(owners, minlength=self.prompts).tolist()
        for prompt, tokens in enumerate(used[order].split(counts)):
            if len(tokens):
                (left, right), each = self._parts(tokens), weights[self.rows.completion[tokens]]
                found[prompt] = (((left @ left.T) * (right @ right.T)) @ each * each).sum(0)
        return found
