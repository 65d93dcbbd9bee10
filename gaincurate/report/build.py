"""The report, assembled from a scored set and the observed outcomes of its prompts.

Rollouts and the outcomes of a run are joined to the set by id, as columns of pass rates and of p (1 - p). The
latter is estimated without bias from G rollouts, as G / (G - 1) times that of the observed rate, because the
plain value is too low by a tenth with ten rollouts.

The same inputs give the same document. No part grows with the rows: `gaincurate hygiene` lists all rows of a
check. Bins span the middle of a column, because an outlier would leave all other rows in one bin.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.artifact import Json
from gaincurate.core.files import digest_files
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.stats import Estimate, Floats, mean
from gaincurate.difficulty.metrics import noise_ceiling, pass_variance
from gaincurate.difficulty.pass_rates import PassRates, of_rollouts, pooled
from gaincurate.difficulty.prompts import fitting_verifier
from gaincurate.difficulty.rollout_set import is_rollout_set
from gaincurate.errors import InputError
from gaincurate.hygiene.checks import search, summarized
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.report.document import FORMAT, ROUND, About, ColumnInfo, Document, GroupRate, Outcome, Scatter
from gaincurate.report.relations import Pair, relate
from gaincurate.report.table import LENGTH, NumericTable, read_table
from gaincurate.report.verdict import headline, sort_by, unknown, verdict
from gaincurate.schedule.checkpoints import recorded_model
from gaincurate.schedule.forecast import FEWEST, wasted_groups
from gaincurate.schedule.observations import pass_rates_of, status
from gaincurate.schedule.run import Run

BINS = 32
QUARTILES = (0.25, 0.5, 0.75)
_TAIL = 0.002  # share of the rows that may lie beyond the bins, on either side
_FAR = 1.5  # times the width of the middle: a wider column has outliers
_LEAST = 10  # rows in a bin that has quartiles
EXAMPLES = 5  # rows of a check that are shown
Policy = tuple[str, Path, PassRates, list[str]]
"""`Outcome.source`, where it was read, pass rates under the policy's name, and notes."""


@dataclass(frozen=True, slots=True)
class ObservedPolicy:
    """One policy's pass rates, their facts for the report, and those of each group with observed prompts."""

    rates: PassRates
    outcome: Outcome
    groups: list[GroupRate]


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
        success: the least reward of a right rollout in a rollout set.
        group_column: the column of groups. By default, it is detected by name.
        columns: more columns to use as levels.

    Raises:
        InputError: an unknown column, or inputs that do not fit this set.
        OutputError: no finished set or run, or a damaged file.
        StorageError: a file cannot be read.
    """
    scored = ScoredSet(folder)
    table, observed = observed_table(
        scored, run=run, rollouts=rollouts, success=success, group_column=group_column, columns=columns
    )
    evidence, shares, relations, lifts = relate(table, _made_of(scored, table, observed))
    group, identity = None if table.groups is None else table.groups.column, scored.identity
    verdicts = [verdict(each, group) for each in evidence]
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
        group_shares=shares,
        group_rates=[rate for each in observed for rate in each.groups],
        relations=relations,
        lifts=lifts,
        outcomes=[each.outcome for each in observed],
        hygiene=[
            summarized(scored, result, EXAMPLES) for result in search(scored, HygieneOptions(("duplicates",)))
        ],
        run=None if run is None else run_story(Run(run)),
        notes=table.notes,
    )


def _wasted(observed: Sequence[ObservedPolicy]) -> Estimate | None:
    """The share of a uniform step's groups that teach nothing, from the first random sample of rollouts."""
    for each in observed:
        rates = each.rates
        if each.outcome.source == "rollouts" and rates.counted and len(rates.ids) >= FEWEST:
            share = wasted_groups(rates.wins, rates.losses)
            return Estimate(share.value, share.low, share.high, len(rates.ids))
    return None


def _made_of(scored: ScoredSet, table: NumericTable, observed: Sequence[ObservedPolicy]) -> frozenset[Pair]:
    """Pairs of a computed column and pass rates that it was made from, which say nothing of each other."""
    pairs, computed = set[Pair](), scored.computed_columns()
    for name in table.names("signal"):
        left, seen, hashes, files = [name], set[str](), set[str](), set[str]()
        while left:  # also through other computed columns
            column = left.pop()
            how = computed.get(column, {}).get("how")
            if column not in seen and isinstance(how, dict):
                seen.add(column)
                hashes |= set(hashes_in(how))
                files |= set(hashes_in(how.get("outcomes"), "file"))
                left += how.get("of") or {}
        for each in observed:
            outcome, same = each.outcome, bool(hashes & {*hashes_in(each.rates.source)})
            if same or Path(outcome.path).name in files:  # a run that went on, or a set with more rollouts
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
    """A signal against length, both `[rows]`, over the rows with a value, of which there is at least one."""
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
    edges = np.geomspace(low, high, BINS + 1)
    whole = np.unique(np.round(edges[1:-1]) + 0.5)
    inner = whole[(whole > low) & (whole < high)]
    return np.concatenate([[edges[0]], inner, [edges[-1]]])


def run_story(run: Run) -> Json:
    """The facts of a run, round by round."""
    facts = status(run)
    rounds = [{name: entry.get(name) for name in ROUND} for entry in facts["rounds"]]
    for entry in rounds:  # 0 means that no outcome has a number of tokens
        entry["completion_tokens"] = entry["completion_tokens"] or None
    names = ("strategy", "by", "params", "budget", "planned_rounds", "finished")
    seconds = {name: float(facts[name]) for name in ("training_seconds", "scoring_seconds")}
    same = {name: facts[name] for name in names}
    return {"folder": facts["run"], **same, "rounds": rounds, **seconds, "predictions": facts["difficulty"]}


def observed_table(
    scored: ScoredSet,
    *,
    run: str | Path | None = None,
    rollouts: Sequence[str | Path] = (),
    success: float | None = None,
    group_column: str | None = None,
    columns: Sequence[str] = (),
) -> tuple[NumericTable, list[ObservedPolicy]]:
    """The columns of a report, with a column for each policy's pass rates and one for its p (1 - p).

    Arguments and errors are those of `report.build.report`.
    """
    table = read_table(scored, group_column=group_column, columns=columns)
    policies = [policy for path in rollouts for policy in _read(Path(path), success, scored)]
    if run is not None:
        opened = Run(run)
        if opened.scored.manifest_hash != scored.manifest_hash:
            other = f"goes by another scored set than {scored.folder}; its outcomes are joined by gc_id."
            table.notes.append(f"{opened.folder} {other}")
        paths = [opened.outcomes(round_) for round_ in range(opened.round + 1)]
        if any(path.exists() and path.stat().st_size for path in paths):
            strategy = opened.config.strategy
            drawn = f"The prompts were drawn by {strategy}: results for them need not hold for other prompts."
            policies.append(_of_rounds("run", pass_rates_of(opened.folder), opened.folder, drawn))
        else:
            table.notes.append(f"{opened.folder} has no outcomes yet.")
    ids = scored.column(ID).combine_chunks() if policies else None
    return table, [_observe(scored, table, ids, policy) for policy in policies]


def _read(path: Path, success: float | None, scored: ScoredSet) -> list[Policy]:
    """Every policy in a rollout set, or in another source that `difficulty predict --rollouts` takes."""
    if not path.exists():
        raise InputError(f"--rollouts {path} does not exist.", path=str(path))
    if is_rollout_set(path):
        rates = of_rollouts(path, success)
        if not rates.ids:
            raise InputError(f"--rollouts {path} has no rollout that could be judged.", path=str(path))
        source = {"hash": digest_files(sorted(path.rglob("*.arrow")))}
        return [("rollouts", path, replace(rates, source=source), [])]
    if success is not None:
        raise InputError(
            f"--success {success:g} needs a rollout set, which has every reward, and {path} is not one. Give "
            "right and wrong rollouts in it as 1 and 0, and leave --success out.",
            path=str(path),
        )
    policies = pass_rates_of(path, scored=scored)
    if any(rates.round is not None for rates in policies):
        return [_of_rounds("rollouts", policies, path)]
    names = [path.name if len(policies) == 1 else f"{path.name}, {rates.name}" for rates in policies]
    renamed = [replace(rates, name=name) for name, rates in zip(names, policies, strict=True)]
    return [("rollouts", path, rates, []) for rates in renamed]


def _of_rounds(source: str, by_round: Sequence[PassRates], path: Path, *notes: str) -> Policy:
    """All rounds of a run together."""
    rounds = [rates.round for rates in by_round if rates.round is not None]
    changed = f"Rounds {min(rounds)} to {max(rounds)} together: the policy changed while it was observed."
    pooled_rates = replace(pooled(by_round), name=path.name)
    return source, path, pooled_rates, [*([changed] if len(by_round) > 1 else []), *notes]


def hashes_in(facts: Any, key: str = "hash") -> Iterator[str]:
    """Every `hash` (or another key) in nested facts about sources."""
    items = facts.items() if isinstance(facts, dict) else enumerate(facts) if isinstance(facts, list) else ()
    for name, value in items:
        if name == key and isinstance(value, str):
            yield value
        else:
            yield from hashes_in(value, key)


def _observe(scored: ScoredSet, table: NumericTable, ids: pa.Array, policy: Policy) -> ObservedPolicy:
    """Add a policy's pass rates to the table."""
    source, path, rates, notes = policy
    places = pc.index_in(pa.array(rates.ids, pa.string()).cast(ids.type), value_set=ids)
    in_set = places.is_valid().to_numpy(zero_copy_only=False)
    if not in_set.any():
        raise InputError(
            f"{path}: none of its {len(rates.ids):,} prompts is in {scored.folder}; is it of another set? "
            "They are joined by gc_id.",
            path=str(path),
        )
    at, won, lost = places.drop_null().to_numpy(), rates.wins[in_set], rates.losses[in_set]
    wins, losses = np.full(table.rows, np.nan), np.full(table.rows, np.nan)
    wins[at], losses[at] = won, lost
    variance = pass_variance(wins, losses) if rates.counted else np.full(table.rows, np.nan)
    name, learnability = _free(table, f"pass rate ({rates.name})"), None
    made = f"{'rollouts' if source == 'rollouts' else 'a run'}: {path}"
    meaning = "share of rollouts that were right, 0 to 1"
    table.add(ColumnInfo(name, "pass-rate", meaning, made), wins / (wins + losses))
    if not np.isnan(variance).all():
        learnability = _free(table, f"p(1-p) ({rates.name})")
        meaning = "p (1 - p), unbiased: highest where one rollout in two is right; what GRPO learns from"
        table.add(ColumnInfo(learnability, "learnability", meaning, made), variance)
    outcome = Outcome(
        name=name,
        learnability=learnability,
        source=source,
        path=str(path),
        prompts=len(at),
        unknown=int((~in_set).sum()),
        rollouts=round(float((won + lost).sum())) if rates.counted else None,
        mean=float(np.mean(won / (won + lost))),
        always=float(np.mean(lost == 0)),
        never=float(np.mean(won == 0)),
        ceiling=noise_ceiling(won, lost) if rates.counted else None,
        mean_variance=mean(variance[~np.isnan(variance)]),
        notes=[*notes, *_notes(source, rates.counted, won, lost)],
    )
    groups = list[GroupRate]()
    codes, names = (np.empty(0), []) if table.groups is None else (table.groups.codes, table.groups.names)
    for code, group in enumerate(names):
        inside = (codes == code) & (wins + losses > 0)
        if inside.any():
            won, lost, varies = wins[inside], losses[inside], variance[inside]
            teaches = float(np.mean((won > 0) & (lost > 0))) if rates.counted else None
            varying = None if np.isnan(varies).all() else float(np.nanmean(varies))
            figures = len(won), float(np.mean(won / (won + lost))), teaches, varying
            groups.append(GroupRate(name, group, *figures))
    return ObservedPolicy(rates, outcome, groups)


def _free(table: NumericTable, name: str) -> str:
    """The name, followed by a number if the table has the name already."""
    names = itertools.chain([name], (f"{name} {number}" for number in itertools.count(2)))
    return next(free for free in names if free not in table.values)


def _notes(source: str, counted: bool, wins: Floats, losses: Floats) -> list[str]:
    if not counted:
        return ["The numbers of rollouts are not known, so p (1 - p) and the ceiling cannot be estimated."]
    notes, count = [], wins + losses
    if (count < 2).all():
        notes.append("With one rollout a prompt, neither p (1 - p) nor the noise can be estimated.")
    elif (count < 2).any():
        notes.append(f"Prompts with one rollout, which have no p (1 - p): {int((count < 2).sum()):,}.")
    if np.ptp(count) > 0 and source == "rollouts":
        notes.append(
            "Prompts have different numbers of rollouts. If sampling went on until a rate was clear, "
            "p (1 - p) is a little too low."
        )
    if (wins != np.round(wins)).any():
        notes.append(
            "Some rewards lie between right and wrong (--success 1 counts only full rewards as right): "
            "p (1 - p) is then an upper bound of their variance, and the ceiling too low."
        )
    return notes
