"""From packed hidden states to each prompt's angle scores; knows nothing of models or files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gaincurate.schema import Score
from gaincurate.scoring.prefill import PackedStates
from gaincurate.scoring.segment import Segmented
from gaincurate_kernels import angle_concentration, segment_unit_sums


def angle_scores(
    states: PackedStates, prompts: Sequence[Segmented], *, inter_weight: float = 1.0
) -> list[Score | None]:
    """Scores of a batch; None where the hidden states are not finite.

    `angle` = `angle_intra` + `inter_weight` * `angle_inter` (GAIN-RL: weight 1); without a prefix there
    is no inter term and `angle` is `angle_intra` alone.
    """
    begins, ends = states.starts[:-1], states.starts[1:]
    question = segment_unit_sums(states.hidden, torch.stack([states.questions, ends], 1))
    prefix = segment_unit_sums(states.hidden, torch.stack([begins, states.questions], 1))
    found = angle_concentration(question, prefix)
    columns = torch.stack([found.intra, found.inter, found.intra_offdiag], 1).tolist()
    scores: list[Score | None] = []
    for prompt, (intra, inter, offdiag) in zip(prompts, columns, strict=True):
        finite = math.isfinite(intra) and (prompt.prefix == 0 or math.isfinite(inter))
        if not finite:
            scores.append(None)
            continue
        has_prefix = prompt.prefix > 0
        scores.append(
            Score(
                prompt_tokens=len(prompt.token_ids),
                prefix_tokens=prompt.prefix,
                question_tokens=prompt.question_tokens,
                angle=intra + inter_weight * inter if has_prefix else intra,
                angle_intra=intra,
                angle_inter=inter if has_prefix else None,
                angle_intra_offdiag=offdiag if prompt.question_tokens > 1 else None,
            )
        )
    return scores
