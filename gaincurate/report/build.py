"""The report, put together from a scored set and what is known of its prompts.

The same inputs give the same document. No part grows with the rows: `gaincurate hygiene` lists all rows of a
check. Bins span the middle of a column, because one far value would leave all others in one bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gaincurate.core.artifact import Json
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import Estimate, Floats
from gaincurate.difficulty.prompts import fitting_verifier
from gaincurate.hygiene.checks import finding, search
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.report.document import FORMAT, ROUND, About, Document, Scatter
from gaincurate.report.observed import Observed, hashes_in, observed_table
from gaincurate.report.relations import Pair, relate
from gaincurate.report.table import LENGTH, Table
from gaincurate.report.verdict import headline, sort_by, unknown, verdict
from gaincurate.schedule.first_model import recorded_model
from gaincurate.schedule.forecast import FEWEST, wasted_groups
from gaincurate.schedule.run import Run
from gaincurate.schedule.status import status

BINS = 32
QUARTILES = (0.25, 0.5, 0.75)
_TAIL = 0.002  # of the rows to either side may lie beyond the bins
_FAR = 1.5  # times the middle's width: a column that is wider than that has far tails
_LEAST = 10  # rows of quartiles
EXAMPLES = 5  # rows that are shown of a check
DUPLICATES = HygieneOptions(("duplicates",))


def report(
    folder: str | Path,
    *,
    run: str | Path | None = None,
    rollouts: Sequence[str | Path] = (),
    success: float | None = None,
    group_column: str | None = None,
    columns: Sequence[str] = (),
) -> Document:
    """Judge the scores of a set.

    Args:
        folder: the scored set.
        run: a run over it: its rounds, and its outcomes as pass rates.
        rollouts: rollout sets or files of pass rates, as `--rollouts` takes them.
        success: from which reward on a rollout of a rollout set is right.
        group_column: the column of groups; found by name where it is not given.
        columns: more columns to take for levels.

    Raises:
        InputError: a column is not there, or what was given cannot be used with this set.
        OutputError: no finished set or run, or a damaged file.
        StorageError: a file cannot be read.
    """
    scored = ScoredSet(folder)
    table, observed = observed_table(
        scored, run=run, rollouts=rollouts, success=success, group_column=group_column, columns=columns
    )
    relations = relate(table, _made_of(scored, table, observed))
    group, identity = None if table.groups is None else table.groups.column, scored.identity
    level, looks, evidence = relations.level, relations.looks, relations.evidence
    verdicts = [verdict(each, group, level=level, looks=looks) for each in evidence]
    worth = [sort_by(e) for e, v in zip(evidence, verdicts, strict=True) if v.sort_first is not None]
    roles = frozenset(column.role for column in table.columns)
    about = About(
        folder=str(scored.place),
        manifest=scored.manifest_hash,
        model=str(identity["model"]["name"]),
        dtype=str(identity["dtype"]),
        device=str(identity["device"]),
        site=str(identity["site"]),
        rows=len(scored),
        rejected=int(scored.manifest["rejected"]),
        truncated=int(scored.manifest["truncated"]),
        group_column=group,
        groups=0 if table.groups is None else len(table.groups.names),
        group_how=table.group_how,
    )
    model, verifier = recorded_model(scored.folder) or about.model, fitting_verifier(scored)
    return Document(
        format=FORMAT,
        about=about,
        headline=headline(verdicts, [lift for lift in worth if lift is not None], roles),
        unknown=unknown(roles, about.folder, about.rows, model=model, verifier=verifier),
        wasted=_wasted(observed),
        verdicts=verdicts,
        columns=table.columns,
        scatters=[scatter(name, table.values[name], table.values[LENGTH]) for name in table.names("signal")],
        group_shares=relations.shares,
        group_rates=[rate for each in observed for rate in each.groups],
        relations=relations.relations,
        lifts=relations.lifts,
        outcomes=[each.outcome for each in observed],
        hygiene=[finding(scored, result, EXAMPLES) for result in search(scored, DUPLICATES)],
        run=None if run is None else run_story(Run(run)),
        notes=table.notes,
    )


def _wasted(observed: Sequence[Observed]) -> Estimate | None:
    """Of a uniform step's groups those that teach nothing, by the first sample that no run chose."""
    for each in observed:
        rates = each.rates
        if each.outcome.source == "rollouts" and rates.counted and len(rates.ids) >= FEWEST:
            share = wasted_groups(rates.wins, rates.losses)
            return Estimate(share.value, share.low, share.high, len(rates.ids))
    return None


def _made_of(scored: ScoredSet, table: Table, observed: Sequence[Observed]) -> frozenset[Pair]:
    """Computed columns and the pass rates that they were made from: neither is evidence for the other."""
    pairs, computed = set[Pair](), scored.computed_columns()
    for name in table.names("signal"):
        left, seen, hashes, files = [name], set[str](), set[str](), set[str]()
        while left:  # also by way of other computed columns
            column = left.pop()
            how = computed.get(column, {}).get("how")
            if column not in seen and isinstance(how, dict):
                seen.add(column)
                hashes |= set(hashes_in(how))
                files |= set(hashes_in(how.get("outcomes"), "file"))
                left += how.get("of") or {}
        for each in observed:
            outcome, same = each.outcome, bool(hashes & {*hashes_in(each.rates.source)})
            if same or Path(outcome.path).name in files:  # a run goes on, rollouts are added
                pairs |= {(name, target) for target in (outcome.name, outcome.learnability or "")}
                made = f"{name} was made from {'' if same else 'another state of '}{outcome.name}"
                table.notes.append(f"{made} and is not judged by it.")
    return frozenset(pairs)


def _middle(present: Floats) -> tuple[float, float]:
    """The ends of the bins: those of the sorted values, unless a few rows lie far out."""
    low, high = np.quantile(present, [_TAIL, 1 - _TAIL])
    first, last = float(present[0]), float(present[-1])
    if last - first <= _FAR * (high - low) or high <= low:
        low, high = first, last
    if high <= low:
        return first - 0.5, first + 0.5
    return float(low), float(high)


def scatter(signal: str, values: Floats, lengths: Floats) -> Scatter:
    """A signal against length, both `[rows]`; rows without a value are left out, one row at least has one."""
    present = ~np.isnan(values)
    y, x = values[present], lengths[present]
    x_edges, y_edges = _log_edges(x), np.linspace(*_middle(np.sort(y)), BINS + 1)
    x, inside = np.clip(x, x_edges[0], x_edges[-1]), np.clip(y, y_edges[0], y_edges[-1])
    counts, _, _ = np.histogram2d(x, inside, [x_edges, y_edges])
    column = np.minimum(np.searchsorted(x_edges, x, side="right"), len(x_edges) - 1)
    parts = [y[column == place] for place in range(1, len(x_edges))]
    quartiles = [np.quantile(part, QUARTILES).tolist() if len(part) >= _LEAST else [] for part in parts]
    return Scatter(signal, x_edges.tolist(), y_edges.tolist(), counts.astype(int).tolist(), quartiles)


def _log_edges(lengths: Floats) -> Floats:
    """Even on a log axis, with no bin narrower than one token."""
    low, high = _middle(np.sort(lengths))
    low, high = max(low, 0.5), max(high, 1.0)
    edges = np.geomspace(low, high, BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    whole = np.unique(np.round(edges[1:-1]) + 0.5)
    inner = whole[(whole > low) & (whole < high)]
    return np.concatenate([[edges[0]], inner, [edges[-1]]])


def run_story(run: Run) -> Json:
    """The facts of a run, round by round."""
    facts = status(run)
    rounds = [{name: entry.get(name) for name in ROUND} for entry in facts["rounds"]]
    for entry in rounds:  # 0: no line of outcomes had tokens
        entry["completion_tokens"] = entry["completion_tokens"] or None
    names = ("strategy", "by", "params", "budget", "planned_rounds", "finished")
    seconds = {name: float(facts[name]) for name in ("training_seconds", "scoring_seconds")}
    same = {name: facts[name] for name in names}
    return {"folder": facts["run"], **same, "rounds": rounds, **seconds, "predictions": facts["difficulty"]}
