"""All signals of a batch: angles, NLL and entropy of the question, and its mean embedding.

The head's logits exist for a few tokens at a time, because a batch of them would be larger than the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gaincurate.core.schema import Score
from gaincurate.scoring.angle import angle_scores
from gaincurate.scoring.batching import PackedStates
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.lm_head import Head
from gaincurate.scoring.segment import Segmented
from gaincurate.scoring.summary import Summary
from gaincurate_kernels import Backend

Embedding = npt.NDArray[np.float16]
Measured = tuple[Score | str, int]
"""A prompt's scores, or why it has none; and how many of its scored tokens have no direction."""

_PARTS = 8  # of a chunk's logits, measured one after the other
_LEAST = -1e30  # in place of minus infinity


def embeddings(final: Tensor, questions: Tensor) -> list[Embedding | None]:
    """Each prompt's mean final state over its question, `[width]`; None where it is not finite.

    Args:
        final: `[tokens, width]`, the output of the norm after the last layer, in the model's dtype.
        questions: `[prompts, 2]`, the rows of each prompt's question.

    The mean is taken in float32 and stored in float16, so one beyond 65,504 counts as not finite.
    """
    with np.errstate(over="ignore"):
        vectors = means(final, questions).cpu().numpy().astype(np.float16)
    return [row if np.isfinite(row).all() else None for row in vectors]


def means(final: Tensor, questions: Tensor) -> Tensor:
    """The same before they are stored: `[prompts, width]` in float32."""
    return torch.stack([final[begin:end].float().mean(0) for begin, end in questions.tolist()])


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of one prompt, in nats; None where it was not asked for or is not defined.

    `nll` and `entropy` are means over the question's tokens, each read where the model predicts that token:
    at the token before it. A sequence's first token is predicted nowhere and left out. `last_entropy` is the
    entropy at the last token of the whole prompt, of what would be generated first.
    """

    nll: float | None
    entropy: float | None
    last_entropy: float | None


@dataclass(frozen=True, slots=True)
class _Positions:
    """Where logits are read: each prompt's question tokens in turn, then each prompt's last token.

    `rows`, `[positions]`, are rows of the batch's final states, or below 0 for `-1 - b`: the last token of
    the prefix that prompt b shares. `tokens` are the ones predicted there (any for a last token). `counts`
    are the question tokens of each prompt that are predicted at all.
    """

    rows: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


def likelihoods(
    states: PackedStates, prompts: Sequence[Segmented], head: Head, *, nll: bool, entropy: bool
) -> list[Likelihood | None]:
    """NLL and entropy of a batch; None for a prompt where one of them is not finite.

    Args:
        states: with final states, and with tails if `entropy`.
        prompts: the batch.
        head: of the same model.
        nll: whether it is wanted.
        entropy: whether those of the question and of the last token are.
    """
    positions = _positions(states, prompts, last=entropy)
    losses, entropies = _read(states, positions, head, entropy)
    ends = positions.counts.cumsum()
    results: list[Likelihood | None] = []
    for place, (end, count) in enumerate(zip(ends.tolist(), positions.counts.tolist(), strict=True)):
        question = slice(end - count, end)
        values = [
            float(losses[question].mean()) if nll and count else None,
            float(entropies[question].mean()) if entropy and count else None,
            float(entropies[int(ends[-1]) + place]) if entropy else None,
        ]
        finite = all(value is None or np.isfinite(value) for value in values)
        results.append(Likelihood(*values) if finite else None)
    return results


def _positions(states: PackedStates, prompts: Sequence[Segmented], *, last: bool) -> _Positions:
    rows, tokens, counts = [], [], []
    for place, (prompt, first) in enumerate(zip(prompts, states.questions[:, 0].tolist(), strict=True)):
        predicted = np.arange(max(prompt.prefix, 1), prompt.end)  # places in the prompt
        before = first + predicted - prompt.prefix - 1  # the row before each, where it is predicted
        if states.shared[place] is not None:
            before[0] = -1 - place
        rows.append(before)
        tokens.append(prompt.token_ids[predicted].astype(np.int64))
        counts.append(len(predicted))
    if last:
        rows.append(states.ends.numpy() - 1)
        tokens.append(np.zeros(len(prompts), np.int64))
    return _Positions(np.concatenate(rows), np.concatenate(tokens), np.array(counts))


@torch.inference_mode()
def _read(
    states: PackedStates, positions: _Positions, head: Head, entropy: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """NLL and entropy at every position, float64; zeros for an entropy that is not wanted."""
    assert states.final is not None
    device = states.final.device
    values = torch.zeros(2, len(positions.rows), dtype=torch.float64, device=device)  # NLL, entropy
    shared = np.flatnonzero(positions.rows < 0)
    lasts = [states.shared[-1 - row] for row in positions.rows[shared].tolist()]
    borrowed = [prefix.last for prefix in lasts if prefix is not None and prefix.last is not None]
    parts = [(states.final, np.flatnonzero(positions.rows >= 0), positions.rows)]
    if borrowed:
        rows = np.zeros_like(positions.rows)
        rows[shared] = np.arange(len(shared))
        parts.append((torch.stack(borrowed), shared, rows))
    for source, places, rows in parts:
        for begin in range(0, len(places), head.rows):
            here = places[begin : begin + head.rows]
            chosen = source.index_select(0, torch.from_numpy(rows[here]).to(device))  # [here, width]
            tokens = torch.from_numpy(positions.tokens[here]).to(device)
            values[:, torch.from_numpy(here).to(device)] = _measured(head.logits(chosen), tokens, entropy)
    losses, entropies = values.cpu().numpy()
    return losses, entropies


def _measured(logits: Tensor, tokens: Tensor, entropy: bool) -> Tensor:
    """NLL of `tokens` and entropy, `[2, positions]` float64; `logits` `[positions, vocabulary]` are lost."""
    size = -(-len(logits) // _PARTS)  # what is made of logits is smaller than they are
    parts = zip(logits.split(size), tokens.split(size), strict=True)
    return torch.cat(
        [_measured_part(logits_part, tokens_part, entropy) for logits_part, tokens_part in parts], 1
    )


def _measured_part(logits: Tensor, tokens: Tensor, entropy: bool) -> Tensor:
    """The same of a part, `[2, positions of the part]`.

    With z the logits less their largest and S the sum of e^z, NLL is log S - z[token] and the entropy
    log S - (sum of z e^z) / S. Every z is 0 or less, so neither can come out below 0.
    """
    shifted = logits.float()
    shifted -= shifted.amax(-1, keepdim=True)
    chosen = shifted.gather(-1, tokens[:, None])[:, 0].double()  # [positions]
    if not entropy:
        loss = shifted.exp_().sum(-1).double().log() - chosen
        return torch.stack([loss, torch.zeros_like(loss)])
    # An entry of minus infinity has no share in the entropy, and 0 times infinity is no number.
    weights = shifted.clamp_(min=_LEAST).exp()
    total = weights.sum(-1).double()
    mean = weights.mul_(shifted).sum(-1).double() / total
    return torch.stack([total.log() - chosen, total.log() - mean])


class Signals:
    """What a run measures of each batch.

    Args:
        config: the run's options.
        backend: of the angle code.
        head: the output head, where a signal needs it.
        summary: the time that each signal takes is added here.
    """

    def __init__(self, config: ScoreConfig, backend: Backend, head: Head | None, summary: Summary) -> None:
        self._config = config
        self._backend: Backend = backend
        self._head = head
        self._summary = summary

    def __call__(self, states: PackedStates, prompts: Sequence[Segmented]) -> list[Measured]:
        """Every prompt of a batch, in its order."""
        with self._summary.timed("angle"):
            angles = angle_scores(
                states, prompts, inter_weight=self._config.inter_weight, backend=self._backend
            )
        scores: list[Score | str] = [
            "its hidden states are not finite" if score is None else score for score in angles.scores
        ]
        if "embedding" in self._config.signals:
            with self._summary.timed("embedding"):
                scores = _with_embeddings(scores, states)
        if self._head is not None:
            with self._summary.timed("head"):
                scores = self._with_likelihoods(scores, states, prompts, self._head)
        return list(zip(scores, angles.zero_vectors, strict=True))

    def _with_likelihoods(
        self, scores: list[Score | str], states: PackedStates, prompts: Sequence[Segmented], head: Head
    ) -> list[Score | str]:
        wanted = self._config.signals
        measured = likelihoods(states, prompts, head, nll="nll" in wanted, entropy="entropy" in wanted)
        results: list[Score | str] = []
        for score, likelihood in zip(scores, measured, strict=True):
            if isinstance(score, str):
                results.append(score)
            elif likelihood is None:
                results.append("its NLL or entropy is not finite")
            else:
                results.append(
                    replace(
                        score,
                        nll=likelihood.nll,
                        entropy=likelihood.entropy,
                        last_entropy=likelihood.last_entropy,
                    )
                )
        return results


def _with_embeddings(scores: list[Score | str], states: PackedStates) -> list[Score | str]:
    assert states.final is not None
    return [
        score
        if isinstance(score, str)
        else "its hidden states are not finite"
        if mean is None
        else replace(score, embedding=mean)
        for score, mean in zip(scores, embeddings(states.final, states.questions), strict=True)
    ]
