"""The report, put together from a scored set and what is known of its prompts.

Other modules compute one part each, and this one alone composes them. The same inputs give the same document.

Its histograms span the middle of a column, because one far value would leave all others in one bin. What lies
beyond is counted beside them, and the number of bins does not depend on the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gaincurate.core.artifact import Json
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import Estimate, Floats
from gaincurate.difficulty.metrics import COLUMNS
from gaincurate.difficulty.prompts import fitting_verifier
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.report import verdict_text
from gaincurate.report.document import (
    FORMAT,
    QUANTILES,
    About,
    Band,
    Calibration,
    Distribution,
    Document,
    Histogram,
    Lift,
    Scatter,
    Verdict,
)
from gaincurate.report.lift import calibration, lifts, predict_variance, tenths
from gaincurate.report.observed import (
    Observed,
    Rates,
    group_rates,
    hashes_in,
    observe,
    read_rollouts,
    read_run,
)
from gaincurate.report.relations import TARGETS, Pair, Relations, relate
from gaincurate.report.sections import DUPLICATES, compare_sets, extremes, hygiene_checks, run_story
from gaincurate.report.table import LENGTH, Table, read_table
from gaincurate.report.verdict import Decision, Evidence, decide, weaker
from gaincurate.schedule.first_model import recorded_model
from gaincurate.schedule.forecast import FEWEST, wasted_groups
from gaincurate.schedule.run import Run

PREDICTED = COLUMNS["difficulty"]
_GROUPS_SHOWN = 20
_OUTCOMES = ("pass-rate", "learnability")
BINS = 40
SCATTER_BINS = 32
POINTS = 2000
"""Fewer rows are drawn one by one."""
_TAIL = 0.002  # of the rows to either side may lie beyond the bins
_FAR = 1.5  # times the middle's width: a column that is wider than that has far tails
_LEAST = 10  # rows of a band


def report(
    folder: str | Path,
    *,
    run: str | Path | None = None,
    rollouts: Sequence[str | Path] = (),
    success: float | None = None,
    against: Sequence[str | Path] = (),
    group_column: str | None = None,
    columns: Sequence[str] = (),
    hygiene: HygieneOptions = DUPLICATES,
) -> Document:
    """Judge the scores of a set.

    Args:
        folder: the scored set.
        run: a run over it: its rounds, and its outcomes as pass rates.
        rollouts: rollout sets or files of pass rates, see `read_rollouts`.
        success: from which reward on a rollout of a rollout set is right.
        against: other scored sets of the same prompts.
        group_column: the column of groups; found by name where it is not given.
        columns: more columns to take for levels.
        hygiene: what to look for in the rows; default: duplicates.

    Raises:
        InputError: a column is not there, or what was given cannot be used with this set.
        SourceError: an evaluation set cannot be read.
        OutputError: no finished set or run, or a damaged file.
        StorageError: a file cannot be read.
    """
    scored = ScoredSet(folder)
    table, by_policy, observed = observed_table(
        scored, run=run, rollouts=rollouts, success=success, group_column=group_column, columns=columns
    )
    checked = hygiene_checks(scored, hygiene)
    same = _made_of(scored, table, observed)
    relations = relate(table, same)
    predicted = predict_variance(scored, table, observed)
    batches = lifts(table, predicted)
    decided = [(evidence, decide(evidence)) for evidence in _evidence(table, relations, batches)]
    roles = frozenset(column.role for column in table.columns)
    group = None if table.groups is None else table.groups.column
    cells = {(cell.first, cell.second): cell.correlation for cell in relations.matrix}
    signals = table.names("signal")
    return Document(
        format=FORMAT,
        about=_about(scored, table),
        headline=verdict_text.headline(decided, roles),
        unknown=verdict_text.unknown(
            roles,
            str(scored.place),
            len(scored),
            model=recorded_model(scored.folder) or str(scored.identity["model"]["name"]),
            verifier=hygiene.verifier.verifier if hygiene.verifier else fitting_verifier(scored),
        ),
        wasted=_wasted(by_policy),
        verdicts=[_verdict(evidence, decision, relations, group) for evidence, decision in decided],
        columns=table.columns,
        distributions=[distribution(name, values) for name, values in table.values.items()],
        scatters=[
            scatter(name, table.values[name], table.values[LENGTH], cells[name, LENGTH]) for name in signals
        ],
        matrix=relations.matrix,
        group_shares=relations.shares,
        relations=[judged.relation for judged in relations.judged],
        profiles=relations.profiles,
        lifts=batches,
        outcomes=[outcome.outcome for outcome in observed],
        calibrations=_calibrations(table, observed, same),
        against=[compare_sets(scored, table, Path(path)) for path in against],
        ends=[extremes(scored, table, name) for name in signals],
        hygiene=checked,
        run=None if run is None else run_story(Run(run)),
        notes=table.notes,
        methods=METHODS,
        group_rates=group_rates(table, observed),
        tenths=tenths(table, predicted),
    )


def observed_table(
    scored: ScoredSet,
    *,
    run: str | Path | None = None,
    rollouts: Sequence[str | Path] = (),
    success: float | None = None,
    group_column: str | None = None,
    columns: Sequence[str] = (),
) -> tuple[Table, list[Rates], list[Observed]]:
    """The columns of a report, pass rates among them, and every policy's rates as read and as joined."""
    table = read_table(scored, group_column=group_column, columns=columns)
    by_policy = [rates for path in rollouts for rates in read_rollouts(Path(path), success, scored)]
    if run is not None:
        opened = Run(run)
        outcomes = read_run(opened)
        by_policy += [] if outcomes is None else [outcomes]
        if opened.scored.manifest_hash != scored.manifest_hash:
            other = f"goes by another scored set than {scored.folder}; its outcomes are joined by gc_id."
            table.notes.append(f"{opened.folder} {other}")
        if outcomes is None:
            table.notes.append(f"{opened.folder} has no outcomes yet.")
    return table, by_policy, observe(scored, table, by_policy)


def _wasted(by_policy: Sequence[Rates]) -> Estimate | None:
    """Of a uniform step's groups those that teach nothing, by the first sample that no run chose."""
    for rates in by_policy:
        if rates.source == "rollouts" and rates.counted and len(rates.ids) >= FEWEST:
            share = wasted_groups(rates.wins, rates.losses)
            return Estimate(share.value, share.low, share.high, len(rates.ids))
    return None


def _made_of(scored: ScoredSet, table: Table, observed: Sequence[Observed]) -> frozenset[Pair]:
    """Computed columns and the pass rates that they were made from: neither is evidence for the other."""
    pairs = set[Pair]()
    computed = scored.computed_columns()
    for name in table.names("signal"):
        hashes, files = _sources_behind(name, computed)
        for outcome in observed:
            same = bool(hashes & outcome.hashes)
            if same or Path(outcome.outcome.path).name in files:  # a run goes on, rollouts are added
                targets = [outcome.outcome.name, outcome.outcome.learnability]
                pairs |= {(name, target) for target in targets if target is not None}
                state = "" if same else "another state of "
                table.notes.append(
                    f"{name} was made from {state}{outcome.outcome.name} and is not judged by it."
                )
    return frozenset(pairs)


def _sources_behind(name: str, computed: dict[str, Json]) -> tuple[set[str], set[str]]:
    """Hashes and names of the files that a column was made from, also by way of other computed columns."""
    left, seen = [name], set[str]()
    hashes, files = set[str](), set[str]()
    while left:
        column = left.pop()
        how = computed.get(column, {}).get("how")
        if column not in seen and isinstance(how, dict):
            seen.add(column)
            hashes |= set(hashes_in(how))
            files |= set(hashes_in(how.get("outcomes"), "file"))
            left += how.get("of") or {}
    return hashes, files


def _evidence(table: Table, relations: Relations, batches: Sequence[Lift]) -> list[Evidence]:
    """Of each signal; its relations are those with pass rates where there are any, else with levels."""
    targets = table.names(*_OUTCOMES) or table.names(*TARGETS)
    shares = {share.column: share for share in relations.shares}
    explained = {profile.signal: profile.explained for profile in relations.profiles}
    cells = {cell.first: cell.correlation for cell in relations.matrix if cell.second == LENGTH}
    evidence = []
    for name in table.names("signal"):
        values = table.values[name]
        present = values[~np.isnan(values)]
        judged = [
            item
            for item in relations.judged
            if item.relation.signal == name and item.relation.target in targets
        ]
        judged_targets = {item.relation.target for item in judged}
        evidence.append(
            Evidence(
                name,
                len(present),
                bool((present == present[0]).all()),
                cells[name],
                explained.get(name),
                shares.get(name),
                judged,
                [item for item in batches if item.column in (name, LENGTH) and item.target in judged_targets],
            )
        )
    return evidence


def _verdict(evidence: Evidence, decision: Decision, relations: Relations, group: str | None) -> Verdict:
    judged = decision.judged
    return Verdict(
        signal=evidence.signal,
        verdict=decision.kind,
        sentence=verdict_text.sentence(evidence, decision, group),
        banner=verdict_text.banner(evidence),
        sort_first=None if decision.sort is None else decision.sort.end,
        length=evidence.length,
        target=None if judged is None else judged.relation.target,
        estimate=None if judged is None else weaker(judged.beyond, judged.in_bins),
        level=relations.level,
        looks=relations.looks,
    )


def _calibrations(table: Table, observed: Sequence[Observed], same: frozenset[Pair]) -> list[Calibration]:
    """Of predicted failure rates, where the set has them, against pass rates that they were not made from."""
    if PREDICTED not in table.names("signal"):
        return []
    apart = [each for each in observed if (PREDICTED, each.outcome.name) not in same]
    made = [calibration(PREDICTED, table.values[PREDICTED], each) for each in apart]
    return [each for each in made if each is not None]


def _about(scored: ScoredSet, table: Table) -> About:
    identity, manifest, groups = scored.identity, scored.manifest, table.groups
    sizes = {}
    if groups is not None:
        counts = np.bincount(groups.codes).tolist()
        sizes = dict(list(zip(groups.names, counts, strict=True))[:_GROUPS_SHOWN])
    return About(
        folder=str(scored.place),
        manifest=scored.manifest_hash,
        model=str(identity["model"]["name"]),
        dtype=str(identity["dtype"]),
        device=str(identity["device"]),
        site=str(identity["site"]),
        rows=len(scored),
        rejected=int(manifest["rejected"]),
        truncated=int(manifest["truncated"]),
        prompt_column=str(identity["source"]["prompt_column"]),
        length_column=LENGTH,
        group_column=None if groups is None else groups.column,
        groups=0 if groups is None else len(groups.names),
        group_how=table.group_how,
        group_sizes=sizes,
        settings=dict(sorted(_flat(identity))),
    )


def _flat(facts: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts by dotted name, as short texts."""
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = "-" if value is None else str(value)
            yield prefix + key, text if len(text) <= 200 else text[:197] + "..."


METHODS = {
    "correlation": (
        "Spearman's rank correlation over the rows that have both columns, ties at their mean rank."
    ),
    "interval": (
        "95 % over prompts, by the infinitesimal jackknife, which is what the bootstrap over prompts tends "
        "to: each row's influence on the figure, that on the others' ranks included; for correlations on "
        "Fisher's scale, for ratios on the logarithm's. Intervals hold one at a time. There is none below 10 "
        "rows, nor where fewer than 5 differ from a column's commonest value: a resample could miss them all."
    ),
    "given_length": (
        "Partial correlation of the ranks given the ranks of question length: what is left if length acts on "
        "both in one direction."
    ),
    "within_length_bins": (
        "Ranks inside bins of about equally many prompts of like length (20, fewer for fewer than 1,000 "
        "rows), as fractions of the bin's rows, correlated over all bins together: a bin weighs by its "
        "rows. Nothing is assumed of how length acts."
    ),
    "within_groups": (
        "The same inside groups (each source or task): a group weighs by its rows, and one in which a column "
        "is constant adds nothing."
    ),
    "given_length_within_groups": (
        "Partial correlation given length, all three ranked inside groups. With the next one it decides "
        "whether a signal tells more: both intervals must exclude 0 on the same side, at a level at which "
        "all looks (signals times targets) together are right 95 % of the time (Bonferroni). Without groups "
        "given_length and within_length_bins decide."
    ),
    "within_length_bins_and_groups": "Ranks inside bins of like length of each group, correlated over all "
    "of them.",
    "eta_squared": (
        "Correlation ratio of the ranks: the share of their variance that lies between groups. A random "
        "column has (groups - 1) / (rows - 1) on average."
    ),
    "lift": (
        "Mean p (1 - p) of the tenth of the prompts at one end, over the mean of all: 1 is a random batch. "
        "Rows at the border count in part. A column that was made of the same rollouts is not judged by "
        "them."
    ),
    "predicted_p(1-p)": (
        "What `difficulty predict --target variance` (method gp) would pick by, of up to 256 observed "
        "prompts, each predicted from the half of them that it is not in: the mean over five splits. Only "
        "these prompts count for its figures."
    ),
    "p(1-p)": (
        "G / (G - 1) times y (1 - y) for G rollouts of which the share y was right: without bias for "
        "rollouts that are right or wrong."
    ),
    "ceiling": (
        "The square root of the share of the observed rates' variance that is not sampling noise: the "
        "highest Pearson correlation that a perfect prediction could show. Rank correlations have a "
        "similar limit."
    ),
    "explained": (
        "Correlation ratio of the signal's ranks over bins of like length: what length says of it, in "
        "whatever form."
    ),
    "hygiene": (
        "Duplicates are rows with the messages of an earlier row, but for white space, upper case, how "
        "Unicode composes characters and how LaTeX is spelt; answers do not count. `gaincurate hygiene` has "
        "every check's rows and finer options."
    ),
    "top_shared": "Of the tenth with the highest values in one set, the share that is in the other's too.",
}
"""By the name of a field or a figure."""


def distribution(column: str, values: Floats) -> Distribution:
    """One column's, `[rows]`, NaN where it has no value."""
    present = np.sort(values[~np.isnan(values)])
    missing = len(values) - len(present)
    if not len(present):
        return Distribution(column, 0, missing, 0, None, [], Histogram([], [], 0, 0))
    distinct = int(np.count_nonzero(np.diff(present))) + 1
    quantiles = np.quantile(present, QUANTILES).tolist()
    return Distribution(
        column,
        len(present),
        missing,
        distinct,
        float(present.mean()),
        quantiles,
        histogram(present, distinct),
    )


def histogram(present: Floats, distinct: int) -> Histogram:
    """Of sorted values: a bin for each of few evenly spaced ones, else equal bins over the middle."""
    edges = _own_bins(present) if distinct <= BINS else None
    if edges is None:
        edges = np.linspace(*_middle(present), BINS + 1)
    counts, _ = np.histogram(present, edges)
    below, above = int(np.searchsorted(present, edges[0])), int((present > edges[-1]).sum())
    return Histogram(edges.tolist(), counts.tolist(), below, above)


def _own_bins(present: Floats) -> Floats | None:
    """Edges halfway between values that are a step apart, such as levels; None for others."""
    values = np.unique(present)
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    step = float(np.diff(values).min())
    if values[-1] - values[0] > BINS * step:
        return None
    places = (values - values[0]) / step
    count = round(float(places[-1])) + 1
    if count > BINS or not np.allclose(places, np.round(places), atol=1e-6):
        return None
    edges: Floats = values[0] + step * (np.arange(count + 1) - 0.5)
    return edges


def _middle(present: Floats) -> tuple[float, float]:
    """The ends of the bins: those of the values, unless a few rows lie far out."""
    low, high = np.quantile(present, [_TAIL, 1 - _TAIL])
    first, last = float(present[0]), float(present[-1])
    if last - first <= _FAR * (high - low) or high <= low:
        low, high = first, last
    if high <= low:
        return first - 0.5, first + 0.5
    return float(low), float(high)


def scatter(signal: str, values: Floats, lengths: Floats, correlation: Estimate) -> Scatter:
    """A signal against length, both `[rows]`; rows without a value are left out."""
    present = ~np.isnan(values)
    y, x = values[present], lengths[present]
    if not len(y):
        return Scatter(signal, [], [], [], 0, [], correlation)
    x_edges, y_edges = _log_edges(x), np.linspace(*_middle(np.sort(y)), SCATTER_BINS + 1)
    counts, _, _ = np.histogram2d(x, y, [x_edges, y_edges])
    column = np.clip(np.searchsorted(x_edges, x, side="right") - 1, -1, len(x_edges) - 1)
    column[x == x_edges[-1]] = len(x_edges) - 2
    bands = [_band(y[column == place]) for place in range(len(x_edges) - 1)]
    table = counts.astype(int).tolist()
    outside = len(y) - int(counts.sum())
    inside = (x >= x_edges[0]) & (x <= x_edges[-1]) & (y >= y_edges[0]) & (y <= y_edges[-1])
    points = np.stack([x[inside], y[inside]], 1).tolist() if len(y) < POINTS else []
    return Scatter(signal, x_edges.tolist(), y_edges.tolist(), table, outside, bands, correlation, points)


def _log_edges(lengths: Floats) -> Floats:
    """Even on a log axis, with no bin narrower than one token."""
    low, high = _middle(np.sort(lengths))
    low, high = max(low, 0.5), max(high, 1.0)
    edges = np.geomspace(low, high, SCATTER_BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    whole = np.unique(np.round(edges[1:-1]) + 0.5)
    inner = whole[(whole > low) & (whole < high)]
    return np.concatenate([[edges[0]], inner, [edges[-1]]])


def _band(values: Floats) -> Band:
    if len(values) < _LEAST:
        return Band(len(values), None, None, None)
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return Band(len(values), low, median, high)
