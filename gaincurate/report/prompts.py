"""Prompts in a report: takes a scored set, yields questions at the ends of a signal, and exact duplicates.

Texts are data: they are shortened, and nothing else. Knows nothing of statistics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.report.sections import Duplicates, Ends, Example, Prompt
from gaincurate.report.table import LENGTH, Groups, Table
from gaincurate.schema import ID
from gaincurate.scored_set import ScoredSet
from gaincurate.scoring.columns import PromptProblem, column_values, to_messages
from gaincurate.stats import Floats

SHOWN = 5
LONGEST = 400
"""Characters of a question that are kept."""
_EXAMPLES = 5
_BATCH = 1 << 15

Places = npt.NDArray[np.int64]


def ends(scored: ScoredSet, table: Table, signal: str, count: int = SHOWN) -> Ends:
    """The `count` rows with the highest values, around the median, and with the lowest; ties in source order.

    Where there are too few rows for all three, the middle and then the bottom have fewer.
    """
    values = table.values[signal]
    known = int((~np.isnan(values)).sum())
    top = min(count, known)
    bottom = min(count, known - top)
    middle = min(count, known - top - bottom)
    first = max(top, (known - middle) // 2)
    picked = _places(values, known, [(0, top), (first, first + middle), (known - bottom, known)])
    found = [_prompts(scored, places, values, table.groups) for places in picked]
    return Ends(signal, *found)


def _places(values: Floats, known: int, spans: Sequence[tuple[int, int]]) -> list[Places]:
    """Rows at these places of the order by falling value; NaN last."""
    order = np.argsort(-values, kind="stable")[:known]
    return [order[start:stop] for start, stop in spans]


def _prompts(scored: ScoredSet, places: Places, values: Floats, groups: Groups | None) -> list[Prompt]:
    found = []
    rows = _rows(scored, places)
    lengths = rows.column(LENGTH).to_pylist()
    for place, (gc_id, text), tokens in zip(places.tolist(), _questions(scored, rows), lengths, strict=True):
        group = None if groups is None else groups.names[groups.codes[place]]
        shown, cut = shorten(text)
        found.append(Prompt(gc_id, float(values[place]), tokens, group, shown, cut))
    return found


def _rows(scored: ScoredSet, places: Places) -> pa.Table:
    """These rows' ids, lengths and prompts."""
    head = _prompt_column(scored)
    head = head if head in scored.schema.names else head.partition(".")[0]
    return scored.take(places).select(list(dict.fromkeys([ID, LENGTH, head])))


def _prompt_column(scored: ScoredSet) -> str:
    return str(scored.identity["source"]["prompt_column"])


def _questions(scored: ScoredSet, rows: pa.Table) -> list[tuple[str, str]]:
    """Each row's id and the text of its last user message."""
    column, found = _prompt_column(scored), []
    for gc_id, value in zip(rows.column(ID).to_pylist(), column_values(rows, column), strict=True):
        try:
            users = [m["content"] for m in to_messages(value, column) if m["role"] == "user"]
            found.append((gc_id, (users[-1] or "").strip()))
        except (PromptProblem, IndexError):
            found.append((gc_id, ""))
    return found


def shorten(text: str, longest: int = LONGEST) -> tuple[str, bool]:
    """The first `longest` characters, and whether there were more."""
    return (text[:longest], True) if len(text) > longest else (text, False)


def duplicates(scored: ScoredSet) -> Duplicates:
    """Rows whose whole prompt (text, or every message) is another's, by a hash of 64 bits."""
    hashes = _hashes(scored)
    if not len(hashes):
        return Duplicates(0, 0, 0, 0.0, 0, [])
    _, first, inverse, counts = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    copies = np.flatnonzero(first[inverse] != np.arange(len(hashes)))[:_EXAMPLES]
    repeated = len(hashes) - len(counts)
    found = _examples(scored, copies, first[inverse[copies]])
    return Duplicates(len(hashes), len(counts), repeated, repeated / len(hashes), int(counts.max()), found)


def _examples(scored: ScoredSet, copies: Places, originals: Places) -> list[Example]:
    if not len(copies):
        return []
    texts = _questions(scored, _rows(scored, copies))
    names = _rows(scored, originals).column(ID).to_pylist()
    return [Example(gc_id, shorten(text)[0], name) for (gc_id, text), name in zip(texts, names, strict=True)]


def _hashes(scored: ScoredSet) -> npt.NDArray[np.uint64]:
    """Of each row's prompt, `[rows]`."""
    column = _prompt_column(scored)
    head = column if column in scored.schema.names else column.partition(".")[0]
    found = np.empty(len(scored), np.uint64)
    start = 0
    for table in scored.tables([head]):
        for begin in range(0, len(table), _BATCH):
            values = column_values(table.slice(begin, _BATCH), column)
            data = b"".join(hashlib.blake2b(_bytes(value), digest_size=8).digest() for value in values)
            found[start : start + len(values)] = np.frombuffer(data, np.uint64)
            start += len(values)
    return found


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return b"\0" + json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()
