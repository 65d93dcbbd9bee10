from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import SourceError
from gaincurate.hygiene.contamination import COMMON, EvalIndex, contaminated
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.hygiene.rows import CheckResult
from questions import asking, left

LONG = "a farmer has seventeen sheep and all but nine of them run away how many are left to him now"


def evals(path: Path, questions: list[str]) -> str:
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in questions))
    return str(path)


def found(scored: ScoredSet, file: str, ngram: int = 13, overlap: float = 0.0) -> CheckResult:
    index = EvalIndex([file], None, ngram)
    return contaminated(scored, np.ones(len(scored), bool), index, overlap)


def grams(text: str, ngram: int) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[k : k + ngram]) for k in range(len(words) - ngram + 1)}


TEXT = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=9).map(" ".join)


@given(st.lists(TEXT, min_size=1, max_size=8), st.lists(TEXT, min_size=1, max_size=2), st.integers(2, 4))
def test_a_row_is_found_when_it_shares_an_n_gram_or_is_the_question(
    rows: list[str], questions: list[str], ngram: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scored = asking(Path(folder) / "set", rows)
        file = evals(Path(folder) / "eval.jsonl", questions)
        hits = found(scored, file, ngram).hits
        expected = [
            place
            for place, row in enumerate(rows)
            if any(row == question or grams(row, ngram) & grams(question, ngram) for question in questions)
        ]
        assert [hit.place for hit in hits] == expected
        for hit in hits:
            question = questions[hit.facts["eval_row"]]
            assert f" {hit.facts['shared']} " in f" {question} "
            assert f" {hit.facts['shared']} " in f" {rows[hit.place]} "
            own = grams(question, ngram)
            share = (
                1.0 if rows[hit.place] == question else len(own & grams(rows[hit.place], ngram)) / len(own)
            )
            assert hit.facts["share"] == pytest.approx(share, abs=1e-4)
        options = HygieneOptions(("contaminated",), evals=(file,), ngram=ngram)
        if len(expected) < len(rows):
            once = left(Path(folder) / "once", scored, options)
            assert len(once) == len(rows) - len(expected)
            assert not found(once, file, ngram).hits


def test_thirteen_words_in_a_row_are_enough_and_a_short_question_counts_only_as_a_whole(
    tmp_path: Path,
) -> None:
    words = LONG.split()
    rows = [*(" ".join(words[:many]) + " else" for many in (12, 13)), "What is 2+2?", "What is 2+2? Why?"]
    chats = [[{"role": "system", "content": "Add."}, {"role": "user", "content": row}] for row in rows]
    told = found(asking(tmp_path / "set", chats), evals(tmp_path / "e.jsonl", [LONG, "what is 2 + 2"]))
    assert [hit.place for hit in told.hits] == [1, 2]
    assert told.hits[0].facts["shared"] == " ".join(words[:13])
    assert told.note == (
        "in 1 of these rows half of a question's 13-grams or more; 2 of 2 evaluation questions are in the set; "
        "1 have no 13-gram of their own and were compared as a whole"
    )


def test_a_phrase_of_several_questions_is_no_question(tmp_path: Path) -> None:
    phrase = "where m and n are relatively prime positive integers find the value of m plus n"
    questions = [f"the {name} of it is m over n {phrase}" for name in ("height", "width", "depth")]
    others = [f"how much is {name}" for name in "abcdef"]
    scored = asking(tmp_path / "set", [f"something else {phrase}", questions[1]])
    few = found(scored, evals(tmp_path / "few.jsonl", questions[: COMMON - 1]))
    assert [hit.place for hit in few.hits] == [0, 1]
    many = found(scored, evals(tmp_path / "many.jsonl", questions + others))
    assert [hit.place for hit in many.hits] == [1]
    assert many.hits[0].facts["eval_row"] == 1
    alone = found(scored, evals(tmp_path / "alone.jsonl", questions))
    assert [hit.place for hit in alone.hits] == [1], "as a whole, where the phrase is most of the file"


def test_a_question_that_several_files_have_in_other_words_is_no_phrase(tmp_path: Path) -> None:
    questions = [LONG.replace("now", word) for word in ("today", "then", "later", "again")]
    files = [evals(tmp_path / f"{k}.jsonl", [question]) for k, question in enumerate(questions)]
    scored = asking(tmp_path / "set", [LONG + " please", "why?"])
    told = contaminated(scored, np.ones(2, bool), EvalIndex(files, None, 13), 0.0)
    assert [(hit.place, hit.facts["eval"]) for hit in told.hits] == [(0, files[0])], "of equals the first"


def test_instructions_around_the_questions_do_not_match_each_other(tmp_path: Path) -> None:
    ask = "Let's think step by step and output the final answer within \\boxed{} as a single number."
    names = [f"{a}{b}" for a in "abcdefgh" for b in "pqrst"]
    scored = asking(tmp_path / "set", [f"How old is {name}? {ask}" for name in names])
    told = found(scored, evals(tmp_path / "e.jsonl", [f"Who is {name}? {ask}" for name in names]))
    assert not told.hits
    same = found(scored, evals(tmp_path / "same.jsonl", [f"How old is {name}?" for name in names[:2]]))
    assert [hit.place for hit in same.hits] == [0, 1]


def test_overlap_asks_for_more_of_the_question(tmp_path: Path) -> None:
    words = LONG.split()
    half = " ".join(words[: 13 + (len(words) - 13) // 2])
    scored = asking(tmp_path / "set", [LONG, half, " ".join(words[:13])])
    file = evals(tmp_path / "e.jsonl", [LONG])
    assert [hit.place for hit in found(scored, file, overlap=0.5).hits] == [0, 1]
    assert [hit.place for hit in found(scored, file, overlap=1.0).hits] == [0]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    file.write_text(json.dumps({"text": "why?", "n": 1}) + "\n")
    with pytest.raises(SourceError) as caught:
        EvalIndex([str(file)], None, 13)
    assert str(caught.value) == (
        f"--eval {file}: no column looks like the prompt; name it with --eval-column. The columns are: "
        "text (string), n (int64)."
    )
    with pytest.raises(SourceError, match="--eval nothing.parquet: nothing.parquet does not exist."):
        EvalIndex(["nothing.parquet"], None, 13)
