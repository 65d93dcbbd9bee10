"""Hygiene in a report: each check's rows counted, a few of them shown, the page and the document alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaincurate.difficulty.verify import VerifierConfig
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.report.checks import EXAMPLES, LISTED, hygiene_checks
from questions import asking


@settings(max_examples=20)
@given(st.lists(st.sampled_from(["a", "A ", "b", "ab", "caf\u00e9", "cafe\u0301"]), min_size=1, max_size=12))
def test_copies_are_counted_and_shown_with_the_first_of_their_kind(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    kinds = [{"a": 0, "A ": 0, "b": 1, "ab": 2}.get(text, 3) for text in texts]
    (found,) = hygiene_checks(asking(tmp_path_factory.mktemp("d") / "set", texts))
    copies = [place for place, kind in enumerate(kinds) if kind in kinds[:place]]
    assert (found.check, found.rows, found.share) == ("duplicates", len(copies), len(copies) / len(texts))
    assert [one.gc_id for one in found.examples] == [f"id{place:04d}" for place in copies[:EXAMPLES]]
    for one, place in zip(found.examples, copies, strict=False):
        assert one.match.startswith(f"id{kinds.index(kinds[place]):04d} (the same messages")


def test_broken_gold_answers_are_listed_further_than_the_rest(tmp_path: Path) -> None:
    answers = [None if place % 2 else "4" for place in range(60)]
    scored = asking(tmp_path / "set", ["How far?"] * 60, answers)  # type: ignore[arg-type]
    options = HygieneOptions(("duplicates", "broken-gold"), verifier=VerifierConfig("exact"))
    broken, copies = hygiene_checks(scored, options)
    assert (broken.check, broken.rows, len(broken.examples)) == ("broken-gold", 30, LISTED)
    assert [one.gc_id for one in broken.examples] == [f"id{place:04d}" for place in range(1, 2 * LISTED, 2)]
    assert (copies.check, copies.rows, len(copies.examples)) == ("duplicates", 59, EXAMPLES)
