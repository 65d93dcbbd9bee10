from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core.scored_set import ScoredSet
from gaincurate.hygiene.duplicates import RECALL, Keys, Sketches, bands, jaccard, near_duplicates, shared
from gaincurate.hygiene.rows import CheckResult
from gaincurate.hygiene.words import Words
from questions import asking

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def found(scored: ScoredSet, threshold: float) -> CheckResult:
    alive = np.ones(len(scored), bool)
    return near_duplicates(Keys(scored, alive, threshold), alive, "answer")


def triples(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[k : k + 3]) for k in range(max(1, len(words) - 2))}


def index(one: str, other: str) -> float:
    a, b = triples(one), triples(other)
    return len(a & b) / len(a | b)


def numbers(text: str) -> list[str]:
    return [word for word in text.split() if word.isdigit()]


def brute_force(texts: list[str], threshold: float) -> dict[int, int]:
    """In file order, each row against all rows that stay."""
    kept: list[int] = []
    expected = {}
    for place, text in enumerate(texts):
        near = [
            (-index(text, texts[k]), k)
            for k in kept
            if index(text, texts[k]) >= threshold and numbers(text) == numbers(texts[k])
        ]
        if near:
            expected[place] = min(near)[1]
        else:
            kept.append(place)
    return expected


def varied(seed: int, rows: int = 80) -> list[str]:
    """Texts of letters and numbers, many of them edits of others."""
    random = np.random.default_rng(seed)
    texts: list[list[str]] = []
    for _ in range(rows):
        if texts and random.random() < 0.7:  # of one of the last: what 20 rows share is a template
            text = list(texts[-random.integers(1, min(len(texts), 6) + 1)])
            for _ in range(random.integers(0, 4)):
                text[random.integers(len(text))] = str(random.choice([*LETTERS, "7", "8"]))
        else:
            text = random.choice([*LETTERS, "1", "2"], random.integers(10, 40)).tolist()
        texts.append(text)
    return [" ".join(text) for text in texts]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_what_is_found_is_what_comparing_all_pairs_finds(tmp_path: Path, seed: int, threshold: float) -> None:
    texts = varied(seed)
    hits = found(asking(tmp_path / "set", texts), threshold).hits
    expected = brute_force(texts, threshold)
    assert expected or threshold == 1
    assert {hit.place: hit.other for hit in hits} == expected
    for hit in hits:
        assert hit.facts["jaccard"] == pytest.approx(index(texts[hit.place], texts[hit.other or 0]), abs=1e-4)


def test_groups_that_stand_apart_are_the_same_in_any_order(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    bases = [random.choice(list(LETTERS), 30).tolist() for _ in range(6)]
    texts = [" ".join([*base[:-1], ending]) for base in bases for ending in ("one", "two", "three")]

    def groups(order: list[int], name: str) -> set[frozenset[int]]:
        hits = found(asking(tmp_path / name, [texts[k] for k in order]), 0.8).hits
        of = {hit.place: hit.other for hit in hits}
        members: dict[int, set[int]] = {}
        for place, k in enumerate(order):
            members.setdefault(of.get(place, place) or 0, set()).add(k)
        return {frozenset(own) for own in members.values()}

    expected = groups(list(range(18)), "one")
    assert sorted(map(len, expected)) == [3] * 6
    assert groups(random.permutation(18).tolist(), "other") == expected


def test_doubles_with_other_answers_are_to_be_looked_at_first(tmp_path: Path) -> None:
    ask = "Spell this long and winding word backward for the two patient readers who wait for it today: {}"
    rows = [ask.format(word) for word in ("splat", "canroyer")]
    warned = "most are problems of their own: look at them before you drop them"
    assert warned in found(asking(tmp_path / "other", rows, ["talps", "reyornac"]), 0.8).note
    assert warned not in found(asking(tmp_path / "half", [*rows, rows[0]], list("xxy")), 0.8).note


def test_other_numbers_are_another_problem(tmp_path: Path) -> None:
    ask = (
        "Tom has {} red apples and gives {} of them to his very best friend; how many are left for him today?"
    )
    texts = [ask.format(9, 4), ask.format(8, 4), ask.format(4, 9), ask.format(9, 4) + " Think."]
    result = found(asking(tmp_path / "set", texts, list("5455")), 0.6)
    assert [(hit.place, hit.other, hit.facts["same_answer"]) for hit in result.hits] == [(3, 0, True)]
    assert result.note == "1 groups, the largest of 2 rows; 0 rows have an answer that is written otherwise"


@pytest.mark.parametrize(
    ("number", "other"),
    [("1/3", "-1/3"), (r"$\frac{1}{3}$", r"$-\frac{1}{3}$"), ("(3)", "(\u22123)"), ("x+2", "x-2")],
)
def test_a_minus_before_a_number_makes_another_one(tmp_path: Path, number: str, other: str) -> None:
    ask = "{} is the slope of a line through the origin that meets the unit circle twice; where does it?"
    texts = [ask.format(number), ask.format(other), "x -", ask.format(number) + " Say."]
    assert [(hit.place, hit.other) for hit in found(asking(tmp_path / "set", texts), 0.6).hits] == [(3, 0)]


def test_an_instruction_that_many_rows_have_does_not_make_them_alike(tmp_path: Path) -> None:
    ask = " Let's think step by step and output the final answer within \\boxed{}."
    texts = [f"How tall is {one}{two}?{ask}" for one in LETTERS for two in "xy"]
    assert not found(asking(tmp_path / "set", texts), 0.6).hits
    assert len(found(asking(tmp_path / "few", texts[:10]), 0.6).hits) == 9, "too few to be a template"
    long = " ".join(f"word{k}" for k in range(100))
    again = asking(tmp_path / "again", [f"{number} {long}" for number in [5] * 30 + [6] * 30])
    assert {hit.other for hit in found(again, 0.8).hits} == {0, 30}, "a repeated question is none"


@given(st.floats(0.3, 1))
def test_bands_find_a_pair_at_the_threshold_as_surely_as_they_say(threshold: float) -> None:
    count, size = bands(threshold)
    assert count * size <= 64
    assert 1 - (1 - threshold**size) ** count >= RECALL - 1e-12


def sketches(rows: list[list[str]], threshold: float = 0.8) -> Sketches:
    words = Words([" ".join(row) for row in rows], signs=True)
    return Sketches(words, words.starts[:-1], words.starts[1:], threshold)


def test_candidates_and_triples_are_those_of_the_texts() -> None:
    """Pairs with a Jaccard index of 16 / 20: nearly all share a key. Pairs with 5 / 31: nearly none."""
    random = np.random.default_rng(9)
    for edited, least, most in (([0, 19], 0.999, 1.0), ([2, 5, 8, 11, 14], 0.0, 0.03)):
        rows = [random.choice(list(LETTERS), 20).tolist() for _ in range(2000)]
        others = [[token + "x" if k in edited else token for k, token in enumerate(row)] for row in rows]
        made = sketches([*rows, *others])
        share = (made.keys[:, :2000] == made.keys[:, 2000:]).any(0).mean()
        assert least <= share <= most
        for k in range(50):
            exact = index(" ".join(rows[k]), " ".join(others[k]))
            sets = [made.of(2000 + k), made.of(k), made.of((k + 1) % 50)]
            assert jaccard(made.of(k), sets)[:2].tolist() == pytest.approx([exact, 1.0])
    keys = np.array([[1, 1, 2, 3, 9], [5, 5, 5, 6, 9], [9, 9, 8, 7, 1]], np.uint64)
    assert shared(keys, np.array([0, 1, 1, 1, 1], bool)).tolist() == [False, True, True, False, False]


def test_a_row_of_few_tokens_is_one_triple() -> None:
    made = sketches([[], ["a"], ["a", "b"], ["a", "b", "c"], ["b", "a"], ["a"], ["\u00bd"]])
    assert [len(made.of(k)) for k in range(7)] == [1] * 7
    assert len({int(made.of(k)[0]) for k in range(7)}) == 6
    assert (made.keys[:, 1] == made.keys[:, 5]).all()
