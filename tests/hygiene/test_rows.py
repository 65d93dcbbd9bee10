from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.hygiene.rows import Template, asked, normal, tokens, words

ASK = ["let", "s", "think", "step", "by", "step"]


@given(st.text())
def test_normalising_twice_is_normalising_once_and_leaves_no_case_and_no_runs_of_white_space(
    text: str,
) -> None:
    once = normal(text)
    assert normal(once) == once
    assert once == " ".join(once.split())
    assert normal(text.swapcase().swapcase()) == normal(text) or text.swapcase().swapcase() != text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"Is $\dfrac{1}{2} \leq x$?", r"Is \(\frac{1}{2} \le x\)?"),
        (r"Solve \[ \left(x + 1\right)^2 = \tfrac12 \]", r"Solve $$(x + 1)^2 = \frac{1}{2}$$"),
        (r"\left\{ a, \ldots, b \right\}", r"\{ a, \cdots, b \}"),
        (r"$f(x) = \left. x \right|_0$", r"$f(x) = x |_0$"),
        (r"$12,\!345\,\mathrm{cm}$", r"$12,345 \text{cm}$"),
        (r"$\bigl| a \bigr|\ne 0$", r"$| a |\neq 0$"),
    ],
)
def test_spellings_of_one_formula_are_one(one: str, other: str) -> None:
    assert normal(one) == normal(other) == normal(normal(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"$\frac{1}{2}$", r"$\frac{2}{1}$"),
        (r"$x \le 1$", r"$x \ge 1$"),
        (r"$\leftarrow$", r"$\to$"),
        (r"a \\(b)", r"a $b$"),
        (r"costs \$5", r"costs $5"),
        (r"$\frac{1}{23}$", r"$\frac{12}{3}$"),
    ],
)
def test_other_formulas_stay_others(one: str, other: str) -> None:
    assert normal(one) != normal(other)


def test_words_are_letters_and_digits_and_tokens_have_the_signs_too() -> None:
    assert words(r"Solve $x_1 + 2 = \frac{a}{3}$!") == ["solve", "x", "1", "2", "frac", "a", "3"]
    assert tokens("x+1") == ["x", "+", "1"]
    assert tokens("x+1") != tokens("x-1")
    assert words("答案是 42 吗") == ["答", "案", "是", "42", "吗"]


def test_what_a_prompt_asks_is_all_but_the_system_message() -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?")]
    assert asked([{"role": role, "content": content} for role, content in turns]) == "Hi\nYes?\nWhy?"


def test_ends_that_many_rows_share_are_taken_off_and_nothing_else() -> None:
    rows = [["please", "answer", "this", "question", f"a{k}", f"b{k}", *ASK] for k in range(30)]
    others = [[f"x{k}", "y", f"z{k}"] for k in range(100)]
    template = Template([*rows, *others])
    assert template.strip(rows[3]) == ["a3", "b3"]
    assert template.strip(["q", *ASK]) == ["q"]
    assert template.strip(["q", "step", "by", "step"]) == ["q", "step", "by", "step"]
    assert template.strip(list(ASK)) == ASK, "nothing would be left"
    assert Template(rows[:19]).strip(rows[0]) == rows[0], "fewer than 20 rows are no template"
    assert Template(rows[:4], 3).strip(rows[0]) == ["a0", "b0"]


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=8), max_size=60))
def test_a_row_keeps_at_least_one_word_and_its_middle(rows: list[list[str]]) -> None:
    template = Template(rows)
    for row in rows:
        kept = template.strip(row)
        assert bool(kept) == bool(row)
        assert "".join(kept) in "".join(row)
