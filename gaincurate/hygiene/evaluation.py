"""Evaluation sets as n-grams: takes files, yields an index of their questions.

Knows nothing of training rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from gaincurate.errors import InputError, SourceError
from gaincurate.hygiene.text import Template, asked, words
from gaincurate.scoring.columns import PromptProblem, column_values, find_columns, to_messages
from gaincurate.scoring.read import open_source

COMMON = 3
"""An n-gram of so many different questions of one file is a phrase and not a question."""
_TEMPLATE = 20  # rows that end alike, or half of a small file, have an instruction there


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
        InputError: an n-gram of fewer than two words.
        SourceError: a file cannot be read, or it is unclear where its questions are.
    """

    def __init__(self, files: Sequence[str], column: str | None, ngram: int) -> None:
        if ngram < 2:
            raise InputError(f"--ngram {ngram}: at least two words.")
        self.ngram = ngram
        read: dict[tuple[str, ...], tuple[str, int]] = {}
        wholes: dict[str, tuple[str, ...]] = {}
        own: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        for file, row, question, bare in _questions(files, column):
            read.setdefault(bare, (file, row))
            wholes.setdefault(" ".join(question), bare)
            own[file].add(bare)
        # File by file: what three files have, each with a word changed, is a question and no phrase.
        common = set[str]().union(*(_common(questions, ngram) for questions in own.values()))
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
        found = [words(text) for text in _texts(file, column)]
        template = Template(found, max(COMMON, min(_TEMPLATE, len(found) / 2)))
        for row, question in enumerate(found):
            if question:
                yield file, row, question, tuple(template.strip(question))


def _texts(file: str, column: str | None) -> Iterator[str]:
    try:
        source = open_source(file)
        name = find_columns(source.schema, prompt=column).prompt
    except SourceError as error:
        raise SourceError(f"--eval {file}: {error}".replace("--prompt-column", "--eval-column")) from error
    for batch in source.batches():
        for value in column_values(pa.Table.from_batches([batch]), name):
            try:
                yield asked(to_messages(value, name))
            except PromptProblem:
                yield ""  # no question, so nothing that could have leaked


def name_of(item: Item) -> str:
    """`FILE row 12`."""
    return f"{Path(item.file).name} row {item.row}"
