"""Rows that ask the same as an earlier row, or nearly the same as an earlier row that stays.

The same means equal messages except for white space, upper case, how Unicode composes characters and which of
its spellings LaTeX has. Rows are compared by hash, so memory is 8 bytes per row.

Nearly the same goes by the Jaccard index of two prompts' token triples. MinHash (rensa) finds candidates, and
the index itself is computed for each of them, so no row is found by chance. Rows are taken in file order and
compared with the rows that stay: none is found because of a row that is found too.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gaincurate.core.foreign import json_value
from gaincurate.core.prompts import Message, column_values
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.hygiene.findings import CheckResult, Hit
from gaincurate.hygiene.rows import Mask, Template, asked, batches, normal, prompts, read, sample, tokens

if TYPE_CHECKING:
    from rensa import RMinHash, RMinHashLSH

_encode = json.JSONEncoder(sort_keys=True, default=str).encode
_BUT_FOR = "white space, case, Unicode form or LaTeX spelling"
_MINUS = frozenset("-\u2212\u2013")
_BEFORE_NUMBER = frozenset(["\\", "frac", "sqrt", "{", "(", "$"])
"""What may stand between a minus and its number."""
THRESHOLD = 0.8
_CACHED = 1 << 14
RECALL = 0.999
_SHINGLE = 3
_HASHES, _SEED = 120, 42
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Repeat:
    """A row, the first one that asks the same, and whether their exact texts and their answers are equal."""

    place: int
    head: int
    exact: bool
    same_answer: bool


def duplicates(scored: ScoredSet, alive: Mask, answer: str | None) -> CheckResult:
    """Rows whose messages an earlier row has; answers do not count. Groups that differ there are reported.

    Args:
        scored: the set.
        alive: `[rows]`, which rows to look at.
        answer: the column with the gold answers, where there is one.
    """
    again, hits = repeats(scored, alive, answer), []
    for row in again:
        reason = "the same messages" if row.exact else f"the same messages except for {_BUT_FOR}"
        reason += "" if row.same_answer else ", another answer"
        facts = {"exact": row.exact} | ({"same_answer": row.same_answer} if answer else {})
        hits.append(Hit(row.place, reason, row.head, facts))
    return CheckResult("duplicates", hits, _note(again, answer))


def repeats(scored: ScoredSet, alive: Mask, answer: str | None) -> list[Repeat]:
    """Every row that asks what an earlier row asks, in the order of the set.

    All rows are read for a hash of what they ask, and those that share one are read again.
    """
    hashes = (hash(_alike(messages)) for _, batch in prompts(scored, alive) for messages in batch)
    keys = np.fromiter(hashes, np.int64, int(alive.sum())).view(np.uint64)
    repeated = alive.copy()
    repeated[alive] = shared(keys[:, None])
    firsts: dict[bytes, tuple[int, bytes, bytes]] = {}
    again = []
    for places, table in batches(scored, repeated):
        answers = column_values(table, answer) if answer else [None] * table.num_rows
        for place, messages, gold in zip(places.tolist(), read(scored, table), answers, strict=True):
            text, its_answer = _digest([(m["role"], m["content"]) for m in messages]), _digest(gold)
            first = firsts.setdefault(_digest(_alike(messages)), (place, text, its_answer))
            if first[0] != place:
                again.append(Repeat(place, first[0], first[1] == text, first[2] == its_answer))
    return again


def _alike(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((m["role"], normal(m["content"] or "")) for m in messages)


def _digest(value: object) -> bytes:
    return hashlib.blake2b(_encode(value).encode(), digest_size=16).digest()


def _note(again: Sequence[Repeat], answer: str | None) -> str:
    if not again:
        return ""
    counts, same = Counter(row.head for row in again), sum(row.exact for row in again)
    note = (
        f"{len(counts):,} groups, the largest of {max(counts.values()) + 1:,} rows; the very same text in "
        f"{same:,} rows, except for {_BUT_FOR} in {len(again) - same:,}"
    )
    differ = len({row.head for row in again if not row.same_answer})
    if answer and differ:
        note += f"; {differ:,} groups have answers that are not written alike: see which one is right"
    return note


@dataclass(frozen=True, slots=True)
class Likeness:
    """When two rows are near duplicates.

    `threshold` of the Jaccard index, from 0.3 to 1. Unless `any_numbers`, both also have the same numbers in
    the same order: the same words with other numbers are another problem.
    """

    threshold: float = THRESHOLD
    any_numbers: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    place: int
    tokens: list[str]
    answer: Any


def near_duplicates(scored: ScoredSet, alive: Mask, likeness: Likeness, answer: str | None) -> CheckResult:
    """Rows that are similar to an earlier row that stays.

    A pair at the threshold is a candidate with probability 0.999 or more, a closer one with more. Rows are
    read twice: first to see which are no candidates at all, since an index of all needs 3 kB a row.

    Args:
        scored: the set.
        alive: `[rows]`, which rows to look at.
        likeness: how similar.
        answer: the column with the gold answers, where there is one: it is reported whether they are equal.

    Raises:
        InputError: a threshold out of range, or rensa is not installed.
        StorageError: there is no place for the texts in the folder of temporary files.
    """
    sketches = Sketches(likeness.threshold)
    template = Template([tokens(asked(messages)) for messages in sample(scored, alive)])
    keys = np.zeros((int(alive.sum()), sketches.bands), np.uint64)
    end = 0
    for rows in _rows(scored, alive, template, None):
        keys[end : end + len(rows)] = sketches.keys([shingles(row.tokens) for row in rows])
        end += len(rows)
    candidates = alive.copy()
    candidates[alive] = shared(keys)
    del keys
    hits: list[Hit] = []
    with tempfile.TemporaryFile() as file:  # without a name: a kill leaves no texts behind
        search = _Search(sketches, likeness, file, answer is not None)
        for rows in _rows(scored, candidates, template, answer):
            hits += search.compare(rows)
    return CheckResult("near-duplicates", hits, _note_near(hits, search.other_numbers, answer))


def _rows(scored: ScoredSet, alive: Mask, template: Template, answer: str | None) -> Iterator[list[_Row]]:
    for places, table in batches(scored, alive):
        answers = column_values(table, answer) if answer else [None] * table.num_rows
        prompts = [template.strip(tokens(asked(messages))) for messages in read(scored, table)]
        yield [_Row(*row) for row in zip(places.tolist(), prompts, answers, strict=True)]


class _Search:
    """Compares rows, in file order, with those that stay: an index of their sketches, their text in a file.

    `other_numbers` counts the rows that stay for their numbers alone.
    """

    def __init__(self, sketches: Sketches, likeness: Likeness, file: IO[bytes], answers: bool) -> None:
        self.other_numbers = 0
        self._sketches, self._likeness, self._answers = sketches, likeness, answers
        self._least = likeness.threshold
        self._index = sketches.index()
        self._places: list[int] = []
        self._numbers: list[bytes] = []
        self._file, self._ends = file, array("q", [0])
        self._shingles = lru_cache(_CACHED)(lambda number: shingles(self._read(number)[0]))

    def compare(self, rows: list[_Row]) -> list[Hit]:
        """The near duplicates among the next rows."""
        sets = [shingles(row.tokens) for row in rows]
        sketched = zip(rows, sets, self._sketches.of(sets), strict=True)
        hits = [self._one(row, triples, sketch) for row, triples, sketch in sketched]
        return [hit for hit in hits if hit is not None]

    def _one(self, row: _Row, triples: set[str], sketch: Any) -> Hit | None:
        def likeness(number: int) -> float:
            return jaccard(triples, self._shingles(number))

        numbers = _digest(_numbers(row.tokens))
        candidates = [(number, self._numbers[number] == numbers) for number in self._index.query(sketch)]
        chosen = [number for number, same in candidates if same or self._likeness.any_numbers]
        alike = [(index, -number) for number in chosen if (index := likeness(number)) >= self._least]
        if alike:
            index, negative = max(alike)  # the most similar, of equals the first in the file
            text, answer = self._read(-negative)
            same = _numbers(row.tokens) == _numbers(text)
            facts = {"jaccard": round(index, 4), "same_numbers": same}
            facts |= {"same_answer": _text(row.answer) == answer} if self._answers else {}
            reason = f"{index:.2f} of the token triples are shared"
            reason += "" if same else ", the numbers differ"
            reason += "" if facts.get("same_answer", True) else ", another answer"
            return Hit(row.place, reason, self._places[-negative], facts)
        # The first that is alike says it: in a set made of one template all rows before this one are.
        self.other_numbers += any(likeness(number) >= self._least for number, same in candidates if not same)
        self._keep(row, sketch, numbers)
        return None

    def _keep(self, row: _Row, sketch: Any, numbers: bytes) -> None:
        self._index.insert(len(self._places), sketch)
        self._places.append(row.place)
        self._numbers.append(numbers)
        data = json.dumps([row.tokens, _text(row.answer)]).encode()
        self._file.seek(self._ends[-1])
        self._ends.append(self._ends[-1] + self._file.write(data))

    def _read(self, number: int) -> tuple[list[str], str]:
        begin, end = self._ends[number], self._ends[number + 1]
        self._file.seek(begin)
        words, answer = json_value(self._file.read(end - begin))
        return words, answer


def _text(answer: Any) -> str:
    return json.dumps(answer, sort_keys=True, default=str)


def _numbers(row: list[str]) -> list[str]:
    """The numbers in their order, each with a minus that stands before it."""
    numbers, sign = [], ""
    for token in row:
        if token in _MINUS:
            sign = "-"
        elif any(map(str.isdigit, token)):
            numbers.append(sign + token)
            sign = ""
        elif token not in _BEFORE_NUMBER:
            sign = ""
    return numbers


def _note_near(hits: list[Hit], other_numbers: int, answer: str | None) -> str:
    notes = []
    if hits:
        _, counts = np.unique([hit.other for hit in hits], return_counts=True)
        notes.append(f"{len(counts):,} groups, the largest of {counts.max() + 1:,} rows")
        if differ := sum(not hit.facts["same_numbers"] for hit in hits):
            notes.append(f"{differ:,} rows have other numbers than the row that stays")
        if answer is not None:
            differ = sum(not hit.facts["same_answer"] for hit in hits)
            notes.append(f"{differ:,} rows have an answer that is written otherwise")
            if 2 * differ > len(hits):
                notes.append("most are problems of their own: look at them before you drop them")
    if other_numbers:
        notes.append(
            f"{other_numbers:,} rows as similar have other numbers, and count as problems of their own"
        )
    return "; ".join(notes)


def shingles(row: list[str]) -> set[str]:
    """Each three tokens that follow one another; what is shorter is one by itself."""
    if len(row) <= _SHINGLE:
        return {" ".join(row)}
    return set(map(" ".join, zip(row, row[1:], row[2:], strict=False)))


def jaccard(first: set[str], second: set[str]) -> float:
    """What two sets share, of all that they hold."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


def bands(threshold: float) -> int:
    """The fewest bands of equal size with which a pair at the threshold is found `RECALL` of the time."""
    sizes = [size for size in range(_HASHES, 0, -1) if _HASHES % size == 0]
    sizes_that_do = (s for s in sizes if 1 - (1 - threshold**s) ** (_HASHES // s) >= RECALL)
    return _HASHES // next(sizes_that_do, 1)


class Sketches:
    """MinHash sketches of one threshold.

    Args:
        threshold: of the Jaccard index.

    Raises:
        InputError: a threshold out of range, or rensa is not installed.
    """

    def __init__(self, threshold: float) -> None:
        if not 0.3 <= threshold <= 1:
            raise InputError(f"--near {threshold:g}: the similarity is expected from 0.3 to 1.")
        try:
            import rensa
        except ImportError as error:
            raise InputError(
                "near duplicates need rensa: `pip install 'gaincurate[hygiene]'`, or leave them out."
            ) from error
        self._rensa: Any = rensa
        self._threshold, self.bands = threshold, bands(threshold)

    def of(self, sets: Iterable[set[str]]) -> list[RMinHash]:
        """One sketch for each set of shingles."""
        sketches: list[RMinHash] = self._rensa.RMinHash.from_token_sets(sets, _HASHES, _SEED)
        return sketches

    def index(self) -> RMinHashLSH:
        """An empty index: of the sketches in it, those that share a band with one that is asked for."""
        return self._rensa.RMinHashLSH(self._threshold, _HASHES, self.bands)

    def keys(self, sets: Iterable[set[str]]) -> npt.NDArray[np.uint64]:
        """`[sets, bands]`: equal where two sets share a band."""
        matrix = self._rensa.RMinHash.digest_matrix_from_token_sets(sets, _HASHES, _SEED)
        values = np.array(matrix.to_rows(), np.uint64).reshape(-1, self.bands, _HASHES // self.bands)
        keys = np.zeros(values.shape[:2], np.uint64)
        for k in range(values.shape[2]):
            keys = (keys + values[:, :, k]) * _ODD
            keys ^= keys >> np.uint64(29)
        return keys


def shared(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """`[rows]`: which rows share a band with any other; `keys` is `[rows, bands]`."""
    has_double = np.zeros(len(keys), bool)
    for band in keys.T:
        order = np.argsort(band)
        equal = band[order[1:]] == band[order[:-1]]
        has_double[order[1:][equal]] = has_double[order[:-1][equal]] = True
    return has_double
