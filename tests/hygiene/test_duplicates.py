from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core.scored_set import ScoredSet
from gaincurate.hygiene.duplicates import Keys, duplicates
from gaincurate.hygiene.rows import CheckResult
from questions import asking

KINDS = {
    "What is 1?": 1, "what  is 1?": 1, "what is 1 ?": 2, "caf\u00e9?": 3, "cafe\u0301?": 3, "2\u00b3": 4, "23": 5
}  # fmt: skip
"""Few texts, several of them the same but for case, white space or composition: those have one number."""


def found(scored: ScoredSet) -> CheckResult:
    alive = np.ones(len(scored), bool)
    return duplicates(Keys(scored, alive), alive, "answer")


@given(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=12))
def test_each_row_is_found_with_the_first_that_asks_the_same(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        hits = found(asking(Path(folder) / "set", texts)).hits
        kinds = [KINDS[text] for text in texts]
        expected = {k: kinds.index(kind) for k, kind in enumerate(kinds) if kinds.index(kind) != k}
        assert {hit.place: hit.other for hit in hits} == expected
        for hit in hits:
            assert hit.other is not None
            assert hit.facts["exact"] == (texts[hit.place] == texts[hit.other])


def test_roles_and_earlier_turns_tell_prompts_apart(tmp_path: Path) -> None:
    first, last = ("user", "Hi"), ("user", "HI ")
    chats = [[first], [("system", "Hi"), first], [first, ("assistant", "Hi"), first], [last]]
    prompts = [[{"role": role, "content": content} for role, content in turns] for turns in chats]
    scored = asking(tmp_path / "set", prompts)
    assert [(hit.place, hit.other) for hit in found(scored).hits] == [(3, 0)]


def test_answers_that_differ_are_told(tmp_path: Path) -> None:
    scored = asking(tmp_path / "set", ["a?", "a?", "A?", "b?", "b?"], ["1", "2", "1", "3", "3"])
    told = found(scored)
    assert [(hit.reason, hit.facts) for hit in told.hits] == [
        ("the same messages, another answer", {"exact": True, "same_answer": False}),
        (
            "the same messages except for white space, case, Unicode form or LaTeX spelling",
            {"exact": False, "same_answer": True},
        ),
        ("the same messages", {"exact": True, "same_answer": True}),
    ]
    assert told.note == (
        "2 groups, the largest of 3 rows; the very same text in 2 rows, except for white space, case, Unicode "
        "form or LaTeX spelling in 1; 1 groups have answers that are not written alike: see which one is right"
    )
