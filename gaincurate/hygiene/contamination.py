"""Rows that hold an evaluation question: they share an n-gram of words with it, or are it as a whole.

The index is of the evaluation questions and not of the rows, so memory grows with the evaluation sets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from gaincurate.core.prompts import Chat
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.source_columns import find_columns
from gaincurate.errors import InputError, SourceError
from gaincurate.hygiene.findings import CheckResult, Hit
from gaincurate.hygiene.rows import Mask, Template, asked, prompts, sample, words
from gaincurate.scoring.readers.source import open_source

_SHOWN = 60  # words of a shared text
COMMON = 3
"""An n-gram of so many different questions of one file is a phrase and not a question."""
LONGEST = 100
"""Words in an n-gram at most: memory is so many times the questions'."""
_TEMPLATE = 20  # rows that end alike, or half of a small file, have an instruction there


def contaminated(scored: ScoredSet, alive: Mask, index: EvalIndex, overlap: float) -> CheckResult:
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
            match = _match(row, template.strip(row), index, overlap)
            if match is not None:
                number, share, text = match
                matched.add(number)
                hits.append(_hit(place, index, number, share, text))
    half = sum(hit.facts["share"] >= 0.5 for hit in hits)
    note = (
        f"in {half:,} of these rows half of a question's {index.ngram}-grams or more; {len(matched):,} of "
        f"{len(index.items):,} evaluation questions are in the set; {index.only_whole:,} have no "
        f"{index.ngram}-gram of their own and were compared as a whole"
    )
    return CheckResult("contaminated", hits, note)


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
    shares = {number: len(shared) / len(index.items[number].grams) for number, shared in grams.items()}
    best = min(shares, key=lambda number: (-shares[number], number))
    if shares[best] < overlap:
        return None
    first = next(gram for start in starts if (gram := index.gram(row, start)) in grams[best])
    return best, shares[best], first


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


@dataclass(frozen=True, slots=True)
class Item:
    """One question: its file, its row there from 0, its text, and its n-grams that tell it from others."""

    file: str
    row: int
    text: str
    grams: frozenset[str]


class EvalIndex:
    """The questions of evaluation sets, each once, by their n-grams and as a whole.

    Args:
        files: whatever `gaincurate score` reads.
        column: the column with the question; by default found as `score` finds its prompt.
        ngram: words in an n-gram.

    Raises:
        InputError: an n-gram of fewer than two or more than a hundred words.
        SourceError: a file cannot be read, or it is unclear where its questions are.
    """

    def __init__(self, files: Sequence[str], column: str | None, ngram: int) -> None:
        if not 2 <= ngram <= LONGEST:
            raise InputError(f"--ngram {ngram}: from 2 to {LONGEST} words.")
        self.ngram = ngram
        read: dict[tuple[str, ...], tuple[str, int]] = {}
        wholes: dict[str, tuple[str, ...]] = {}
        by_file: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        for file, row, question, bare in _questions(files, column):
            read.setdefault(bare, (file, row))
            wholes.setdefault(" ".join(question), bare)
            by_file[file].add(bare)
        # File by file: what three files have, each with a word changed, is a question and no phrase.
        common = set[str]().union(*(_common(questions, ngram) for questions in by_file.values()))
        self.items = [
            Item(file, row, " ".join(question), frozenset(_grams(question, ngram)) - common)
            for question, (file, row) in read.items()
        ]
        numbers = {bare: number for number, bare in enumerate(read)}
        self.whole = {text: numbers[bare] for text, bare in wholes.items()}
        self.whole |= {item.text: number for number, item in enumerate(self.items)}
        by_gram: dict[str, list[int]] = defaultdict(list)
        for number, item in enumerate(self.items):
            for gram in item.grams:
                by_gram[gram].append(number)
        self.by_gram = dict(by_gram)
        # Most n-grams of a row are ruled out by their first and last word, before they are put together.
        self.ends = {(gram[: gram.index(" ")], gram[gram.rindex(" ") + 1 :]) for gram in self.by_gram}

    def starts(self, row: Sequence[str]) -> list[int]:
        """Where in a row's words n-grams of the index begin."""
        pairs = enumerate(zip(row, row[self.ngram - 1 :], strict=False))
        maybe = [start for start, pair in pairs if pair in self.ends]
        return [start for start in maybe if self.gram(row, start) in self.by_gram]

    def gram(self, row: Sequence[str], start: int) -> str:
        """The n-gram of a row's words that begins there."""
        return " ".join(row[start : start + self.ngram])

    @property
    def only_whole(self) -> int:
        """How many questions have no n-gram of their own, too short most of them."""
        return sum(not item.grams for item in self.items)


def _grams(question: Sequence[str], ngram: int) -> Iterator[str]:
    for start in range(len(question) - ngram + 1):
        yield " ".join(question[start : start + ngram])


def _common(questions: Iterable[tuple[str, ...]], ngram: int) -> set[str]:
    """N-grams of several different questions of one file."""
    once: set[str] = set()
    counts: dict[str, int] = {}
    for question in questions:
        for gram in set(_grams(question, ngram)):
            if gram in once:
                counts[gram] = counts.get(gram, 1) + 1
            once.add(gram)
    return {gram for gram, count in counts.items() if count >= COMMON}


def _questions(
    files: Sequence[str], column: str | None
) -> Iterator[tuple[str, int, list[str], tuple[str, ...]]]:
    """File, row from 0, words of each question, and those without the file's template."""
    for file in files:
        questions = [words(text) for text in _texts(file, column)]
        template = Template(questions, max(COMMON, min(_TEMPLATE, len(questions) / 2)))
        for row, question in enumerate(questions):
            if question:
                yield file, row, question, tuple(template.strip(question))


def _texts(file: str, column: str | None) -> Iterator[str]:
    try:
        source = open_source(file)
        columns = find_columns(source.schema, source.first(), prompt=column, tools="none")
    except SourceError as error:
        raise SourceError(f"--eval {file}: {error}".replace("--prompt-column", "--eval-column")) from error
    for batch in source.batches():
        for chat in columns.chats(pa.Table.from_batches([batch])):
            # A row without a question has nothing that could have leaked.
            yield asked(chat.messages) if isinstance(chat, Chat) else ""


def name_of(item: Item) -> str:
    """`FILE row 12`."""
    return f"{Path(item.file).name} row {item.row}"
