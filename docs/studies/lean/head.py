"""The policy gradient of prompts at the output head, from rollouts and forward passes alone.

A token's gradient at the head is (one-hot - probabilities) times its hidden state, outer product. The model's
embedding is its head too: what the gradient has as an embedding is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from policy import Policy, Tensor, trees
from world import LONGEST, Prompts

from gaincurate.core.rng import Floats, Ints
from gaincurate.difficulty.verify_worker import said_answer

_SAMPLED, _CHUNK, _TOKENS = 16, 32, 8192  # of one pass: prompts sampled, prompts read, scored tokens


class Completions(NamedTuple):
    """R completions of N prompts as the head reads them, T tokens in all."""

    prompts: int
    """N."""
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
def read(policy: Policy, prompts: list[list[int]], completions: list[list[list[int]]]) -> Completions:
    """One pass over each prompt with its completions."""
    firsts = np.cumsum([0, *map(len, completions)])
    sizes = [len(p) + sum(map(len, c)) for p, c in zip(prompts, completions, strict=True)]
    parts, count = [], int(firsts[-1])
    log_probs, entropies, angles = torch.zeros(count), torch.zeros(count), torch.zeros(count)
    order = [place for place in np.argsort(sizes, kind="stable") if completions[place]]
    for places in np.array_split(order, -(-len(order) // _CHUNK)):
        each = [completions[place] for place in places]
        batch = trees([prompts[place] for place in places], each)
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
        widths = [len(prompts[place]) for place in places]
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
    return Completions(len(prompts), prompt, tokens, states, completion, log_probs, entropies, angles)


class Outcomes(NamedTuple):
    """Rollouts of N prompts: completions, which of them each is, and whether it is right, `[N, rollouts]`."""

    completions: list[list[list[int]]]
    """Of each prompt, distinct. None where none was generated: there no rollout counts."""
    which: Ints
    right: Floats

    def weights(self, sizes: tuple[int, ...], draws: int, tasks: Ints) -> Tensor:
        """`[R, sizes, draws]`: of each completion's gradient in the policy gradient of so many rollouts.

        The baseline is the mean reward of the group, of one rollout that of the task. Draws share no rollout.
        """
        found = torch.zeros(sum(map(len, self.completions)), len(sizes), draws)
        rolled = np.array(list(map(len, self.completions))) > 0
        for place, size in enumerate(sizes):
            for draw in range(draws):
                begin = draw * self.right.shape[1] // draws
                right, which = (part[:, begin : begin + size] for part in (self.right, self.which))
                means = right.mean(1)
                if size == 1:
                    means = (np.bincount(tasks, means) / np.bincount(tasks))[tasks]
                shares = ((right - means[:, None]) / size)[rolled].ravel()
                sums = np.bincount(which[rolled].ravel(), shares, len(found))
                found[:, place, draw] = torch.from_numpy(sums)
        return found


def roll(policy: Policy, prompts: Prompts, rollouts: int, seed: int, rates: Floats | None = None) -> Outcomes:
    """Generate so many for each prompt. With rates, none where all are alike with a chance of .99."""
    random = torch.Generator().manual_seed(seed)
    which, right = np.zeros((len(prompts), rollouts), np.int64), np.zeros((len(prompts), rollouts))
    rates = np.full(len(prompts), 0.5) if rates is None else rates
    alike = rates**rollouts + (1 - rates) ** rollouts >= 0.99
    right[alike & (rates > 0.5)] = 1
    rolled = np.flatnonzero(~alike)
    completions: list[list[list[int]]] = [[] for _ in range(len(prompts))]
    for places in np.array_split(rolled, -(-len(rolled) // _SAMPLED)):
        answers = policy.sample([prompts.tokens[k] for k in places], rollouts, LONGEST, random)
        for number, place in enumerate(places):
            seen: dict[tuple[int, ...], int] = {}
            own = answers[number * rollouts : (number + 1) * rollouts]
            which[place] = [seen.setdefault(tuple(tokens), len(seen)) for tokens in own]
            completions[place] = [list(tokens) for tokens in seen]
            texts = prompts.tokenizer.batch_decode(completions[place], skip_special_tokens=True)
            gold = prompts.answers[place].strip()
            right[place] = np.array([said_answer(text) == gold for text in texts], float)[which[place]]
    firsts = np.cumsum([0, *map(len, completions)])[:-1]
    return Outcomes(completions, which + firsts[:, None], right)


class Head:
    """Gradients of log-probabilities at the output head, of completions, in sums with weights.

    Args:
        weight: `[V, width]`, of the head.
        rows: the completions.
        rank: of the sketch P g Q, with rows of P and Q normal. None: the gradient itself.
        seed: of P and Q.
    """

    def __init__(self, weight: Tensor, rows: Completions, rank: int | None = None, seed: int = 0) -> None:
        self.weight, self.rows = weight.detach(), rows
        self._sketch: tuple[Tensor, ...] | None = None
        if rank:
            random = torch.Generator().manual_seed(seed)
            sides = [torch.randn(size, rank, generator=random) / rank**0.5 for size in weight.shape]
            chunks = [self._parts(tokens) for tokens in torch.arange(len(rows.tokens)).split(_TOKENS)]
            pairs = [[part @ side for part, side in zip(parts, sides, strict=True)] for parts in chunks]
            self._sketch = tuple(torch.cat(each) for each in zip(*pairs, strict=True))

    def _parts(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`[T, a]` and `[T, b]`: both sides of these tokens' gradients."""
        if self._sketch:
            return self._sketch[0][tokens], self._sketch[1][tokens]
        hidden = self.rows.hidden[tokens]
        errors = -(hidden @ self.weight.T).softmax(-1)
        errors[torch.arange(len(tokens)), self.rows.tokens[tokens]] += 1
        return errors, hidden

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
        return torch.stack(sums) / self.rows.prompts

    def along(self, weights: Tensor, directions: Tensor) -> Tensor:
        """`[N, C]`: inner products of prompts' gradients with the directions `[C, a, b]`."""
        products = torch.zeros(self.rows.prompts, weights.shape[1])
        for rows, left, right in self._chunks(weights):
            values = torch.stack([((left @ each) * right).sum(-1) for each in directions], 1)
            products.index_add_(0, self.rows.prompt[rows], values * weights[rows])
        return products

    def squares(self, weights: Tensor) -> Tensor:
        """`[N, C]`: squared norms of prompts' gradients."""
        found = torch.zeros(self.rows.prompts, weights.shape[1])
        used = weights.any(1)[self.rows.completion].nonzero()[:, 0]
        owners = self.rows.prompt[self.rows.completion[used]]
        order = owners.argsort(stable=True)
        counts = torch.bincount(owners, minlength=self.rows.prompts).tolist()
        for prompt, tokens in enumerate(used[order].split(counts)):
            if len(tokens):
                (left, right), each = self._parts(tokens), weights[self.rows.completion[tokens]]
                found[prompt] = (((left @ left.T) * (right @ right.T)) @ each * each).sum(0)
        return found


def sketched(
    policy: Policy, rows: list[Completions], weights: list[Tensor], rank: int | None = None, *, own: bool
) -> list[Floats]:
    """Inner products `[K, D, N]` of gradients at the head with the mean of the set's, and of those held out.

    Args:
        policy: that has read the rows.
        rows: of the set and of the held-out prompts.
        weights: `[R, K, D]` for each: K kinds of weights and D draws. Each draw has its own projections.
        rank: of the sketch; None for exact products.
        own: whether the set's mean has each prompt's own share.
    """
    found = torch.zeros(2, *weights[0].shape[1:], rows[0].prompts)
    for draw in range(weights[0].shape[2]):
        heads = [Head(policy.embedding, each, rank, draw) for each in rows]
        chosen = [each[:, :, draw] for each in weights]
        inner = heads[0].along(chosen[0], heads[0].mean(chosen[0]))
        found[0, :, draw] = (inner if own else inner - heads[0].squares(chosen[0]) / rows[0].prompts).T
        found[1, :, draw] = heads[0].along(chosen[0], heads[1].mean(chosen[1])).T
    return [each.double().numpy() for each in found]
