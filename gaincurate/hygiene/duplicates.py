"""Rows that ask the same as an earlier row.

The same means equal messages except for white space, upper case and how Unicode composes characters. Rows
are compared by hash, so memory is 32 bytes per row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gaincurate.core.prompts import Message, column_values
from gaincurate.core.scored_set import ScoredSet
from gaincurate.hygiene.findings import CheckResult, Hit
from gaincurate.hygiene.rows import Mask, batches, normal, read

_encode = json.JSONEncoder(sort_keys=True, default=str).encode
_RECORD = np.dtype([("high", "u8"), ("low", "u8"), ("exact", "u8"), ("answer", "u8")])


def duplicates(scored: ScoredSet, alive: Mask, answer: str | None) -> CheckResult:
    """Rows whose messages an earlier row has; answers do not count. Groups that differ there are reported.

    Args:
        scored: the set.
        alive: `[rows]`, which rows to look at.
        answer: the column with the gold answers, where there is one.
    """
    places, records = records_of(scored, alive, answer)
    first = first_of_each(records)
    again = np.flatnonzero(first != np.arange(len(first)))
    same = records["exact"][again] == records["exact"][first[again]]
    conflict = records["answer"][again] != records["answer"][first[again]]
    hits = []
    for row, exact, other in zip(again.tolist(), same.tolist(), conflict.tolist(), strict=True):
        reason = (
            "the same messages" if exact else "the same messages but for white space, case or Unicode form"
        )
        reason += ", another answer" if other else ""
        facts = {"exact": exact} | ({"same_answer": not other} if answer else {})
        hits.append(Hit(int(places[row]), reason, int(places[first[row]]), facts))
    return CheckResult("duplicates", hits, _note(first, again, same, conflict, answer))


def records_of(
    scored: ScoredSet, alive: Mask, answer: str | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.void]]:
    """Places, and for each a hash of what it asks, of its exact messages and of its answer."""
    places = np.flatnonzero(alive)
    records = bytearray()
    for _, table in batches(scored, alive):
        answers = column_values(table, answer) if answer else [None] * table.num_rows
        for messages, gold in zip(read(scored, table), answers, strict=True):
            records += _record(messages, gold)
    return places, np.frombuffer(records, _RECORD)


def _record(messages: Sequence[Message], gold: object) -> bytes:
    alike = [(m["role"], normal(m["content"] or "")) for m in messages]
    exact = [(m["role"], m["content"]) for m in messages]
    return _digest(alike, 16) + _digest(exact, 8) + _digest(gold, 8)


def _digest(value: object, size: int) -> bytes:
    return hashlib.blake2b(_encode(value).encode(), digest_size=size).digest()


def first_of_each(records: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """`[rows]`: the first row with an equal key."""
    order = np.lexsort((records["low"], records["high"]))  # stable: file order among equals
    keys = records[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (keys["high"][1:] != keys["high"][:-1]) | (keys["low"][1:] != keys["low"][:-1])
    first = np.empty(len(order), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))]
    return first


def _note(
    first: npt.NDArray[np.int64],
    again: npt.NDArray[np.int64],
    same: npt.NDArray[np.bool_],
    conflict: npt.NDArray[np.bool_],
    answer: str | None,
) -> str:
    if not len(again):
        return ""
    heads, counts = np.unique(first[again], return_counts=True)
    note = (
        f"{len(heads):,} groups, the largest of {counts.max() + 1:,} rows; the very same text in "
        f"{int(same.sum()):,} rows, but for white space, case or Unicode form in {int((~same).sum()):,}"
    )
    differ = len(np.unique(first[again][conflict]))
    if answer and differ:
        note += f"; {differ:,} groups have answers that are not written alike: see which one is right"
    return note
