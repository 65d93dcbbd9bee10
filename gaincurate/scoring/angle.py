"""From packed hidden states to each prompt's angle scores; knows nothing of models or files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gaincurate.schema import Score
from gaincurate.scoring.prefill import PackedStates
from gaincurate.scoring.segment import Segmented
from gaincurate_kernels import Backend, angle_concentration, segment_unit_sums


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
    begins, ends = states.starts[:-1], states.starts[1:]
    questions = torch.stack([states.questions, ends], 1)
    prefixes = torch.stack([begins, states.questions], 1)
    count = len(prompts)
    sums = segment_unit_sums(
        states.hidden, torch.cat([questions, prefixes]), norm=states.norm, backend=backend
    )
    found = angle_concentration(sums.rows(0, count), sums.rows(count, 2 * count), backend=backend)
    zeros = sums.zeros[:count] + sums.zeros[count:]
    # One table, so that a GPU is waited for once.
    table = torch.stack([found.intra, found.inter, found.intra_offdiag, zeros.double()], 1).tolist()
    scores = [
        _score(prompt, intra, inter, offdiag, inter_weight)
        for prompt, (intra, inter, offdiag, _) in zip(prompts, table, strict=True)
    ]
    return AngleScores(scores, [int(row[3]) for row in table])


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
