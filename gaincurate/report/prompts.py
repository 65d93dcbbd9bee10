"""Prompts in a report: takes a scored set, yields questions at the ends of a signal.

Texts are data: they are shortened, and nothing else. Knows nothing of statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.report.sections import Ends, Prompt
from gaincurate.report.table import LENGTH, Groups, Table
from gaincurate.schema import ID
from gaincurate.scored_set import ScoredSet
from gaincurate.scoring.columns import column_values, questions
from gaincurate.stats import Floats

SHOWN = 5
LONGEST = 400
"""Characters of a question that are kept."""

Places = npt.NDArray[np.int64]


def extremes(scored: ScoredSet, table: Table, signal: str, count: int = SHOWN) -> Ends:
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
    ids, column = rows.column(ID).to_pylist(), _prompt_column(scored)
    texts = questions(column_values(rows, column), column)
    for place, gc_id, text, tokens in zip(places.tolist(), ids, texts, lengths, strict=True):
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


def shorten(text: str, longest: int = LONGEST) -> tuple[str, bool]:
    """The first `longest` characters, and whether there were more."""
    return (text[:longest], True) if len(text) > longest else (text, False)
