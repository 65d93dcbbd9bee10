from __future__ import annotations

import json
from pathlib import Path

import pytest

import sets
from gaincurate.core.files import write_lines
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.verifier import VerifierConfig
from gaincurate.errors import InputError
from gaincurate.hygiene.checks import finding, leave_out, lines, search
from gaincurate.hygiene.findings import CHECKS
from gaincurate.hygiene.options import HygieneOptions
from questions import asking, left

LONG = "a farmer has seventeen sheep and all but nine of them run away how many are left to him now"
EXACT = VerifierConfig(verifier="exact")


def one_of_each(folder: Path) -> tuple[ScoredSet, HygieneOptions]:
    """A set with a row for each check, and options for all of them."""
    rows = [
        sets.scored_row("fine", LONG),
        sets.scored_row("again", LONG.upper()),
        sets.scored_row("near", LONG + " please"),
        sets.scored_row("long", "so many tokens", tokens=50),
        sets.scored_row("leaked", "What is 2+2?"),
        sets.scored_row("sentinel", "no answer"),
        sets.scored_row("word", "in words"),
        sets.scored_row("broken", r"which \boxed{} one?"),
        sets.scored_row("one", "how tall?"),
        sets.scored_row("two", "How tall?"),
    ]
    for row in rows:
        row["answer"] = {"sentinel": "n/a", "word": "some number", "two": "5"}.get(row["gc_id"], "4")
    (folder / "eval.jsonl").write_text(json.dumps({"question": "what is 2 + 2"}) + "\n")
    scored = ScoredSet(sets.make_set(folder / "set", [rows[:4], rows[4:]], answer="answer"))
    options = HygieneOptions(max_prompt_tokens=40, verifier=EXACT, evals=(str(folder / "eval.jsonl"),))
    return scored, options


def test_every_check_finds_its_row_and_says_why(tmp_path: Path) -> None:
    scored, options = one_of_each(tmp_path)
    asked: list[str] = []
    told = [finding(scored, one, 5) for one in search(scored, options, tell=asked.append)]
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
    assert left_out.kept.tolist() == [True, *[False] * 9]
    assert left_out.counts == dict.fromkeys(CHECKS, 1) | {"conflicting-gold": 2}
    listed = list(left_out.lines(scored))
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
    rows = [
        sets.scored_row("broken", "which?"),
        sets.scored_row("good", "which?"),
        sets.scored_row("more", "Which?"),
    ]
    for row, answer in zip(rows, [None, "4", "4"], strict=True):
        row["answer"] = answer
    scored = ScoredSet(sets.make_set(tmp_path / "set", [rows], answer="answer"))
    options = HygieneOptions(("broken-gold", "duplicates"), verifier=EXACT)
    assert leave_out(scored, options).kept.tolist() == [False, True, False]
    found = search(scored, options)
    assert [(line["gc_id"], line["check"]) for line in lines(scored, found)] == [
        ("broken", "broken-gold"),
        ("good", "duplicates"),
        ("more", "duplicates"),
    ], "without dropping each check sees all rows"


def test_near_duplicates_alone_take_duplicates_too(tmp_path: Path) -> None:
    scored = asking(tmp_path / "set", [LONG, LONG, LONG + " please"])
    options = HygieneOptions(("near-duplicates",))
    assert leave_out(scored, options).kept.tolist() == [True, False, False]
    assert not any(one.hits for one in search(left(tmp_path / "once", scored, options), HygieneOptions()))


def test_options_that_cannot_be(tmp_path: Path) -> None:
    for given, sentence in (
        ({"checks": ("doubles",)}, f"there is no check 'doubles'; there are {', '.join(CHECKS)}."),
        ({"checks": ("overlong",)}, "overlong needs --max-prompt-tokens N, the trainer's limit."),
        ({"checks": ("broken-gold",)}, "broken-gold needs --verifier NAME."),
        ({"checks": ("contaminated",)}, "contaminated needs --eval FILE."),
        (
            {"checks": ("duplicates",), "evals": ("e.jsonl",)},
            "--eval is for the check contaminated: name that too, or leave --eval out.",
        ),
        ({"overlap": 1.5}, "--overlap 1.5: a part from 0 to 1 is expected."),
    ):
        with pytest.raises(InputError) as caught:
            HygieneOptions(**given)
        assert str(caught.value) == sentence
    scored = asking(tmp_path / "set", ["a?", "b?"])
    with pytest.raises(InputError) as caught:
        leave_out(scored, HygieneOptions(("overlong",), max_prompt_tokens=1))
    assert str(caught.value) == (
        f"every row of {scored.folder} would be dropped (overlong 2); nothing is written."
    )
