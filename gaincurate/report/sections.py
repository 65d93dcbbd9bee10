"""The parts of a report beside the statistics of one set.

Another scored set of the same prompts (`compare_sets`), prompts at the extremes of a signal (`extremes`),
what is wrong with the rows (`hygiene_checks`) and the rounds of a run (`run_story`). Each has a fixed size:
a report shows a few rows, and `gaincurate hygiene` or the run's own files have all of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from gaincurate.core.artifact import Json
from gaincurate.core.columns import fields, read_column
from gaincurate.core.files import differing_keys
from gaincurate.core.prompts import questions
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import Estimate, Floats, Ranked, Strata, correlate
from gaincurate.errors import InputError
from gaincurate.hygiene.checks import finding, search
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.report.document import (
    ROUND,
    Against,
    Check,
    Difference,
    Ends,
    Example,
    Prompt,
    Stability,
)
from gaincurate.report.lift import SHARE
from gaincurate.report.table import LENGTH, Groups, Table, is_number, numbers
from gaincurate.schedule.run import Run
from gaincurate.schedule.status import status

_MOST_DIFFERENCES = 20
_LONGEST_SETTING = 60
SHOWN = 5
LONGEST = 400
"""Characters of a question that are kept."""
Places = npt.NDArray[np.int64]
EXAMPLES, LISTED = 5, 20
"""Rows that are shown of a check, and of broken gold answers, which somebody has to fix one by one."""
DUPLICATES = HygieneOptions(("duplicates",))


def compare_sets(scored: ScoredSet, table: Table, folder: Path) -> Against:
    """The signals of `table` in the set at `folder`.

    Raises:
        InputError: the sets share no row, or no signal.
        OutputError: `folder` is no finished set.
    """
    other = ScoredSet(folder)
    places = pc.index_in(scored.column(ID), value_set=other.column(ID).combine_chunks())
    here = places.is_valid().to_numpy()
    there = places.drop_null().to_numpy()
    if not len(there):
        raise InputError(f"--against {folder}: it shares no gc_id with {scored.folder}.", path=str(folder))
    there_too = [name for name, kind in fields(other.schema) if is_number(kind)]
    signals = [name for name in table.names("signal") if name in there_too]
    if not signals:
        raise InputError(f"--against {folder}: it has none of {', '.join(table.names('signal'))}.")
    differences = [
        Difference(key, _setting(was), _setting(now))
        for key, was, now in differing_keys(scored.identity, other.identity)
    ]
    return Against(
        str(other.place),
        other.manifest_hash,
        len(there),
        len(scored) - len(there),
        len(other) - len(there),
        differences[:_MOST_DIFFERENCES],
        [
            _stability(name, table.values[name][here], numbers(read_column(other, name))[there])
            for name in signals
        ],
    )


def _setting(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _LONGEST_SETTING else text[: _LONGEST_SETTING - 3] + "..."


def _stability(name: str, first: Floats, second: Floats) -> Stability:
    both = ~(np.isnan(first) | np.isnan(second))
    a, b = first[both], second[both]
    stratum = Strata.one(len(a))
    ranked = correlate(Ranked(a, stratum), Ranked(b, stratum)) if len(a) else None
    if ranked is None:
        return Stability(name, Estimate(None, None, None, len(a)), None, SHARE)
    size = round(len(a) * SHARE)
    shared = len(np.intersect1d(_top(a, size), _top(b, size))) / size if size else None
    return Stability(name, ranked.estimate(), shared, SHARE)


def _top(values: Floats, size: int) -> npt.NDArray[np.int64]:
    """Rows with the highest values; of equal ones the first."""
    return np.argsort(-values, kind="stable")[:size]


def extremes(scored: ScoredSet, table: Table, signal: str, count: int = SHOWN) -> Ends:
    """The `count` rows with the highest values, around the median, and with the lowest; ties in source order.

    Where there are too few rows for all three, the middle and then the bottom have fewer.
    """
    values = table.values[signal]
    present = int((~np.isnan(values)).sum())
    top = min(count, present)
    bottom = min(count, present - top)
    middle = min(count, present - top - bottom)
    first = max(top, (present - middle) // 2)
    order = np.argsort(-values, kind="stable")[:present]
    picked = (order[:top], order[first : first + middle], order[present - bottom :])
    return Ends(signal, *(_prompts(scored, places, values, table.groups) for places in picked))


def _prompts(scored: ScoredSet, places: Places, values: Floats, groups: Groups | None) -> list[Prompt]:
    head = str(scored.identity["source"]["prompt_column"])
    head = head if head in scored.schema.names else head.partition(".")[0]
    rows = scored.take(places).select(list(dict.fromkeys([ID, LENGTH, head])))
    lengths, ids = rows.column(LENGTH).to_pylist(), rows.column(ID).to_pylist()
    prompts = []
    for place, gc_id, text, tokens in zip(
        places.tolist(), ids, questions(rows, scored.identity), lengths, strict=True
    ):
        group = None if groups is None else groups.names[groups.codes[place]]
        cut = len(text) > LONGEST
        prompts.append(Prompt(gc_id, float(values[place]), tokens, group, text[:LONGEST], cut))
    return prompts


def hygiene_checks(scored: ScoredSet, options: HygieneOptions = DUPLICATES) -> list[Check]:
    """The results of all checks, in their order.

    Raises:
        InputError, SourceError: see `hygiene.checks.search`.
    """
    checks = []
    for result in search(scored, options):
        summary = finding(scored, result, LISTED if result.check == "broken-gold" else EXAMPLES)
        examples = [Example(each["gc_id"], each["text"], each["with"]) for each in summary.examples]
        checks.append(Check(summary.check, summary.rows, summary.share, examples, summary.note))
    return checks


def run_story(run: Run) -> Json:
    """The facts of a run, round by round."""
    facts = status(run)
    same = ("strategy", "by", "params", "budget", "planned_rounds", "finished")
    rounds = [{name: entry.get(name) for name in ROUND} for entry in facts["rounds"]]
    for entry in rounds:  # 0: no line of outcomes had tokens
        entry["completion_tokens"] = entry["completion_tokens"] or None
    return {
        "folder": facts["run"],
        **{name: facts[name] for name in same},
        "rounds": rounds,
        **{name: float(facts[name]) for name in ("training_seconds", "scoring_seconds")},
        "predictions": facts["difficulty"],
    }
