from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.config import VerifierConfig
from gaincurate.hygiene.checks import broken_gold, conflicting_gold, unusable_golds
from gaincurate.hygiene.duplicates import Keys
from gaincurate.hygiene.rows import CheckResult
from questions import asking


def conflicts(scored: ScoredSet, verifier: str | None = None, alive: list[bool] | None = None) -> CheckResult:
    mask = np.ones(len(scored), bool) if alive is None else np.array(alive)
    config = VerifierConfig(verifier=verifier) if verifier else None
    return conflicting_gold(Keys(scored, mask), mask, "answer", config)


def test_every_row_of_a_group_whose_answers_differ_is_found(tmp_path: Path) -> None:
    questions = ["a?", "b?", "A?", "b?", "c?", "a?", "d?", "d?", "a?"]
    scored = asking(tmp_path / "set", questions, list("121239458"))
    found = conflicts(scored)
    assert [(hit.place, hit.other) for hit in found.hits] == [(0, 5), (2, 5), (5, 0), (6, 7), (7, 6), (8, 0)]
    assert found.hits[1].facts == {"answer": "1", "other_answer": "9"}
    assert found.note == "2 questions; answers from 'answer', compared as they are written"
    assert not conflicts(scored, alive=[True, True, True, True, True, False, True, False, False]).hits


def test_a_verifier_says_whether_two_answers_are_one(tmp_path: Path) -> None:
    scored = asking(
        tmp_path / "set", ["half?", "half?", "half?", "third?", "third?"], ["1/2", "0.5", "1/2", "1/3", "3"]
    )
    for verifier in (None, "bad_verifiers:half"):  # half a point is no agreement
        assert [hit.place for hit in conflicts(scored, verifier).hits] == [0, 1, 2, 3, 4]
    judged = conflicts(scored, "math")
    assert [(hit.place, hit.other) for hit in judged.hits] == [(3, 4), (4, 3)]
    assert judged.note == "1 questions; answers from 'answer', judged by math"


def test_broken_answers_are_named_with_the_reason_in_the_order_of_the_set(tmp_path: Path) -> None:
    scored = asking(tmp_path / "set", ["a?", "b?", "c?"], ["1", "", "2"])
    found = broken_gold(scored, np.array([True, True, False]), "answer", VerifierConfig(verifier="exact"))
    assert [(hit.place, hit.reason) for hit in found.hits] == [(1, "the gold answer is empty")]


VALUES = ["12", "3/4", "7", r"\frac{1}{2}", "x^2+1", "$5$", "1,000", "2.5", "-3"]


@pytest.mark.parametrize(
    ("golds", "sentinels", "words"),
    [
        (["12", "proof", "notfound", "3/4"], [1, 2], []),
        (
            [*VALUES, "N/A", "Not Found", "unknown", "NONE", r"\text{n/a}", "proof."],
            [9, 10, 11, 12, 13, 14],
            [],
        ),
        ([*VALUES, None, "", " ", "?", "nan"], [9, 10, 11, 12, 13], []),
        ([*VALUES[:4], "The sequence is convergent."], [], [4]),
        ([*VALUES, "The sequence is convergent.", *VALUES, "Paris"], [], [9, 19]),
        ([*VALUES, "A", "(E)", "yes", "False", r"\text{Evelyn}"], [], []),
        (["A", "B", "C", "D", "E"], [], []),
        (["yes", "no", "unknown", "yes", "no"], [], []),
        (["Paris", "Rome", "proof", "none", "N/A"], [4], []),
        ([*VALUES, "x", "ab", "p - q", "infinity", "2 or 3"], [], []),
    ],
)
def test_golds_that_are_no_answers(
    tmp_path: Path, golds: list[str], sentinels: list[int], words: list[int]
) -> None:
    scored = asking(tmp_path / "set", [f"question {place}?" for place in range(len(golds))], golds)
    alive = np.ones(len(scored), bool)
    for check, result in unusable_golds(scored, alive, "answer").items():
        expected = {"sentinel-gold": sentinels, "word-gold": words}[check]
        assert [hit.place for hit in result.hits] == expected
