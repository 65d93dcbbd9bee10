"""Rows that ask the same as an earlier row, or nearly the same as an earlier row that stays.

The same means equal messages except for white space, upper case, how Unicode composes characters and which of
its spellings LaTeX has. Rows are compared by hash, so memory is 8 bytes per row.

Nearly the same goes by the Jaccard index of two prompts' token triples, where both have the same numbers in
the same order: the same words with other numbers are another problem. MinHash finds candidates, and the index
itself is computed for each of them, so no row is found by chance. Rows are taken in file order and compared
with the rows that stay: none is found because of a row that is found too.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.prompts import Message, column_values
from gaincurate.core.rng import Floats
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.hygiene.findings import CheckResult, Hit
from gaincurate.hygiene.rows import (
    Ints,
    Mask,
    Template,
    asked,
    batches,
    normal,
    prompts,
    read,
    sample,
    tokens,
)

Hashes = npt.NDArray[np.uint64]
_encode = json.JSONEncoder(sort_keys=True, default=str).encode
_BUT_FOR = "white space, case, Unicode form or LaTeX spelling"
_MINUS = ["-", "\u2212", "\u2013"]
_BEFORE_NUMBER = ["\\", "frac", "sqrt", "{", "(", "$"]
"""What may stand between a minus and its number."""
_DIGIT = r"[\p{Nd}\p{No}]"
THRESHOLD = 0.8
RECALL = 0.999
_SHINGLE = 3
_HASHES = 120
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
class _Row:
    """A row that stays: its place, its triples (distinct, sorted) and its answer's digest."""

    place: int
    triples: Hashes
    answer: bytes


def near_duplicates(scored: ScoredSet, alive: Mask, threshold: float, answer: str | None) -> CheckResult:
    """Rows that are similar to an earlier row that stays.

    A pair at the threshold is a candidate with probability 0.999 or more, a closer one with more. Rows are
    read twice: first to see which are no candidates at all, so that only the others are held in memory.

    Args:
        scored: the set.
        alive: `[rows]`, which rows to look at.
        threshold: the least Jaccard index, from 0.3 to 1.
        answer: the column with the gold answers, where there is one: it is reported whether they are equal.

    Raises:
        InputError: a threshold out of range.
    """
    if not 0.3 <= threshold <= 1:
        raise InputError(f"--near {threshold:g}: the similarity is expected from 0.3 to 1.")
    template, count = (
        Template([tokens(asked(messages)) for messages in sample(scored, alive)]),
        bands(threshold),
    )

    def sketched(chosen: Mask) -> Iterator[tuple[Sketches, Ints, pa.Table]]:
        for places, table in batches(scored, chosen):
            rows = [template.strip(tokens(asked(messages))) for messages in read(scored, table)]
            yield Sketches(rows, count), places, table

    keys = np.zeros((int(alive.sum()), count), np.uint64)
    end = 0
    for sketches, places, _ in sketched(alive):
        keys[end : end + len(places)] = sketches.keys
        end += len(places)
    candidates = alive.copy()
    candidates[alive] = shared(keys)
    del keys
    hits: list[Hit] = []
    stay: list[_Row] = []
    index: dict[int, list[int]] = {}  # places in `stay` by each of a row's keys
    for sketches, places, table in sketched(candidates):
        golds = column_values(table, answer) if answer else [None] * len(places)
        for number, (place, gold) in enumerate(zip(places.tolist(), golds, strict=True)):
            row, row_keys = _Row(place, sketches.of(number), _digest(gold)), sketches.keys[number].tolist()
            others = sorted({other for key in row_keys for other in index.get(key, ())})
            alike = jaccard(row.triples, [stay[other].triples for other in others])
            best = int(alike.argmax()) if others else 0  # of equals the first in the file
            if others and alike[best] >= threshold:
                hits.append(_near(row, stay[others[best]], float(alike[best]), answer))
                continue
            for key in row_keys:
                index.setdefault(key, []).append(len(stay))
            stay.append(row)
    return CheckResult("near-duplicates", hits, _note_near(hits, answer))


def _near(row: _Row, other: _Row, index: float, answer: str | None) -> Hit:
    same_answer = row.answer == other.answer
    reason = f"{index:.2f} of the token triples are shared" + ("" if same_answer else ", another answer")
    facts = {"jaccard": round(index, 4)} | ({"same_answer": same_answer} if answer else {})
    return Hit(row.place, reason, other.place, facts)


def _note_near(hits: list[Hit], answer: str | None) -> str:
    if not hits:
        return ""
    _, counts = np.unique([hit.other for hit in hits], return_counts=True)
    notes = [f"{len(counts):,} groups, the largest of {counts.max() + 1:,} rows"]
    if answer is not None:
        differ = sum(not hit.facts["same_answer"] for hit in hits)
        notes.append(f"{differ:,} rows have an answer that is written otherwise")
        if 2 * differ > len(hits):
            notes.append("most are problems of their own: look at them before you drop them")
    return "; ".join(notes)


def jaccard(one: Hashes, others: Sequence[Hashes]) -> Floats:
    """The share that a set has in common with each of others, of all that the two hold, `[others]`.

    All are sorted and without doubles.
    """
    sizes = np.array([len(other) for other in others], np.int64)
    flat = np.concatenate([one[:0], *others])
    there = one[np.minimum(np.searchsorted(one, flat), len(one) - 1)] == flat
    shared = np.bincount(np.repeat(np.arange(len(others)), sizes)[there], minlength=len(others))
    return shared / (len(one) + sizes - shared)


def bands(threshold: float) -> int:
    """The fewest bands of equal size with which a pair at the threshold is found `RECALL` of the time."""
    sizes = [size for size in range(_HASHES, 0, -1) if _HASHES % size == 0]
    sizes_that_do = (s for s in sizes if 1 - (1 - threshold**s) ** (_HASHES // s) >= RECALL)
    return _HASHES // next(sizes_that_do, 1)


class Sketches:
    """Rows as hashes: each three tokens that follow one another, and MinHash keys of their set.

    Args:
        rows: the tokens of each row; a row of fewer than three tokens is one triple.
        bands: of the MinHash values; two rows are candidates if they share the key of one.
    """

    def __init__(self, rows: Sequence[list[str]], bands: int) -> None:
        flat: list[str] = []
        for row in rows:
            flat += row
            flat += [""] * (_SHINGLE - len(row))
        lengths = [max(len(row), _SHINGLE) for row in rows]
        owners = np.repeat(np.arange(len(rows)), lengths)
        coded = pa.array(flat, pa.large_string()).dictionary_encode()
        words, codes = coded.dictionary, coded.indices.to_numpy()
        hashes = _hashes_of(words)[codes]
        triples = _mixed(hashes[:-2] * _ODD * _ODD + hashes[1:-1] * _ODD + hashes[2:])
        inside = owners[:-2] == owners[2:]
        self._triples = triples[inside]
        self._starts = np.searchsorted(owners[:-2][inside], np.arange(len(rows) + 1))
        numbers = _numbers_of(words, codes, hashes, owners, len(rows))
        # [rows, bands]
        self.keys = _mixed(self._band_keys(bands) ^ numbers[:, None])

    def of(self, row: int) -> Hashes:
        """The triples of a row, sorted, each once."""
        return np.unique(self._triples[self._starts[row] : self._starts[row + 1]])

    def _band_keys(self, bands: int) -> Hashes:
        draws = _mixed(np.arange(2 * _HASHES, dtype=np.uint64)).astype(np.uint32)
        points = (self._triples >> np.uint64(32)).astype(np.uint32)
        keys = np.tile(np.arange(bands, dtype=np.uint64), (len(self._starts) - 1, 1))
        for number, (mask, factor) in enumerate(draws.reshape(-1, 2)):
            least = np.minimum.reduceat((points ^ mask) * (factor | np.uint32(1)), self._starts[:-1])
            keys[:, number % bands] = _mixed(keys[:, number % bands] + least)
        return keys


def shared(keys: Hashes) -> npt.NDArray[np.bool_]:
    """`[rows]`: which rows share a band with any other; `keys` is `[rows, bands]`."""
    has_double = np.zeros(len(keys), bool)
    for band in keys.T:
        order = np.argsort(band)
        equal = band[order[1:]] == band[order[:-1]]
        has_double[order[1:][equal]] = has_double[order[:-1][equal]] = True
    return has_double


def _mixed(values: Hashes) -> Hashes:
    """A bijection of 64 bits in which each bit depends on many."""
    values = (values ^ (values >> np.uint64(31))) * _ODD
    mixed: Hashes = values ^ (values >> np.uint64(29))
    return mixed


def _in_order(values: Hashes, owners: Ints, count: int) -> Hashes:
    """A hash for each of `count` owners, of its values in their order; `owners` is sorted."""
    places = np.arange(len(values)) - np.searchsorted(owners, np.arange(count))[owners]
    powers = np.multiply.accumulate(np.full(int(places.max(initial=0)) + 1, _ODD))
    sums = np.zeros(count, np.uint64)
    np.add.at(sums, owners, _mixed(values + np.uint64(1)) * powers[places])
    return _mixed(sums)


def _hashes_of(words: pa.LargeStringArray) -> Hashes:
    """A hash of each word, the same in every process."""
    offsets = np.frombuffer(words.buffers()[1], np.int64)[: len(words) + 1]
    data = np.frombuffer(words.buffers()[2], np.uint8)[: offsets[-1]]
    return _in_order(data.astype(np.uint64), np.repeat(np.arange(len(words)), np.diff(offsets)), len(words))


def _numbers_of(words: pa.LargeStringArray, codes: Ints, hashes: Hashes, owners: Ints, count: int) -> Hashes:
    """A hash of each row's numbers in their order, each with a minus that stands before it."""
    digits = pc.match_substring_regex(words, _DIGIT).to_numpy(zero_copy_only=False)[codes]
    minus, between = (
        pc.is_in(words, value_set=pa.array(signs, words.type)).to_numpy(zero_copy_only=False)[codes]
        for signs in (_MINUS, _BEFORE_NUMBER)
    )
    # For each token the last one before it that is not among those between a minus and its number.
    last = np.concatenate([[-1], np.maximum.accumulate(np.where(between, -1, np.arange(len(codes))))[:-1]])
    signed = minus[last] & (last >= 0) & (owners[last] == owners)
    return _in_order(hashes[digits] ^ signed[digits].astype(np.uint64), owners[digits], count)
