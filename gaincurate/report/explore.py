"""Every prompt of a report on one page: a table to sort, filter and search, and a map of the embeddings.

The page works from a file, without a server or a library. So all rows are in it, and its size grows with
them. Above `MOST` rows it has a sample, by a hash of the id, so that a set always shows the same prompts. The
page's policy names its one script by a hash. A prompt that slipped through as markup could not run.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import json
import keyword
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from markupsafe import Markup

from gaincurate.core.artifact import Json
from gaincurate.core.columns import NO_GROUP, fields, is_text
from gaincurate.core.prompts import column_values, questions
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import EMBEDDING, ID, take
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import evenly_spaced, matrix, whitening
from gaincurate.errors import InputError
from gaincurate.report.document import ColumnInfo, Outcome
from gaincurate.report.html import page
from gaincurate.report.parts import plain, shown
from gaincurate.report.table import Groups, NumericTable, is_number, likely_groups

MOST = 50_000  # rows of a page, which browsers hold: with prompts of 300 characters it is 25 MB
_CHARACTERS = 40_000_000
_LONGEST = (8000, 4000, 2000, 1000, 400)  # texts are cut at the first of these that keeps to `_CHARACTERS`
_SAMPLE = 2048  # embeddings that give the two directions of the map
_ALL_EQUAL = "All embeddings are equal."
_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
_ROLES = ("pass-rate", "learnability", "signal", "length", "difficulty")  # what a model did comes first


def to_html(
    scored: ScoredSet, table: NumericTable, *, outcomes: Sequence[Outcome] = (), report: str | None = None
) -> str:
    """The whole page of a set and its columns of numbers, with pass rates if there are any.

    `outcomes` are those whose pass rates `export --rollouts` would read as in the table; `report` is a link.
    """
    script = files("gaincurate.report").joinpath("templates/explore.js").read_text(encoding="utf-8")
    data = page_data(scored, table, outcomes)
    # No text in it can end the element that it stands in, or begin a comment.
    inert = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)
    return page(
        "explore.html.j2",
        folder=str(scored.place),
        model=str(scored.identity["model"]["name"]),
        report=report,
        facts=data,
        digest=Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        script=Markup(script),
        data=Markup(inert),
    )


def page_data(scored: ScoredSet, table: NumericTable, outcomes: Sequence[Outcome] = ()) -> Json:
    """The input of the script: columns in the order of the set, numbers as little-endian arrays in base64."""
    rows, identity = sample(scored), scored.identity
    answer = identity["source"].get("answer_column")
    named = [identity["source"]["prompt_column"], *([] if answer is None else [answer])]
    heads = [name if name in scored.schema.names else name.partition(".")[0] for name in named]
    ids, texts, answers = list[str](), list[str](), list[str]()
    for part in _parts(scored, rows, [ID, *heads]):
        ids += part.column(ID).to_pylist()
        texts += questions(part, identity)
        values = [] if answer is None else column_values(part, answer)
        answers += ("" if value is None else plain(value) for value in values)
    sizes = [len(text) for text in (*texts, *answers)]
    fitting = (length for length in _LONGEST if sum(min(size, length) for size in sizes) <= _CHARACTERS)
    longest = next(fitting, _LONGEST[-1])
    rates = {outcome.name: outcome.path for outcome in outcomes if outcome.source == "rollouts"}
    if len(set(rates.values())) < len(rates):  # a file of several policies, which no condition can name
        rates = {}
    plane, why = _plane(scored, rows)
    # The report's groups, and the first other column that is named like one.
    groups = {each.column: each for each in (table.groups, likely_groups(scored)[0]) if each is not None}
    return {
        "of": len(scored),
        "rows": len(rows),
        "longest": longest if max(sizes, default=0) > longest else None,
        "ids": ids,
        "prompts": [shown(text[:longest]) for text in texts],
        "answers": None if answer is None else [shown(text[:longest]) for text in answers],
        "groups": [_group(scored, each, rows) for each in groups.values()],
        "numbers": [
            {
                "name": column.name,
                "meaning": column.meaning,
                "role": column.role,
                "where": _where(scored, column, rates),
                "rollouts": rates.get(column.name),
                **_numbers(table.values[column.name][rows]),
            }
            for column in sorted(table.columns, key=lambda column: _ROLES.index(column.role))
        ],
        "map": plane,
        "why_no_map": why,
    }


def sample(scored: ScoredSet, most: int = MOST) -> Ints:
    """Places of the rows that are shown, ascending: all, or those whose ids have the lowest BLAKE2b."""
    if len(scored) <= most:
        return np.arange(len(scored))
    ids = scored.column(ID).to_pylist()
    hashes = [hashlib.blake2b(gc_id.encode(), digest_size=8).digest() for gc_id in ids]
    return np.sort(np.array(heapq.nsmallest(most, range(len(ids)), hashes.__getitem__), np.int64))


def _parts(scored: ScoredSet, rows: Ints, names: Sequence[str]) -> Iterator[pa.Table]:
    """These columns of the rows, shard by shard; `rows` is ascending."""
    start = 0
    for part in scored.tables(list(dict.fromkeys(names))):
        inside = rows[(rows >= start) & (rows < start + len(part))] - start
        start += len(part)
        if len(inside):
            yield part if len(inside) == len(part) else take(part, pa.array(inside))


def _group(scored: ScoredSet, groups: Groups, rows: Ints) -> Json:
    kind = dict(fields(scored.schema))[groups.column]
    return {
        "name": groups.column,
        "where": _condition_name(groups.column),
        "kind": "text" if is_text(kind) else "truth" if pa.types.is_boolean(kind) else "number",
        "names": groups.names,
        "none": groups.names.index(NO_GROUP) if NO_GROUP in groups.names else None,
        "codes": _packed(groups.codes[rows].astype("<i4")),
    }


def _where(scored: ScoredSet, column: ColumnInfo, rates: Mapping[str, Any]) -> str | None:
    """The name of a column in a `--where` condition; None if no condition can use its numbers."""
    if column.name in rates:
        return "pass_rate"
    kinds = dict(fields(scored.schema))
    read_from_text = column.name in kinds and not is_number(kinds[column.name])
    if column.role in ("pass-rate", "learnability") or read_from_text:
        return None
    return _condition_name(column.name)


def _condition_name(name: str) -> str:
    """The spelling of a column's name in a `--where` condition."""
    is_plain = all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))
    return name if is_plain else f"column({name!r})"


def _numbers(values: Floats) -> Json:
    """A column in the fewest bytes that hold it exactly, so that filters and conditions agree."""
    with np.errstate(over="ignore"):  # then it is not exact
        single = values.astype("<f4")
    exact = bool(np.array_equal(single.astype(np.float64), values, equal_nan=True))
    return {"bits": 32 if exact else 64, "values": _packed(single if exact else values.astype("<f8"))}


def _packed(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _plane(scored: ScoredSet, rows: Ints) -> tuple[Json | None, str | None]:
    """The map, or the reason why there is none.

    It has the embeddings along two directions of the largest variance (PCA), and the shares of variance along
    them. The directions are those of at most `_SAMPLE` rows, evenly spaced, and the shares are over all rows.
    A direction points where its largest part is positive, so every machine draws the same map.
    """
    if EMBEDDING not in scored.schema.names:
        return None, "The set has no embeddings: `gaincurate score --signals angle,embedding` stores them."
    if len(rows) < 2:
        return None, _ALL_EQUAL
    try:
        some = matrix(scored.take(rows[evenly_spaced(len(rows), _SAMPLE)]), scored.folder)
        space = whitening(some, 2, exponent=0.0)
        axes = space.directions[:, ::-1]  # the strongest first
        if not axes.shape[1]:
            return None, _ALL_EQUAL
        axes = axes * np.sign(axes[np.abs(axes).argmax(0), range(axes.shape[1])])
        parts, total, sums = [], 0.0, np.zeros(len(axes))
        for part in _parts(scored, rows, [ID, EMBEDDING]):
            centred = matrix(part, scored.folder) - space.mean
            parts.append(centred @ axes)
            total, sums = total + float((centred * centred).sum()), sums + centred.sum(0)
    except InputError as error:  # a row without an embedding: the page has no map
        return None, str(error)
    total -= float(sums @ sums) / len(rows)
    points = np.concatenate(parts)
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    shares = points.var(0) * len(rows) / total if total > 0 else np.zeros(2)
    x, y = (_packed(axis.astype("<f4")) for axis in points.T)
    return {"x": x, "y": y, "shares": shares.tolist()}, None
