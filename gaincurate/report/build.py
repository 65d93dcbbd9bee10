"""A report, put together: takes a scored set and what is known of its prompts, yields the document.

The only composer. The same inputs give the same document. Prints nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gaincurate.core.artifact import Json
from gaincurate.difficulty.predict import COLUMNS
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.report import sentences
from gaincurate.report.against import compare
from gaincurate.report.checks import DUPLICATES, checks
from gaincurate.report.document import FORMAT, About, Document, Verdict
from gaincurate.report.figures import Calibration, Lift
from gaincurate.report.methods import METHODS
from gaincurate.report.observed import Observed, hashes_in, observe, read_rollouts, read_run
from gaincurate.report.prompts import ends
from gaincurate.report.relations import TARGETS, Relations, relate
from gaincurate.report.samples import Pair
from gaincurate.report.spread import distribution, scatter
from gaincurate.report.story import tell
from gaincurate.report.table import LENGTH, Table, read_table
from gaincurate.report.verdict import Decision, Evidence, decide, weaker
from gaincurate.report.worth import calibration, lifts
from gaincurate.schedule.run import Run
from gaincurate.scored_set import ScoredSet

PREDICTED = COLUMNS["difficulty"]
_GROUPS_SHOWN = 20
_OUTCOMES = ("pass-rate", "learnability")


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
    """What the scores of a set are worth.

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
    opened = None if run is None else Run(run)
    table = read_table(scored, group_column=group_column, columns=columns)
    found = [rates for path in rollouts for rates in read_rollouts(Path(path), success)]
    if opened is not None:
        outcomes = read_run(opened)
        found += [] if outcomes is None else [outcomes]
        _note_run(scored, table, opened, empty=outcomes is None)
    observed = observe(scored, table, found)
    checked = checks(scored, hygiene)
    same = _made_of(scored, table, observed)
    relations = relate(table, same)
    batches = lifts(table)
    decided = [(evidence, decide(evidence)) for evidence in _evidence(table, relations, batches)]
    roles = frozenset(column.role for column in table.columns)
    group = None if table.groups is None else table.groups.column
    cells = {(cell.first, cell.second): cell.correlation for cell in relations.matrix}
    signals = table.names("signal")
    return Document(
        format=FORMAT,
        about=_about(scored, table),
        headline=sentences.headline(decided, roles),
        unknown=sentences.unknown(roles, str(folder), len(scored)),
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
        outcomes=[one.outcome for one in observed],
        calibrations=_calibrations(table, observed, same),
        against=[compare(scored, table, Path(path)) for path in against],
        ends=[ends(scored, table, name) for name in signals],
        hygiene=checked,
        run=None if opened is None else tell(opened),
        notes=table.notes,
        methods=METHODS,
    )


def _note_run(scored: ScoredSet, table: Table, run: Run, *, empty: bool) -> None:
    if run.scored.manifest_hash != scored.manifest_hash:
        table.notes.append(
            f"{run.folder} goes by another scored set than {scored.folder}; its outcomes are joined by gc_id."
        )
    if empty:
        table.notes.append(f"{run.folder} has no outcomes yet.")


def _made_of(scored: ScoredSet, table: Table, observed: Sequence[Observed]) -> frozenset[Pair]:
    """Computed columns and the pass rates that they were made from: neither is evidence for the other."""
    found = set[Pair]()
    computed = scored.computed_columns()
    for name in table.names("signal"):
        hashes, files = _sources_behind(name, computed)
        for one in observed:
            same = bool(hashes & one.hashes)
            if same or Path(one.outcome.path).name in files:  # a run goes on, rollouts are added
                targets = [one.outcome.name, one.outcome.learnability]
                found |= {(name, target) for target in targets if target is not None}
                state = "" if same else "another state of "
                table.notes.append(f"{name} was made from {state}{one.outcome.name} and is not judged by it.")
    return frozenset(found)


def _sources_behind(name: str, computed: dict[str, Json]) -> tuple[set[str], set[str]]:
    """Hashes and names of the files that a column was made from, also by way of other computed columns."""
    left, seen = [name], set[str]()
    hashes, files = set[str](), set[str]()
    while left:
        one = left.pop()
        how = computed.get(one, {}).get("how")
        if one not in seen and isinstance(how, dict):
            seen.add(one)
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
    found = []
    for name in table.names("signal"):
        values = table.values[name]
        known = values[~np.isnan(values)]
        judged = [
            one for one in relations.judged if one.relation.signal == name and one.relation.target in targets
        ]
        own = {one.relation.target for one in judged}
        found.append(
            Evidence(
                name,
                len(known),
                bool((known == known[0]).all()),
                cells[name],
                explained.get(name),
                shares.get(name),
                judged,
                [one for one in batches if one.column in (name, LENGTH) and one.target in own],
            )
        )
    return found


def _verdict(evidence: Evidence, decision: Decision, relations: Relations, group: str | None) -> Verdict:
    judged = decision.judged
    return Verdict(
        signal=evidence.signal,
        verdict=decision.kind,
        sentence=sentences.sentence(evidence, decision, group),
        banner=sentences.banner(evidence),
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
    made = [
        calibration(PREDICTED, table.values[PREDICTED], one)
        for one in observed
        if (PREDICTED, one.outcome.name) not in same
    ]
    return [one for one in made if one is not None]


def _about(scored: ScoredSet, table: Table) -> About:
    identity, manifest, groups = scored.identity, scored.manifest, table.groups
    sizes = {}
    if groups is not None:
        counts = groups.strata.sizes.tolist()
        sizes = dict(list(zip(groups.names, counts, strict=True))[:_GROUPS_SHOWN])
    return About(
        folder=str(scored.folder),
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


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts by dotted name, as short texts."""
    found = []
    for key, value in facts.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}.")
        else:
            text = "-" if value is None else str(value)
            found.append((prefix + key, text if len(text) <= 200 else text[:197] + "..."))
    return found
