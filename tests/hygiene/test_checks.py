from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest

from gaincurate.core.files import write_lines
from gaincurate.errors import InputError
from gaincurate.hygiene.checks import leave_out, lines, search, summarized
from gaincurate.hygiene.options import CHECKS, HygieneConfig, HygieneOptions
from questions import EXACT, LONG, asking, left, one_of_each


def test_every_check_finds_its_row_and_says_why(tmp_path: Path) -> None:
    scored, options = one_of_each(tmp_path)
    asked: list[str] = []
    told = [summarized(scored, one, 5) for one in search(scored, options, tell=asked.append)]
    same = "the same messages except for white space, case, Unicode form or LaTeX spelling"
    expected = {
        "overlong": {"long": "52 prompt tokens, more than 40"},
        "sentinel-gold": {"sentinel": "the gold answer is 'n/a', which is no answer"},
        "word-gold": {"word": "the gold answer is the text 'some number', where most golds are values"},
        "broken-gold": {"broken": "the verifier gives the gold answer itself 0, not 1"},
        "conflicting-gold": {
            "one": "two (the same question, answers '4' and '5'): How tall?",
            "two": "one (the same question, answers '5' and '4'): how tall?",
        },
        "contaminated": {"leaked": "shares 100% of the 13-grams of eval.jsonl row 0: what is 2 2"},
        "duplicates": {"again": f"fine ({same}): {LONG}", "two": f"one ({same}, another answer): how tall?"},
        "near-duplicates": {"near": f"fine (0.95 of the token triples are shared): {LONG}"},
    }
    assert [one.check for one in told] == asked == list(CHECKS) == list(expected)
    texts = dict(zip(*(scored.column(name).to_pylist() for name in ("gc_id", "question")), strict=True))
    for one in told:
        assert {row["gc_id"]: row["with"] for row in one.examples} == expected[one.check]
        assert (one.rows, one.share) == (len(one.examples), len(one.examples) / 10)
        assert all(row["text"] == texts[row["gc_id"]] for row in one.examples)


def test_only_what_was_asked_for_and_what_it_needs(tmp_path: Path) -> None:
    scored = asking(tmp_path / "set", ["a?", "a?", "b?"])
    by_default = ["sentinel-gold", "word-gold", "duplicates", "near-duplicates"]
    assert [one.check for one in search(scored, HygieneOptions())] == by_default
    only = HygieneOptions(("overlong",), max_prompt_tokens=9)
    assert [(one.check, len(one.hits)) for one in search(scored, only)] == [("overlong", 0)]


def test_dropping_leaves_one_of_each_kind_and_each_row_once(tmp_path: Path) -> None:
    scored, options = one_of_each(tmp_path)
    left_out = leave_out(scored, options)
    assert left_out.remaining.tolist() == [True, *[False] * 9]
    assert left_out.counts == dict.fromkeys(CHECKS, 1) | {"conflicting-gold": 2}
    listed = list(lines(scored, left_out.results))
    assert [line["gc_id"] for line in listed] == [
        "again", "near", "long", "leaked", "sentinel", "word", "broken", "one", "two"
    ]  # fmt: skip
    assert listed[0] == {
        "gc_id": "again", "row": 1, "check": "duplicates", "with": "fine", "exact": False, "same_answer": True,
        "reason": "the same messages except for white space, case, Unicode form or LaTeX spelling",
    }  # fmt: skip
    assert (listed[1]["with"], listed[1]["jaccard"]) == ("fine", 0.9474)
    assert listed[3]["eval_row"] == 0
    path = tmp_path / "new/found.jsonl"
    assert write_lines(path, listed) == 9
    assert [json.loads(line) for line in path.read_text().splitlines()] == listed


def test_a_double_of_a_dropped_row_stays(tmp_path: Path) -> None:
    """A broken answer is dropped first, so that the same question with a good one is not lost as its double."""
    scored = asking(tmp_path / "set", ["which?", "which?", "Which?"], [None, "4", "4"])
    options = HygieneOptions(("broken-gold", "duplicates"), verifier=EXACT)
    assert leave_out(scored, options).remaining.tolist() == [False, True, False]
    assert [(line["gc_id"], line["check"]) for line in lines(scored, search(scored, options))] == [
        ("id0000", "broken-gold"),
        ("id0001", "duplicates"),
        ("id0002", "duplicates"),
    ], "without dropping each check sees all rows"


def test_near_duplicates_alone_take_duplicates_too(tmp_path: Path) -> None:
    scored = asking(tmp_path / "set", [LONG, LONG, LONG + " please"])
    options = HygieneOptions(("near-duplicates",))
    assert leave_out(scored, options).remaining.tolist() == [True, False, False]
    assert not any(one.hits for one in search(left(tmp_path / "once", scored, options), HygieneOptions()))


FOR = "is for the check"


@pytest.mark.parametrize(
    ("checks", "given", "sentence"),
    [
        ("doubles", {}, f"there is no check 'doubles'; there are {', '.join(CHECKS)}."),
        ("overlong", {}, "overlong needs --max-prompt-tokens N, the trainer's limit."),
        ("broken-gold", {}, "broken-gold needs --verifier NAME."),
        ("contaminated", {}, "contaminated needs --eval FILE."),
        ("duplicates", {"evals": ["e"]}, f"--eval {FOR} contaminated: name that too, or leave --eval out."),
        (" duplicates,", {"verifier": "math"}, f"--verifier {FOR} broken-gold: name that too, or leave "),
        ("", {"near": 0.9}, f"--near {FOR} near-duplicates: name that too, or leave --near out."),
        ("duplicates", {"ngram": 5}, "--ngram 5 goes with --eval FILE."),
        (None, {"overlap": 0.5}, "--overlap 0.5 goes with --eval FILE."),
        (None, {"eval_column": "q"}, "--eval-column q goes with --eval FILE."),
        (None, {"gold_as": "{answer}"}, "--gold-as '{answer}' goes with --verifier NAME."),
    ],
)
def test_options_that_do_not_go_together(checks: str | None, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        HygieneConfig(**given).options(checks)


def test_numbers_out_of_range_and_checks_that_leave_nothing(tmp_path: Path) -> None:
    for name, value in (("overlap", 1.5), ("ngram", 1), ("near", 0.2)):
        with pytest.raises(InputError, match=f"^--{name} {value}: expected a number from"):
            HygieneOptions(**cast("Any", {name: value}))
    scored = asking(tmp_path / "set", ["a?", "b?"])
    sentence = f"^every row of {scored.folder} would be dropped \\(overlong 2\\); nothing is written\\.$"
    with pytest.raises(InputError, match=sentence):
        leave_out(scored, HygieneOptions(("overlong",), max_prompt_tokens=1))


def test_conflicts_are_looked_for_by_default_only_where_a_verifier_can_judge() -> None:
    assert "conflicting-gold" not in HygieneOptions().chosen()
    assert "conflicting-gold" in HygieneOptions(verifier=EXACT).chosen()
    assert HygieneOptions(("conflicting-gold",), verifier=EXACT).chosen() == ["conflicting-gold"]
    both = HygieneConfig(evals=["e"], ngram=2, overlap=1, near=0.9)
    assert both.options("near-duplicates,contaminated").chosen() == ["contaminated", "near-duplicates"]
