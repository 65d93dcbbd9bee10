from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.scoring.prefill import PackedStates, SharedPrefix
from gaincurate.scoring.segment import Segmented
from gaincurate.scoring.signals import angle_scores
from gaincurate_kernels import RMSNorm
from gaincurate_kernels.reference import normalised, quadratic

TAIL = 3  # tokens behind the question, which the states do not have


def prompt(prefix: int, question: int) -> Segmented:
    return Segmented(np.arange(prefix + question + TAIL, dtype=np.int32), prefix, prefix + question)


def packed(prompts: list[Segmented], seed: int = 0, width: int = 16) -> PackedStates:
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(p.end for p in prompts)
    return PackedStates.of(torch.randn(tokens, width, generator=generator) + 0.3, prompts)


THREE = [prompt(2, 3), prompt(3, 6), prompt(0, 4)]
SHAPES = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 15)), min_size=1, max_size=6)


@given(SHAPES, st.floats(-3, 3), st.integers(0, 99))
def test_scores_are_of_all_pairs_of_cosines(shapes: list[tuple[int, int]], weight: float, seed: int) -> None:
    prompts = [prompt(*shape) for shape in shapes]
    states = packed(prompts, seed)
    for row, (score, _) in enumerate(angle_scores(states, prompts, inter_weight=weight)):
        prefix, question = shapes[row]
        own = states.hidden[int(states.prefixes[row, 0]) : int(states.questions[row, 1])]
        intra, inter, offdiag = quadratic(own, prefix, len(own))
        assert score is not None
        tokens = (score.prompt_tokens, score.prefix_tokens, score.question_tokens)
        assert tokens == (prefix + question + TAIL, prefix, question)
        assert score.angle_intra == pytest.approx(intra, abs=2e-6)
        assert score.angle_inter == (pytest.approx(inter, abs=2e-6) if prefix else None)
        expected = pytest.approx(intra + weight * inter, abs=1e-5) if prefix else score.angle_intra
        assert score.angle == expected
        assert score.angle_intra_offdiag == (pytest.approx(offdiag, abs=2e-6) if question > 1 else None)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("token", [5, 8, 13])
def test_a_prompt_with_states_that_are_not_finite_alone_has_no_score(bad: float, token: int) -> None:
    prompts = list(THREE)
    states = packed(prompts)
    clean = angle_scores(states, prompts)
    states.hidden[token, 7] = bad
    scores = angle_scores(states, prompts)
    assert scores[1][0] is None
    assert (scores[0], scores[2]) == (clean[0], clean[2])


def test_zero_vectors_are_counted_in_question_and_prefix_for_each_prompt() -> None:
    prompts = list(THREE)
    states = packed(prompts)
    states.hidden[[1, 3, 4, 14]] = 0
    scores = angle_scores(states, prompts)
    assert [zeros for _, zeros in scores] == [3, 0, 1]
    assert all(score is not None for score, _ in scores)


def test_a_norm_that_waits_gives_the_scores_of_its_output() -> None:
    prompts = list(THREE)
    states = packed(prompts)
    norm = RMSNorm(torch.randn(16, generator=torch.Generator().manual_seed(1)), offset=1.0)
    waiting = angle_scores(replace(states, norm=norm), prompts)
    applied = angle_scores(replace(states, hidden=normalised(states.hidden, norm)), prompts)
    a, b, plain = (
        [score.angle for score, _ in scores if score is not None]
        for scores in (waiting, applied, angle_scores(states, prompts))
    )
    assert a == pytest.approx(b, abs=1e-6)
    assert all(abs(x - y) > 1e-3 for x, y in zip(a, plain, strict=True))


def test_a_shared_prefix_counts_for_each_prompt_and_is_summed_once() -> None:
    prompts = [prompt(4, 3), prompt(0, 5), prompt(4, 6), prompt(2, 2)]
    whole = packed(prompts)
    whole.hidden[12:16] = whole.hidden[:4]  # the third prompt's prefix is the first one's
    whole.hidden[1] = whole.hidden[13] = 0
    prefix = SharedPrefix(4, whole.hidden[:4].clone())
    bounds = [(4, 7), (7, 12), (16, 22), (24, 26)]
    states = PackedStates(
        whole.hidden,
        torch.tensor(bounds),
        torch.tensor([(4, 4), (7, 7), (16, 16), (22, 24)]),
        (prefix, None, prefix, None),
        torch.tensor(bounds)[:, 1],
    )
    expected = angle_scores(whole, prompts)
    assert angle_scores(states, prompts) == expected
    assert [zeros for _, zeros in expected] == [1, 0, 1, 0]
    assert prefix.hidden is None  # so it is not summed again
    assert angle_scores(states, prompts) == expected
