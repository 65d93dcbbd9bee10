from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gaincurate.hygiene.rows import joined
from gaincurate.hygiene.words import Template, Words, among, normal

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
TEXTS = st.lists(
    st.text() | st.text(st.sampled_from("ab1 $\\\\{}()_\0\u00b2\u00e9\u0301\u7b54frac"), max_size=20),
    max_size=6,
)
ASK = ["let", "s", "think", "step", "by", "step"]


@given(st.text())
@example("\\\x1f0")
def test_normalising_twice_is_normalising_once_and_leaves_no_case_and_no_runs_of_white_space(
    text: str,
) -> None:
    (once,) = normal([text])
    assert normal([once]) == [once]
    assert once == " ".join(once.split())


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (r"Is $\dfrac{1}{2} \leq x$?", r"Is \(\frac{1}{2} \le x\)?", True),
        (r"Solve \[ \left(x + 1\right)^2 = \tfrac12 \]", r"Solve $$(x + 1)^2 = \frac{1}{2}$$", True),
        (r"\left\{ a, \ldots, b \right\}", r"\{ a, \cdots, b \}", True),
        (r"$f(x) = \left. x \right|_0$", r"$f(x) = x |_0$", True),
        (r"$12,\!345\,\mathrm{cm}$", r"$12,345 \text{cm}$", True),
        (r"$\bigl| a \bigr|\ne 0$", r"$| a |\neq 0$", True),
        (r"$\frac{1}{2}$", r"$\frac{2}{1}$", False),
        (r"$x \le 1$", r"$x \ge 1$", False),
        (r"$\leftarrow$", r"$\to$", False),
        (r"a \\(b)", r"a $b$", False),
        (r"costs \$5", r"costs $5", False),
        (r"$\frac{1}{23}$", r"$\frac{12}{3}$", False),
    ],
)
def test_spellings_of_one_formula_are_one_and_other_formulas_stay_others(
    one: str, other: str, equal: bool
) -> None:
    once, again = normal([one, other])
    assert (once == again) == equal
    assert normal([once, again]) == [once, again]


def split(texts: list[str], *, signs: bool = False) -> list[list[str]]:
    words = Words(texts, signs=signs)
    return [words.between(*words.starts[row : row + 2]).split() for row in range(len(words))]


@given(TEXTS)
def test_words_of_a_batch_are_those_that_an_expression_finds_in_each_text(texts: list[str]) -> None:
    expected = [re.findall(rf"[{CJK}]|[^\W_{CJK}]+|[^\w\s]", one) for text in texts for one in normal([text])]
    assert split(texts, signs=True) == expected
    words, flat = Words(texts, signs=True), [word for row in expected for word in row]
    assert words.numbers.tolist() == [
        any(c.isnumeric() and not re.match(f"[{CJK}]", c) for c in w) for w in flat
    ]
    by_hash = dict(zip(words.hashes.tolist(), flat, strict=True))
    assert len(by_hash) == len(set(flat)), "one hash for each word"
    assert split(texts) == [[w for w in row if re.match(r"\w", w)] for row in expected]


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_runs_have_one_hash_only_if_they_are_equal(letters: list[str], first: int, second: int) -> None:
    words, size = Words([" ".join(letters)]), 3
    begins = np.minimum([first, second], max(0, len(letters) - size))
    ends = np.minimum(begins + size, len(letters))
    one, other = words.runs.of(begins, ends).tolist()
    assert (one == other) == (letters[begins[0] : ends[0]] == letters[begins[1] : ends[1]])


def test_words_are_letters_and_digits_and_signs_where_they_count() -> None:
    assert split([r"Solve $x_1 + 2 = \frac{a}{3}$!"]) == [["solve", "x", "1", "2", "frac", "a", "3"]]
    assert split(["x+1", "答案是 42 吗"], signs=True) == [["x", "+", "1"], ["答", "案", "是", "42", "吗"]]
    assert split([]) == []
    assert hex(Words(["a"]).hashes[0]) == hex(Words(["b a"]).hashes[1]) == "0xf3051f4ea311f9bc"
    assert among(np.array([1, 5], np.uint64), np.array([5, 7], np.uint64)).tolist() == [False, True]


def test_long_texts_are_hashed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a long-winded question", "", "word " * 20, "q" * 30]
    whole = Words(texts, signs=True)
    monkeypatch.setattr("gaincurate.hygiene.words._BLOCK", 7)
    assert Words(texts, signs=True).hashes.tolist() == whole.hashes.tolist()


def test_what_a_prompt_asks_is_all_but_the_system_message() -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?")]
    assert joined([{"role": role, "content": content} for role, content in turns]) == "Hi\nYes?\nWhy?"


def stripped(sample: list[list[str]], rows: list[list[str]], least: float = 20) -> list[list[str]]:
    words = Words([" ".join(row) for row in rows])
    begins, ends = Template(Words([" ".join(row) for row in sample]), least).without(words)
    return [words.between(begin, end).split() for begin, end in zip(begins, ends, strict=True)]


def test_ends_that_many_rows_share_are_taken_off_and_nothing_else() -> None:
    rows = [["please", "answer", "this", "question", f"a{k}", f"b{k}", *ASK] for k in range(30)]
    others = [[f"x{k}", "y", f"z{k}"] for k in range(100)]
    given = [rows[3], ["q", *ASK], ["q", "step", "by", "step"], ASK]
    assert stripped([*rows, *others], given) == [["a3", "b3"], ["q"], *given[2:]], "the last would be empty"
    assert stripped(rows[:19], rows[:1]) == rows[:1], "fewer than 20 rows are no template"
    assert stripped(rows[:4], rows[:1], 3) == [["a0", "b0"]]


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=8), max_size=60))
def test_a_row_keeps_at_least_one_word_and_its_middle(rows: list[list[str]]) -> None:
    for row, kept in zip(rows, stripped(rows, rows), strict=True):
        assert bool(kept) == bool(row)
        assert "".join(kept) in "".join(row)
