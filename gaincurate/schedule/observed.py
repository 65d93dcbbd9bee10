"""What is known after a round: takes a run, yields its outcomes, late ones, and C_t.

Knows nothing of what a strategy makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.lines import Rules
from gaincurate.schedule.noise import Floats, Ints
from gaincurate.schedule.outcomes import Outcomes, Tally, check_coverage, read_late, read_outcomes
from gaincurate.schedule.run import BASE, Run
from gaincurate.schema import ID
from gaincurate.scored_set import ScoredSet
from gaincurate.shards import Json

Note = Callable[[str], None]


def silent(text: str) -> None:
    """Say nothing."""


def take_outcomes(run: Run, round_: int, note: Note = silent) -> Outcomes:
    """A round's outcomes, checked, with what is odd about them noted.

    Raises:
        OutcomeError: they cannot be used.
    """
    config, path = run.config, run.outcomes(round_)
    rules = rules_of(config)
    found = read_outcomes(path, round_, run.ids(round_), run.ids, rules)
    check_coverage(found, round_, path, rules)
    if found.cut:
        note(f"warning: the last line of {path} is not finished and was left out")
    if found.unjudged:
        note(
            f"warning: {found.unjudged:,} of {found.rollouts:,} rollouts of round {round_} could not be "
            "judged"
        )
    return found


def rules_of(config: ScheduleConfig) -> Rules:
    """How a run reads outcomes."""
    return Rules(config.reward_low, config.reward_high, config.min_coverage)


def late_outcomes(run: Run, state: Json, found: Outcomes) -> tuple[tuple[Ints, Floats, Floats], Json]:
    """What came in for earlier rounds, in this round's file or behind what was taken of theirs."""
    late = dict(found.late)
    taken = {**state["taken"], str(state["round"]): found.size}
    for name, size in state["taken"].items():
        path = run.outcomes(int(name))
        if path.exists() and path.stat().st_size > size:
            more, taken[name] = read_late(path, size, int(name), run.ids, rules_of(run.config))
            for key, tally in more.items():
                into = late.setdefault(key, Tally())
                into.successes += tally.successes
                into.unjudged += tally.unjudged
    places: dict[int, Mapping[str, int]] = {}
    rows, wins, losses = [], [], []
    for (round_, gc_id), tally in sorted(late.items()):
        if round_ not in places:
            places[round_] = dict(zip(run.ids(round_), run.rows(round_), strict=True))
        rows.append(places[round_][gc_id])
        wins.append(math.fsum(tally.successes))
        losses.append(len(tally.successes) - wins[-1])
    return (np.array(rows, np.int64), np.array(wins, float), np.array(losses, float)), taken


def concentration_of(run: Run, name: str, ids: list[str], rows: Ints) -> float:
    """C_t: the mean `gc_angle` of a round's prompts in one set, over those that it has."""
    if name == BASE:
        values = run.scored.take(rows).column("gc_angle")
    else:
        scored = ScoredSet(run.set_folder(name), verify=False)
        found = pc.index_in(scored.column(ID).combine_chunks(), value_set=pa.array(ids, pa.string()))
        values = scored.column("gc_angle").combine_chunks().filter(pc.is_valid(found))
        if not len(values):  # a window scored some rounds ago may have none of them
            return concentration_of(run, BASE, ids, rows)
    return math.fsum(values.to_pylist()) / len(values)
