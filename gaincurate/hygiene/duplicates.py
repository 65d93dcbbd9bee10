"""Rows that ask the same as an earlier row, or nearly the same as an earlier row that stays.

The same means equal messages except for white space, upper case, how Unicode composes characters and which of
its spellings LaTeX has. Rows are compared by hash: 8 bytes per row, and 112 more for near duplicates at 0.8.

Near duplicates have a high Jaccard index (shared over all) of their sets of token triples, and the same
numbers in the same order: the same words with other numbers are another problem. MinHash finds candidates,
and the exact index is computed for each of them, so there are no false positives. Rows are compared in file
order with the remaining rows, so no row is flagged because of a row that is itself flagged.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gaincurate.core.prompts import Message, column_values
from gaincurate.core.rng import Floats
from gaincurate.core.scored_set import ScoredSet
from gaincurate.hygiene.rows import CheckResult, Hit, Ints, Json, Mask, asked, batches, read, sample
from gaincurate.hygiene.words import Hashes, Runs, Template, Words, among, mixed, normal

_encode = json.JSONEncoder(sort_keys=True, default=str).encode
_BUT_FOR = "white space, case, Unicode form or LaTeX spelling"
_MINUS = Words(["-", "\u2212", "\u2013"], signs=True).hashes
_BEFORE_NUMBER = Words(["\\", "frac", "sqrt", "{", "(", "$"], signs=True).hashes
"""The characters between a minus and its number."""
RECALL = 0.999
_SHINGLE = 3
_HASHES = 64


@dataclass(frozen=True, slots=True)
class Repeat:
    """A repeated row: the first row that asks the same, and whether their texts and answers are equal."""

    place: int
    head: int
    exact: bool
    same_answer: bool


class Keys:
    """Hashes that rows share if they ask the same or nearly the same, from one pass for all checks.

    Args:
        scored: the set.
        alive: `[rows]`, which rows to look at; the keys of the others are 0.
        threshold: the least Jaccard index of near duplicates, from 0.3 to 1, or 0 without that check.

    Attributes:
        asked: of each question, `[1, rows]`; with a threshold, of its words and signs.
        near: MinHash keys, `[bands, rows]`.
    """

    def __init__(self, scored: ScoredSet, alive: Mask, threshold: float = 0) -> None:
        self.scored, self.threshold, rows = scored, threshold, len(alive)
        texts = {*normal(sample(scored, alive))} if threshold else ()  # a repeated question is no template
        self.template = Template(Words(sorted(texts), signs=True))
        self.asked = np.zeros((1, rows), np.uint64)
        self.near = np.zeros((bands(threshold)[0] if threshold else 0, rows), np.uint64)
        for places, table in batches(scored, alive):
            if threshold:
                words = Words(asked(scored, table), signs=True)
                self.asked[0, places] = words.whole
                self.near[:, places] = Sketches(words, *self.template.without(words), threshold).keys
            else:  # cheaper than words
                hashes = map(hash, _alike(read(scored, table)))
                self.asked[0, places] = np.fromiter(hashes, np.int64).view(np.uint64)


def duplicates(keys: Keys, alive: Mask, answer: str | None) -> CheckResult:
    """Rows whose messages equal an earlier row's, with any answer; groups with several are reported.

    Args:
        keys: of these rows at least.
        alive: `[rows]`, which rows to look at.
        answer: the column with the gold answers, where there is one.
    """
    again, hits = repeats(keys, alive, answer), []
    for row in again:
        reason = "the same messages" if row.exact else f"the same messages except for {_BUT_FOR}"
        reason += "" if row.same_answer else ", another answer"
        facts = {"exact": row.exact} | ({"same_answer": row.same_answer} if answer else {})
        hits.append(Hit(row.place, reason, row.head, facts))
    return CheckResult("duplicates", hits, _note(again, answer))


def repeats(keys: Keys, alive: Mask, answer: str | None) -> list[Repeat]:
    """Every row that asks the same as an earlier row, in file order; rows with unique keys are not read."""
    firsts: dict[bytes, tuple[int, bytes, bytes]] = {}
    again = []
    for places, table in batches(keys.scored, shared(keys.asked, alive)):
        prompts = read(keys.scored, table)
        answers = column_values(table, answer) if answer else [None] * len(places)
        for place, messages, alike, gold in zip(
            places.tolist(), prompts, _alike(prompts), answers, strict=True
        ):
            text, its_answer = _digest([(m["role"], m["content"]) for m in messages]), _digest(gold)
            first = firsts.setdefault(_digest(alike), (place, text, its_answer))
            if first[0] != place:
                again.append(Repeat(place, first[0], first[1] == text, first[2] == its_answer))
    return again


def _alike(prompts: Sequence[Sequence[Message]]) -> Iterator[tuple[tuple[str, str], ...]]:
    """Roles and normalised texts of each prompt."""
    texts = iter(normal([m["content"] or "" for messages in prompts for m in messages]))
    return (tuple((m["role"], next(texts)) for m in messages) for messages in prompts)


def _digest(value: object) -> bytes:
    return hashlib.blake2b(_encode(value).encode(), digest_size=16).digest()


def _note(again: Sequence[Repeat], answer: str | None) -> str:
    same = sum(row.exact for row in again)
    note = f"{_groups(row.head for row in again)}; the very same text in {same:,} rows, except for "
    note += f"{_BUT_FOR} in {len(again) - same:,}"
    differ = len({row.head for row in again if not row.same_answer})
    if answer and differ:
        note += f"; {differ:,} groups have answers that are not written alike: see which one is right"
    return note if again else ""


def _groups(heads: Iterable[int]) -> str:
    """The number of groups and the size of the largest, from the first row of each repeated row."""
    counts = Counter(heads)
    return f"{len(counts):,} groups, the largest of {max(counts.values(), default=0) + 1:,} rows"


def near_duplicates(keys: Keys, alive: Mask, answer: str | None) -> CheckResult:
    """Rows that are similar to an earlier row that stays.

    A pair at the threshold is a candidate with probability 0.999 or more, a closer one with more. Only
    candidates are read and held in memory.

    Args:
        keys: of these rows at least, with a threshold.
        alive: `[rows]`, which rows to look at.
        answer: the column with the gold answers, if there is one, to report whether they are equal.
    """
    hits, stay = list[Hit](), list[tuple[int, Hashes, bytes]]()  # places, triples and digests of answers
    index: dict[int, list[int]] = {}  # places in `stay` by each of a row's keys
    for places, table in batches(keys.scored, shared(keys.near, alive)):
        words = Words(asked(keys.scored, table), signs=True)
        sketches = Sketches(words, *keys.template.without(words), keys.threshold)
        golds = column_values(table, answer) if answer else [None] * len(places)
        for number, (place, gold) in enumerate(zip(places.tolist(), golds, strict=True)):
            triples, its_answer = sketches.of(number), _digest(gold)
            keys_of_row = sketches.keys[:, number].tolist()
            others = sorted({other for key in keys_of_row for other in index.get(key, ())})
            alike = jaccard(triples, [stay[other][1] for other in others])
            best = int(alike.argmax()) if others else 0  # of equals the first in the file
            if others and alike[best] >= keys.threshold:
                other, _, other_answer = stay[others[best]]
                same: Json = {"same_answer": other_answer == its_answer} if answer else {}
                facts = {"jaccard": round(float(alike[best]), 4)} | same
                reason = f"{alike[best]:.2f} of the token triples are shared"
                reason += "" if other_answer == its_answer else ", another answer"
                hits.append(Hit(place, reason, other, facts))
                continue
            for key in keys_of_row:
                index.setdefault(key, []).append(len(stay))
            stay.append((place, triples, its_answer))
    return CheckResult("near-duplicates", hits, _note_near(hits, answer))


def _note_near(hits: list[Hit], answer: str | None) -> str:
    note = _groups(hit.other for hit in hits if hit.other is not None)
    if answer is not None:
        differ = sum(not hit.facts["same_answer"] for hit in hits)
        note += f"; {differ:,} rows have an answer that is written otherwise"
        if 2 * differ > len(hits):
            note += "; most are problems of their own: look at them before you drop them"
    return note if hits else ""


def jaccard(one: Hashes, others: Sequence[Hashes]) -> Floats:
    """The Jaccard index of a set with each of others, `[others]`; all are sorted and without doubles."""
    sizes = np.array([len(other) for other in others], np.int64)
    flat = np.concatenate([one[:0], *others])
    there = among(flat, one)
    shared = np.bincount(np.repeat(np.arange(len(others)), sizes)[there], minlength=len(others))
    return shared / (len(one) + sizes - shared)


def bands(threshold: float) -> tuple[int, int]:
    """The fewest bands, and the most MinHash values in each, that find a pair at the threshold with `RECALL`.

    With b bands of r values, a pair of index t shares a key in at least one band with probability
    1 - (1 - t^r)^b; b r is at most `_HASHES`.
    """
    for size in range(_HASHES, 0, -1):
        missed = math.log1p(-(threshold**size)) if threshold < 1 else -math.inf
        count = max(1, math.ceil(math.log(1 - RECALL) / missed)) if missed else _HASHES
        if count * size <= _HASHES:
            return count, size
    raise ValueError(f"no {_HASHES} values find pairs of {threshold:g}")


class Sketches:
    """Rows as hashes: each three words that follow one another, and MinHash keys of their set.

    Args:
        words: of the rows, signs among them.
        begins, ends: where the words of each row begin and end in `words`, both `[rows]`; a row of fewer
            than three words is one triple.
        threshold: the Jaccard index at which two rows have to share a key.

    Attributes:
        keys: rows that share the one of a band are candidates, `[bands, rows]`.
    """

    def __init__(self, words: Words, begins: Ints, ends: Ints, threshold: float) -> None:
        counts = np.maximum(ends - begins - _SHINGLE + 1, 1)
        self._starts = np.append(0, np.cumsum(counts))
        firsts = np.repeat(begins - self._starts[:-1], counts) + np.arange(self._starts[-1])
        self._triples = words.runs.of(firsts, np.minimum(firsts + _SHINGLE, np.repeat(ends, counts)))
        # [bands, rows]
        self.keys = mixed(self._band_keys(*bands(threshold)) ^ _numbers_of(words, begins, ends))

    def of(self, row: int) -> Hashes:
        """The triples of a row, sorted, each once."""
        return np.unique(self._triples[self._starts[row] : self._starts[row + 1]])

    def _band_keys(self, count: int, size: int) -> Hashes:
        """`[bands, rows]`: of each band the least values of the row's triples under `size` hash functions."""
        draws = mixed(np.arange(2 * count * size, dtype=np.uint64)).astype(np.uint32)
        points = (self._triples >> np.uint64(32)).astype(np.uint32)
        keys, hashed = np.zeros((count, len(self._starts) - 1), np.uint64), np.empty_like(points)
        for number, (mask, factor) in enumerate(draws.reshape(-1, 2)):
            np.bitwise_xor(points, mask, out=hashed)
            np.multiply(hashed, factor | np.uint32(1), out=hashed)
            band = keys[number % count]
            band[:] = mixed(band + np.minimum.reduceat(hashed, self._starts[:-1]))
        return mixed(keys + np.arange(count, dtype=np.uint64)[:, None])


def shared(keys: Hashes, alive: Mask) -> Mask:
    """`[rows]`: which of the `alive` rows share a key with another; `keys` is `[bands, rows]`."""
    has_double, chosen = np.zeros(len(alive), bool), np.flatnonzero(alive)
    for band in keys:
        order = chosen[np.argsort(band[chosen])]
        equal = band[order[1:]] == band[order[:-1]]
        has_double[order[1:][equal]] = has_double[order[:-1][equal]] = True
    return has_double


def _numbers_of(words: Words, begins: Ints, ends: Ints) -> Hashes:
    """A hash of each row's numbers in their order, each with its sign, `[rows]`."""
    minus, between = (np.isin(words.hashes, some) for some in (_MINUS, _BEFORE_NUMBER))
    # Before each word the last one that is not among those between a minus and its number.
    last = np.maximum.accumulate(np.where(between, -1, np.arange(len(words.hashes))))
    places = np.flatnonzero(words.numbers)
    before = last[places - 1] * (places > 0)
    rows = np.searchsorted(words.starts, places, "right") - 1
    signed = minus[before] & (before >= begins[rows]) & (places > begins[rows])
    values = Runs(words.hashes[places] ^ signed.astype(np.uint64))
    return values.of(np.searchsorted(places, begins), np.searchsorted(places, ends))
