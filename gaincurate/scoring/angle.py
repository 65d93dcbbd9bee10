"""Each prompt's angle scores from the hidden states of a packed batch.

A prefix that prompts share is summed once and joined to each of them here, so that sharing changes no score
beyond rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gaincurate.core.schema import Score
from gaincurate.scoring.batching import PackedStates
from gaincurate.scoring.segment import Segmented
from gaincurate_kernels import Backend, UnitSums, angle_concentration, segment_unit_sums


@dataclass(frozen=True, slots=True)
class AngleScores:
    """Per prompt: its score, None where the hidden states are not finite; and how many of its scored tokens
    are zero vectors, which have no direction and count as tokens that add nothing.
    """

    scores: list[Score | None]
    zero_vectors: list[int]


def angle_scores(
    states: PackedStates,
    prompts: Sequence[Segmented],
    *,
    inter_weight: float = 1.0,
    backend: Backend = "auto",
) -> AngleScores:
    """Scores of a batch.

    `angle` = `angle_intra` + `inter_weight` * `angle_inter` (GAIN-RL: weight 1); without a prefix there
    is no inter term and `angle` is `angle_intra` alone.
    """
    count = len(prompts)
    bounds = torch.cat([states.questions, states.prefixes])  # [2 * prompts, 2]
    sums = segment_unit_sums(states.hidden, bounds, norm=states.norm, backend=backend)
    prefixes, prefix_of = _with_shared(states, sums.rows(count, 2 * count), backend)
    angles = angle_concentration(sums.rows(0, count), prefixes, prefix_of, backend=backend)
    zeros = sums.zeros[:count] + prefixes.zeros[prefix_of.to(prefixes.zeros.device)]
    # One table, so that a GPU is waited for once.
    table = torch.stack([angles.intra, angles.inter, angles.intra_offdiag, zeros.double()], 1).tolist()
    scores = [
        _score(prompt, intra, inter, offdiag, inter_weight)
        for prompt, (intra, inter, offdiag, _) in zip(prompts, table, strict=True)
    ]
    return AngleScores(scores, [int(row[3]) for row in table])


def _with_shared(
    states: PackedStates, own_prefixes: UnitSums, backend: Backend
) -> tuple[UnitSums, torch.Tensor]:
    """Every prompt's own prefix and, after them, the shared ones; and which row is whose."""

    def compute(hidden: torch.Tensor) -> UnitSums:
        whole = torch.tensor([[0, len(hidden)]])
        return segment_unit_sums(hidden, whole, norm=states.norm, backend=backend)

    rows = torch.arange(len(states.shared))
    distinct = list(dict.fromkeys(prefix for prefix in states.shared if prefix is not None))
    for place, prefix in enumerate(states.shared):
        if prefix is not None:
            rows[place] = len(own_prefixes.counts) + distinct.index(prefix)
    parts = [own_prefixes, *(prefix.sums(compute) for prefix in distinct)]
    joined = UnitSums(
        torch.cat([part.sums for part in parts]),
        torch.cat([part.counts for part in parts]),
        torch.cat([part.zeros for part in parts]),
    )
    return joined, rows


def _score(
    prompt: Segmented, intra: float, inter: float, offdiag: float, inter_weight: float
) -> Score | None:
    has_prefix = prompt.prefix > 0
    if not math.isfinite(intra) or (has_prefix and not math.isfinite(inter)):
        return None
    return Score(
        prompt_tokens=len(prompt.token_ids),
        prefix_tokens=prompt.prefix,
        question_tokens=prompt.question_tokens,
        angle=intra + inter_weight * inter if has_prefix else intra,
        angle_intra=intra,
        angle_inter=inter if has_prefix else None,
        angle_intra_offdiag=offdiag if prompt.question_tokens > 1 else None,
    )
