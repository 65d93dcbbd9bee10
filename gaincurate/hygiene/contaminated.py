"""Rows that hold an evaluation question: takes a scored set and the questions' index, yields those rows.

A row is found when it shares an n-gram of words with a question, or is one as a whole. Memory grows with the
evaluation sets and not with the rows. Knows nothing of scores.
"""

from __future__ import annotations

from collections import defaultdict
from difflib import SequenceMatcher

from gaincurate.hygiene.evaluation import EvalIndex, name_of
from gaincurate.hygiene.findings import Found, Hit
from gaincurate.hygiene.rows import Mask, prompts, sample
from gaincurate.hygiene.text import Template, asked, words
from gaincurate.scored_set import ScoredSet

_SHOWN = 60  # words of a shared text


def contaminated(scored: ScoredSet, alive: Mask, index: EvalIndex, overlap: float) -> Found:
    """Rows that share words with an evaluation question.

    Args:
        scored: the set.
        alive: `[rows]`, which rows to look at.
        index: the questions.
        overlap: the least part of a question's n-grams that a row has to share; with 0 one is enough.
    """
    template = Template([words(asked(messages)) for messages in sample(scored, alive)])
    hits = []
    matched: set[int] = set()
    for places, batch in prompts(scored, alive):
        for place, messages in zip(places.tolist(), batch, strict=True):
            row = words(asked(messages))
            found = _match(row, template.strip(row), index, overlap)
            if found is not None:
                number, share, text = found
                matched.add(number)
                hits.append(_hit(place, index, number, share, text))
    half = sum(hit.facts["share"] >= 0.5 for hit in hits)
    note = (
        f"in {half:,} of these rows half of a question's {index.ngram}-grams or more; {len(matched):,} of "
        f"{len(index.items):,} evaluation questions are in the set; {index.only_whole:,} have no "
        f"{index.ngram}-gram of their own and were compared as a whole"
    )
    return Found("contaminated", hits, note)


def _match(
    row: list[str], bare: list[str], index: EvalIndex, overlap: float
) -> tuple[int, float, str] | None:
    """The question that a row shares most of: its number, the part of its n-grams, what is shared."""
    number = index.whole.get(" ".join(bare), index.whole.get(" ".join(row)))
    if number is not None:
        return number, 1.0, index.items[number].text
    starts = index.starts(row)
    if not starts:
        return None
    grams: dict[int, set[str]] = defaultdict(set)
    for start in starts:
        gram = index.gram(row, start)
        for number in index.by_gram[gram]:
            grams[number].add(gram)
    shares = {number: len(found) / len(index.items[number].grams) for number, found in grams.items()}
    best = min(shares, key=lambda number: (-shares[number], number))
    if shares[best] < overlap:
        return None
    return best, shares[best], _longest(row, index.items[best].text.split(" "))


def _longest(row: list[str], question: list[str]) -> str:
    """The longest run of words that both have."""
    match = SequenceMatcher(None, row, question, autojunk=False).find_longest_match()
    return " ".join(row[match.a : match.a + match.size])


def _hit(place: int, index: EvalIndex, number: int, share: float, text: str) -> Hit:
    item = index.items[number]
    shown = " ".join(text.split(" ")[:_SHOWN])
    facts = {
        "eval": item.file,
        "eval_row": item.row,
        "share": round(share, 4),
        "shared": shown,
        "question": " ".join(item.text.split(" ")[:_SHOWN]),
    }
    return Hit(place, f"shares {share:.0%} of the {index.ngram}-grams of {name_of(item)}", None, facts)
