"""Rows that contain an evaluation question: they share an n-gram of words with it, or equal it.

The index is of the evaluation questions and not of the rows, so memory grows with the evaluation sets.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from gaincurate.core.prompts import Chat
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.source_columns import find_columns
from gaincurate.errors import SourceError
from gaincurate.hygiene.rows import BATCH, CheckResult, Hit, Ints, Mask, asked, batches, joined, sample
from gaincurate.hygiene.words import Hashes, Template, Words, among
from gaincurate.scoring.readers.source import open_source

_SHOWN = 60  # words of a shared text
COMMON = 3
"""An n-gram that so many different questions of one file have is a common phrase."""
_BITS = 20
_SHIFT = np.uint64(64 - _BITS)
_TEMPLATE = 20  # rows that end alike, or half of a small file, have an instruction there


def contaminated(scored: ScoredSet, alive: Mask, index: EvalIndex, overlap: float) -> CheckResult:
    """Rows that share words with an evaluation question.

    Args:
        scored: the set.
        alive: `[rows]`, which rows to look at.
        index: the questions.
        overlap: the least part of a question's n-grams that a row has to share; with 0 one is enough.
    """
    template = Template(Words(sample(scored, alive)))
    hits, matched = [], set[int]()
    for places, table in batches(scored, alive):
        rows = Words(asked(scored, table))
        begins, ends = template.without(rows)
        for row in index.candidates(rows, begins, ends).tolist():
            words, bare = rows.between(*rows.starts[row : row + 2]), rows.between(begins[row], ends[row])
            number, share, text = _match(words, bare, index)
            if number is None or share < overlap:
                continue
            matched.add(number)
            item = index.items[number]
            reason = f"shares {share:.0%} of the {index.ngram}-grams of {Path(item.file).name} row {item.row}"
            facts = {"eval": item.file, "eval_row": item.row, "share": round(share, 4)}
            texts = {"shared": text, "question": item.text}
            facts |= {name: " ".join(text.split(" ")[:_SHOWN]) for name, text in texts.items()}
            hits.append(Hit(int(places[row]), reason, None, facts))
    half = sum(hit.facts["share"] >= 0.5 for hit in hits)
    only_whole = sum(not item.grams for item in index.items)
    note = (
        f"in {half:,} of these rows half of a question's {index.ngram}-grams or more; {len(matched):,} of "
        f"{len(index.items):,} evaluation questions are in the set; {only_whole:,} have no "
        f"{index.ngram}-gram of their own and were compared as a whole"
    )
    return CheckResult("contaminated", hits, note)


def _match(row: str, bare: str, index: EvalIndex) -> tuple[int | None, float, str]:
    """The question with the largest share in a row: its number, that share of its n-grams, a shared text."""
    number = index.whole.get(bare, index.whole.get(row))
    if number is not None:
        return number, 1.0, index.items[number].text
    in_order = [gram for gram in _grams(row, index.ngram) if gram in index.by_gram]
    grams: dict[int, set[str]] = defaultdict(set)
    for gram in in_order:
        for number in index.by_gram[gram]:
            grams[number].add(gram)
    shares = {number: len(shared) / len(index.items[number].grams) for number, shared in grams.items()}
    if not shares:
        return None, 0.0, ""
    best = min(shares, key=lambda number: (-shares[number], number))
    return best, shares[best], next(gram for gram in in_order if gram in grams[best])


@dataclass(frozen=True, slots=True)
class Item:
    """One question: its file, its row there from 0, its text, and its n-grams without common phrases."""

    file: str
    row: int
    text: str
    grams: frozenset[str]


class EvalIndex:
    """The questions of evaluation sets, each once, by their n-grams and as a whole.

    Args:
        files: in any format that `gaincurate score` reads.
        column: the column with the question; by default found as `score` finds its prompt.
        ngram: words in an n-gram; memory grows with `ngram` times the size of the questions.

    Raises:
        SourceError: a file cannot be read, or it is unclear where its questions are.
    """

    def __init__(self, files: Sequence[str], column: str | None, ngram: int) -> None:
        self.ngram, self.whole = ngram, dict[str, int]()
        numbers, places, by_file = dict[str, int](), list[tuple[str, int]](), defaultdict[str, set[str]](set)
        for file, row, text, bare in _questions(files, column):
            if bare not in numbers:
                numbers[bare] = len(places)
                places.append((file, row))
            self.whole.setdefault(text, numbers[bare])
            by_file[file].add(bare)
        self.whole |= numbers
        common = set[str]()
        # File by file: changed copies of a question in several files do not make its n-grams common.
        for questions in by_file.values():
            counts = Counter(gram for question in questions for gram in set(_grams(question, ngram)))
            common |= {gram for gram, count in counts.items() if count >= COMMON}
        self.items = [
            Item(*place, text, frozenset(_grams(text, ngram)) - common)
            for text, place in zip(numbers, places, strict=True)
        ]
        self.by_gram: dict[str, list[int]] = defaultdict(list)
        for number, item in enumerate(self.items):
            for gram in item.grams:
                self.by_gram[gram].append(number)
        self._gram_hashes = _hashes(list(self.by_gram))
        self._whole_hashes = _hashes(list(self.whole))
        self._maybe = np.zeros(1 << _BITS, bool)
        self._maybe[self._gram_hashes >> _SHIFT] = True

    def candidates(self, rows: Words, begins: Ints, ends: Ints) -> Ints:
        """The rows whose hashes match an n-gram or a whole question of the index, ascending.

        `begins` and `ends` say where the words of each row begin and end without its template, `[rows]`.
        """
        firsts = np.arange(len(rows.hashes) - self.ngram + 1)
        grams = rows.runs.of(firsts, firsts + self.ngram)
        firsts = firsts[self._maybe[grams >> _SHIFT]]  # rules nearly all of them out
        firsts = firsts[among(grams[firsts], self._gram_hashes)]
        owners = np.searchsorted(rows.starts, firsts, "right") - 1
        with_gram = owners[firsts + self.ngram <= rows.starts[owners + 1]]
        wholes = (rows.whole, rows.runs.of(begins, ends))
        with_whole = [np.flatnonzero(among(whole, self._whole_hashes)) for whole in wholes]
        return np.unique(np.concatenate([with_gram, *with_whole]))


def _grams(text: str, ngram: int) -> Iterator[str]:
    words = text.split()
    for start in range(len(words) - ngram + 1):
        yield " ".join(words[start : start + ngram])


def _questions(files: Sequence[str], column: str | None) -> Iterator[tuple[str, int, str, str]]:
    """File, row from 0, words of each question, and those without the file's template."""
    for file in files:
        questions = Words(list(_texts(file, column)))
        begins, ends = Template(questions, max(COMMON, min(_TEMPLATE, len(questions) / 2))).without(questions)
        for row in range(len(questions)):
            if text := questions.between(*questions.starts[row : row + 2]):
                yield file, row, text, questions.between(begins[row], ends[row])


def _hashes(texts: list[str]) -> Hashes:
    """A hash of the words of each text, sorted."""
    parts = [Words(texts[start : start + BATCH]).whole for start in range(0, len(texts), BATCH)]
    return np.sort(np.concatenate([np.zeros(0, np.uint64), *parts]))


def _texts(file: str, column: str | None) -> Iterator[str]:
    try:
        source = open_source(file)
        columns = find_columns(source.schema, source.first(), prompt=column, tools="none")
    except SourceError as error:
        raise SourceError(f"--eval {file}: {error}".replace("--prompt-column", "--eval-column")) from error
    for batch in source.batches():
        for chat in columns.chats(pa.Table.from_batches([batch])):
            # A row without a question cannot have leaked.
            yield joined(chat.messages) if isinstance(chat, Chat) else ""
