"""From final states to each prompt's NLL and entropy; knows nothing of files or of how logits are made.

The head runs on the positions that are read and on no other, a chunk at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gaincurate.scoring.head import Head
from gaincurate.scoring.pack import PackedStates
from gaincurate.scoring.segment import Segmented

_PARTS = 8
_LEAST = -1e30


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
    found: list[Likelihood | None] = []
    for place, (end, count) in enumerate(zip(ends.tolist(), positions.counts.tolist(), strict=True)):
        own = slice(end - count, end)
        values = [
            float(losses[own].mean()) if nll and count else None,
            float(entropies[own].mean()) if entropy and count else None,
            float(entropies[int(ends[-1]) + place]) if entropy else None,
        ]
        finite = all(value is None or np.isfinite(value) for value in values)
        found.append(Likelihood(*values) if finite else None)
    return found


def _positions(states: PackedStates, prompts: Sequence[Segmented], *, last: bool) -> _Positions:
    rows, tokens, counts = [], [], []
    for place, (prompt, first) in enumerate(zip(prompts, states.questions[:, 0].tolist(), strict=True)):
        predicted = np.arange(max(prompt.prefix, 1), prompt.end)
        before = first + predicted - prompt.prefix - 1
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
    found = torch.zeros(2, len(positions.rows), dtype=torch.float64, device=device)
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
            chosen = source.index_select(0, torch.from_numpy(rows[here]).to(device))
            tokens = torch.from_numpy(positions.tokens[here]).to(device)
            found[:, torch.from_numpy(here).to(device)] = _measured(head.logits(chosen), tokens, entropy)
    losses, entropies = found.cpu().numpy()
    return losses, entropies


def _measured(logits: Tensor, tokens: Tensor, entropy: bool) -> Tensor:
    """NLL of `tokens` and entropy, `[2, positions]` float64; `logits` `[positions, vocabulary]` are lost."""
    size = -(-len(logits) // _PARTS)  # what is made of logits is smaller than they are
    parts = zip(logits.split(size), tokens.split(size), strict=True)
    return torch.cat([_measured_part(some, own, entropy) for some, own in parts], 1)


def _measured_part(logits: Tensor, tokens: Tensor, entropy: bool) -> Tensor:
    """The same of a part.

    With z the logits less their largest and S the sum of e^z, NLL is log S - z[token] and the entropy
    log S - (sum of z e^z) / S. Every z is 0 or less, so neither can come out below 0.
    """
    shifted = logits.float()
    shifted -= shifted.amax(-1, keepdim=True)
    chosen = shifted.gather(-1, tokens[:, None])[:, 0].double()
    if not entropy:
        loss = shifted.exp_().sum(-1).double().log() - chosen
        return torch.stack([loss, torch.zeros_like(loss)])
    # An entry of minus infinity has no share in the entropy, and 0 times infinity is no number.
    weights = shifted.clamp_(min=_LEAST).exp()
    total = weights.sum(-1).double()
    mean = weights.mul_(shifted).sum(-1).double() / total
    return torch.stack([total.log() - chosen, total.log() - mean])
