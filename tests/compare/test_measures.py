"""What is told of an arm, against brute force and by the letter."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.compare.measures import pass_at, sentence
from gaincurate.compare.verdict import Difference, Reached, Verdict

VERDICT = Verdict("uniform", 0.4, 3, 120, {}, [], [])


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(samples: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    answers = [1] * right + [0] * (samples - right)
    subsets = list(combinations(answers, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    found = pass_at(np.array([float(right)]), np.array([float(samples)]), k)
    assert found[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("found", "reached", "said"),
    [
        (
            Difference("dots", 0.031, (0.02, 0.04), (0.012, 0.05), "better"),
            Reached("dots", 62.0, 0.62, (0.5, None), 0.03),
            "dots: better. +3.1 points of held-out accuracy against uniform (+1.2 to +5.0). It reaches "
            "uniform's final accuracy with 62 % of the tokens (50 % to never).",
        ),
        (
            Difference("length", -0.02, (-0.03, -0.01), (-0.035, -0.005), "worse"),
            Reached("length", None, None, (None, None), 1.0),
            "length: worse. -2.0 points of held-out accuracy against uniform (-3.5 to -0.5). It does not "
            "reach uniform's final accuracy within the budget.",
        ),
        (
            Difference("high", 0.004, (-0.01, 0.02), (-0.02, 0.028), "no difference seen"),
            Reached("high", 90.0, 0.9, (0.5, None), 0.4),
            "high: no difference seen. +0.4 points of held-out accuracy against uniform (-2.0 to +2.8): with "
            "3 seeds and 120 prompts an effect of up to 2.8 points could hide here.",
        ),
        (
            Difference("high", 0.004, None, None, "cannot say"),
            Reached("high", 90.0, 0.9, None, 0.0),
            "high: cannot say. +0.4 points of held-out accuracy against uniform with one seed, and nothing "
            "tells a strategy's effect from a seed's; give at least three.",
        ),
    ],
)
def test_a_sentence_for_an_arm(found: Difference, reached: Reached, said: str) -> None:
    assert sentence(VERDICT, found, reached) == said
