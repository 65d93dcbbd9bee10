"""The observations of a run: outcomes of its rounds and of earlier training, C_t, and the status of all.

Outcomes may come in for a round that is over. They are taken once, so each state keeps how far every file was
read. In `status` a problem in a file of outcomes is not an error, so that a user sees it.

Outcomes of earlier training (`--history`), other models' rates (`--rates`) and the rows for which a condition
holds (`--where`) are copied into the run's folder when it is opened, so that a file that changes afterwards
changes no plan. A strategy weights the sum of the earlier runs, because a few hundred outcomes do not
determine a weight for each.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.arrow import write_ipc
from gaincurate.core.artifact import RUN, Json
from gaincurate.core.columns import fields, read_column
from gaincurate.core.files import to_lines
from gaincurate.core.foreign import json_value
from gaincurate.core.outcomes import (
    Key,
    Line,
    Outcomes,
    Rules,
    Tally,
    check_coverage,
    check_line,
    read_outcomes,
    split_lines,
)
from gaincurate.core.process import last_line
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.where import Condition, Mask
from gaincurate.difficulty.beta import groups_that_differ
from gaincurate.difficulty.metrics import Target, pass_variance, quality
from gaincurate.difficulty.pass_rates import PassRates, pooled, read_pass_rates
from gaincurate.errors import InputError, OutcomeError
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.run import BASE, DATA, GIVEN, IDS, PLAN, Run

Note = Callable[[str], None]
REPLAY = (
    "more than half of the groups are silent, so switch replay on (in TRL `replay=` of ReplayGRPOTrainer, "
    "https://arxiv.org/abs/2506.05316), unless the training makes many passes over few prompts"
)
"""Advice if less than half of the groups differ; docs/studies/lean measures what replay gains and costs."""
HISTORY, RATES = "history.arrow", "rates.arrow"
OF_ROLLOUTS = ("pass_rate", "samples")
"""The columns that `--rollouts` adds: the share of right rollouts, and how many were judged."""
_OF_A_RATE = 8.0  # rollouts that a pass rate counts for where their number is not known
_OF_REFERENCES = ("observed", "left_out", "rollouts", "completion_tokens", "unjudged", "policy", "carried")
_LARGE = ("ids", "predicted", "predicted_rollouts")
_OF_OUTCOMES = (
    "accuracy", "effective", "all_wrong", "all_right", "concentration", "concentration_from", "prompts",
    "rollouts", "unjudged", "late", "completion_tokens", "rescored", "drift",
)  # fmt: skip


def silent(text: str) -> None:
    """Say nothing."""


def logged(text: str) -> None:
    """Log a note, for programs that follow a run."""
    level = logging.WARNING if text.startswith("warning: ") else logging.INFO
    logging.getLogger("gaincurate").log(level, text.removeprefix("warning: "))


def take_outcomes(run: Run, round_: int, note: Note = silent) -> Outcomes:
    """A round's outcomes. Raises OutcomeError if they cannot be used."""
    path = run.outcomes(round_)
    outcomes = read_outcomes(path, round_, run.ids, run.rules)
    if outcomes.cut:
        note(f"warning: the last line of {path} is not finished and was left out")
    check_coverage(outcomes, round_, path, run.rules)
    if unjudged := outcomes.unjudged:
        of = f"{unjudged:,} of {outcomes.rollouts:,} rollouts of round {round_}"
        note(f"warning: {of} could not be judged")
    return outcomes


def nothing_learnt(run: Run, inputs: Json) -> str | None:
    """A sentence with likely causes if no group of a round had rewards that differ, else None.

    Groups of a single rollout may be a trainer's choice, so they only count if all prompts got one reward.
    `inputs` are those of the next plan, or of the run's last state.
    """
    wrong, right = inputs.get("all_wrong"), inputs.get("all_right")
    single = (inputs.get("rollouts") or 0) <= (inputs.get("prompts") or 0)
    if inputs.get("effective") != 0 or wrong is None or right is None or (single and wrong < 1 and right < 1):
        return None
    low, high = run.config.reward_low, run.config.reward_high
    return (
        f"no group of round {inputs['round']} had rewards that differ ({wrong:.0%} of the groups were all "
        f"wrong and {right:.0%} all right), so GRPO learns nothing; likely causes are the verifier, the "
        f"length limit, the reward range ({low:g} to {high:g}), or a model that solves none or all of them"
    )


def checked_lines(run: Run, lines: Iterable[Mapping[str, Any]], newest: int) -> list[Json]:
    """The outcomes that a program reports, each with its round, by default the newest.

    Raises OutcomeError for a line that the run cannot use.
    """
    outcomes = [{"round": newest, **line} for line in lines]
    strangers: list[tuple[str, int]] = []
    ids_of = cache(lambda round_: frozenset(run.ids(round_)))
    for outcome in outcomes:  # now, not when a whole round was trained
        try:
            written = json_value(to_lines([outcome]))
        except (TypeError, ValueError, RecursionError) as error:
            raise OutcomeError(f"an outcome cannot be written: {str(error)[:200].rstrip('.')}.") from error
        line = check_line(written, "an outcome", newest, run.rules)
        if line.gc_id not in ids_of(line.round):
            strangers.append((line.gc_id, line.round))
    if strangers:
        gc_id, round_ = strangers[0]
        raise OutcomeError(
            f"an outcome: {gc_id!r} is not among the prompts of round {round_}. {len(strangers):,} of "
            f"{len(outcomes):,} outcomes have this fault, and nothing was written. Report the gc_id of that "
            "round's rows, and `round` with an outcome of an earlier one.",
            gc_id=gc_id,
            ids=list(dict.fromkeys(gc_id for gc_id, _ in strangers)),
        )
    return outcomes


def pass_rates_of(
    path: Path, rules: Rules | None = None, *, scored: ScoredSet | None = None
) -> list[PassRates]:
    """Pass rates of every policy in a file, a folder of tables, or a run, in which each round is a policy.

    `rules` has the range of rewards, by default the run's, else 0 to 1. `scored`, the set of the prompts,
    gives ids to rollouts of NeMo Gym. Raises InputError as `read_pass_rates`, OutputError for a damaged run.
    """
    if not (path / RUN).exists():
        return read_pass_rates(path, rules, scored=scored)
    run = Run(path)
    files = [run.outcomes(round_) for round_ in range(run.round + 1)]
    return read_pass_rates(path, rules or run.rules, files=[file for file in files if file.exists()])


def build_history(path: Path, scored: ScoredSet, config: ScheduleConfig, note: Note) -> None:
    """Write the wins and losses of each prompt in earlier training."""
    counts = count_history(config.history, scored, Rules(config.reward_low, config.reward_high))
    rows = np.flatnonzero(counts.sum(0))
    write_ipc(path, pa.table({"row": rows, "wins": counts[0, rows], "losses": counts[1, rows]}))
    alike = int((counts[:, rows].min(0) == 0).sum())
    note(f"{len(rows):,} of {len(scored):,} prompts have a history; in {alike:,} of them no outcomes differ")


def count_history(paths: Sequence[Path], scored: ScoredSet, rewards: Rules) -> Floats:
    """Wins and losses of each prompt in runs, rollout sets and other outcomes, `[2, N]`.

    A run has a range of rewards; `rewards` is that of the others. Raises InputError for a file without
    outcomes or without a prompt of the set.
    """
    counts, ids = np.zeros((2, len(scored))), scored.column(ID)
    for source in paths:
        rules, matched = None if (source / RUN).exists() else rewards, 0
        for rates in pass_rates_of(source, rules, scored=scored):
            rows = pc.index_in(pa.array(rates.ids, pa.string()), value_set=ids.combine_chunks())
            there = np.flatnonzero(rows.is_valid().to_numpy(zero_copy_only=False))
            weight = 1.0 if rates.counted else _OF_A_RATE
            for row, added in zip(counts, (rates.wins, rates.losses), strict=True):
                row += np.bincount(rows.drop_null().to_numpy(), weight * added[there], len(scored))
            matched += len(there)
        if not matched:
            raise InputError(
                f"--history {source}: none of its prompts is in {scored.folder}, by gc_id or by text.",
                path=str(source),
            )
    return counts


def matching(
    scored: ScoredSet, where: str, rollouts: Path | None = None, note: Note = silent
) -> tuple[Mask, Mask]:
    """For which rows a condition (see `core.where`) is true, and for which a value is missing, `[rows]` each.

    A condition can use source, score and computed columns, and with `rollouts`, a rollout set or another file
    of pass rates, `OF_ROLLOUTS`. Raises InputError if it cannot be parsed or does not fit the columns.
    """
    condition = Condition(where)
    there = {*scored.schema.names, *dict(fields(scored.schema))}
    observed = {} if rollouts is None else _of_rollouts(scored, rollouts)
    absent = set(condition.names) & set(OF_ROLLOUTS) - there - observed.keys()
    if absent and rollouts is None:
        raise InputError(
            f"--where {where!r}: {scored.folder} has no column {min(absent)!r}; --rollouts PATH adds it."
        )
    if both := there & observed.keys() & set(condition.names):
        raise InputError(
            f"--where {where!r}: {min(both)} is a column of {scored.folder} and of --rollouts {rollouts}; "
            "leave --rollouts out, or rename the column in the data."
        )
    condition.check(there | observed.keys())
    columns = {
        name: observed[name] if name in observed else read_column(scored, name) for name in condition.names
    }
    missing = columns["pass_rate"].null_count if "pass_rate" in columns else 0
    if 2 * missing > len(scored):
        note(
            f"warning: {missing:,} of {len(scored):,} rows have no pass_rate. `gaincurate difficulty "
            "predict` writes gc_difficulty, the failure rate of every row, which --where takes too."
        )
    return condition.holds(columns)


def _of_rollouts(scored: ScoredSet, path: Path) -> dict[str, pa.ChunkedArray]:
    """The columns that a file of pass rates adds, in the order of the set's rows."""
    policies = pass_rates_of(path, scored=scored)
    if len(policies) > 1 and any(rates.round is None for rates in policies):
        has = f"{len(policies)} policies ({', '.join(rates.name for rates in policies)})"
        raise InputError(f"--rollouts {path} has {has}, and a pass rate is of one; give a file of one.")
    rates = pooled(policies) if len(policies) > 1 else policies[0]
    places = pc.index_in(scored.column(ID), value_set=pa.array(rates.ids, pa.string()))
    samples = rates.wins + rates.losses
    columns = {"pass_rate": rates.wins / samples, **({"samples": samples} if rates.counted else {})}
    return {name: pa.chunked_array([pa.array(values)]).take(places) for name, values in columns.items()}


def late_outcomes(run: Run, state: Json, outcomes: Outcomes) -> tuple[tuple[Ints, Floats, Floats], Json]:
    """Late outcomes of earlier rounds, from this round's file or appended to their own files.

    Returns rows, wins and losses, `[prompts]` each, and the sizes up to which each file was read.
    """
    before: dict[str, int] = state["taken"]
    taken, fresh = {**before, str(state["round"]): outcomes.size}, list[Line]()
    for name, since in before.items():
        path = run.outcomes(int(name))
        if path.exists() and path.stat().st_size > since:
            _, new, taken[name] = split_lines(path, since, int(name), run.ids, run.rules)
            fresh += new
    fresh += outcomes.earlier
    if not fresh:
        return (np.zeros(0, np.int64), np.zeros(0), np.zeros(0)), taken
    taken_before: set[Key] = set()  # whatever file they are in
    for round_ in range(min(line.round for line in fresh), state["round"]):
        path, size = run.outcomes(round_), before[str(round_)]
        for line in split_lines(path, size, round_, run.ids, run.rules)[0]:
            line.is_new(taken_before)
    late: dict[tuple[int, str], Tally] = {}
    for line in fresh:
        if line.is_new(taken_before):
            late.setdefault((line.round, line.gc_id), Tally()).add(line.success)
    rows_of = {r: dict(zip(run.ids(r), run.rows(r), strict=True)) for r in {round_ for round_, _ in late}}
    keys = sorted(late)
    rows = np.array([rows_of[round_][gc_id] for round_, gc_id in keys], np.int64)
    return (rows, *sums_of([late[key] for key in keys])), taken


def concentration_of(run: Run, name: str, plan: Json) -> tuple[float | None, str, int]:
    """C_t: the mean `gc_angle` of a round's prompts in the named set, if it has nearly all of them.

    A window that was scored some rounds ago may lack a few prompts, drawn from a tail; the mean leaves them
    out. If it lacks more than a tenth, the mean is that of the set that the run began with, as in the plan.
    Returns the mean (None if no prompt has an angle), the set's name, and the number of prompts in the mean.
    """
    if name != BASE:
        scored, ids = ScoredSet(run.set_folder(name), verify=False), plan["ids"]
        there = pc.is_in(scored.column(ID), value_set=pa.array(ids, pa.string()))
        values = scored.column("gc_angle").filter(there).drop_null().to_pylist()
        if len(values) >= 0.9 * len(ids):
            return math.fsum(values) / len(values), name, len(values)
    return plan["forecast"]["mean_angle"], BASE, plan["forecast"]["with_angle"]


def calibration_of(plan: Json, tallies: Sequence[Tally]) -> Json:
    """Figures of a round's predictions. If the plan has the rollouts behind them, `expected_effective` is the
    expected share of groups that differ, for the group sizes that came back.
    """
    predicted, wins, losses = judged(plan, tallies)
    metrics = quality(predicted, wins, losses, target=target_of(plan), intervals=False)
    names = ("pearson", "spearman", "brier", "ceiling")
    values = {"count": metrics.count, **{name: getattr(metrics, name).value for name in names}}
    facts: Json = {"calibration": {**values, "carried": carried(wins, losses)}}
    sizes = np.array([tally.group_size for tally in tallies])
    if "predicted_rollouts" not in plan or not sizes.any():
        return facts
    failures, rollouts = np.array(plan["predicted"]), np.array(plan["predicted_rollouts"])
    a, b = rollouts * (1 - failures), rollouts * failures
    chances = [groups_that_differ(a[sizes == n], b[sizes == n], int(n)) for n in np.unique(sizes[sizes > 0])]
    return facts | {"expected_effective": float(np.concatenate(chances).mean())}


def carried(wins: Floats, losses: Floats) -> float | None:
    """The mean observed p (1 - p) of prompts; None if none has two rollouts."""
    variances = pass_variance(wins, losses)
    variances = variances[np.isfinite(variances)]
    return float(variances.mean()) if len(variances) else None


def target_of(plan: Json) -> Target:
    """The target of a plan's predictions; a user's strategy always predicts failure rates."""
    references: Json = plan.get("references") or {}
    target = references.get("target") or plan["params"].get("target")
    return "variance" if target == "variance" else "difficulty"


def sums_of(tallies: Sequence[Tally]) -> tuple[Floats, Floats]:
    """Wins and losses of each prompt, `[prompts]`."""
    wins = np.array([math.fsum(tally.successes) for tally in tallies])
    return wins, np.array([float(len(tally.successes)) for tally in tallies]) - wins


def judged(plan: Json, tallies: Sequence[Tally]) -> tuple[Floats, Floats, Floats]:
    """Predictions, wins and losses of the prompts that have a judged rollout."""
    wins, losses = sums_of(tallies)
    here = wins + losses > 0
    return np.array(plan["predicted"], dtype=np.float64)[here], wins[here], losses[here]


def status(run: Run) -> Json:
    """The state of a run, and every round so far, as plain values.

    `rounds` has for each round its draw, its outcomes and its time. `seconds_left` is extrapolated from the
    last rounds. `waiting` has the newest round's outcomes so far, and `last_line` is the end of its trainer's
    log. `difficulty` has references and predictions.
    """
    state, config = run.state, run.config
    finished, newest = state["finished"], state["round"]
    counts: dict[Any, Json] = {}
    seconds = Counter[tuple[str, int]]()  # that each kind of work on each round took
    for entry in run.executions():
        if (what := entry.get("what")) == "outcomes":
            counts[entry.get("round")] = entry
        elif what in ("training", "scoring", "rollout", "predict") and "round" in entry:
            seconds[what, entry["round"]] += entry.get("seconds", 0.0)
    plans = [  # without what makes thousands of them large
        {name: value for name, value in run.plan(round_).items() if name not in _LARGE}
        for round_ in range(newest + 1)
    ]
    came: list[Json] = [*(plan["inputs"] for plan in plans[1:]), state["inputs"] if finished else {}]
    rounds: list[Json] = [
        {
            "round": round_,
            "mu": plan["mu"],
            **{name: seen.get(name) for name in _OF_OUTCOMES},
            **{name: counts.get(round_, {}).get(name) for name in ("repeated", "void")},
            "metrics": plan["metrics"] | {k: seen[k] for k in ("expected_effective",) if k in seen},
            "prompt_tokens": plan["forecast"]["prompt_tokens"],
            "training_seconds": seconds.get(("training", round_)),
            "scoring_seconds": seconds.get(("scoring", round_)),
        }
        for round_, (plan, seen) in enumerate(zip(plans, came, strict=False))
    ]
    done = [row for row in rounds if row["accuracy"] is not None]
    shares = [row["effective"] for row in done if row["effective"] is not None]
    nothing = nothing_learnt(run, done[-1]) if done else None
    trained = [row for row in rounds[:newest] if row["training_seconds"]][-5:]
    took = [row["training_seconds"] + (row["scoring_seconds"] or 0.0) for row in trained]
    is_open = newest >= 0 and not finished
    log = run.round_folder(newest) / "trainer.log"
    return {
        "run": str(run.folder),
        "strategy": config.strategy,
        "params": run.facts["params"],
        "by": config.by,
        "where": config.where,
        "stratify": config.stratify,
        "group_weights": config.group_weights,
        "budget": config.budget,
        "rows": run.facts["rows"],
        "kept": run.prompts,
        "planned_rounds": config.rounds,
        "finished": finished,
        "rescore": config.rescore.model_dump(),
        "rounds": rounds,
        "training_seconds": sum(v for (what, _), v in seconds.items() if what == "training"),
        "scoring_seconds": sum(v for (what, _), v in seconds.items() if what == "scoring"),
        "seconds_left": float(np.mean(took)) * (config.rounds - newest) if took and not finished else None,
        "nothing_learnt": nothing,
        "advice": REPLAY if nothing is None and shares and 0 < np.mean(shares) < 0.5 else None,
        "late": sum(row["late"] or 0 for row in rounds),
        "waiting": _waiting(run, newest) if is_open else None,
        "last_line": last_line(log) if is_open and log.exists() else None,
        "metrics": state.get("metrics"),
        "difficulty": _difficulty(run, plans, came, finished, seconds),
    }


def _waiting(run: Run, round_: int) -> Json:
    """The outcomes of the newest round so far; a problem in the file is part of the result, not an error."""
    path = run.outcomes(round_)
    facts: Json = {"round": round_, "prompts": 0, "of": run.config.budget, "accuracy": None, "problem": None}
    if path.exists():
        try:
            outcomes = read_outcomes(path, round_, run.ids, run.rules)
        except OutcomeError as error:
            return facts | {"problem": str(error)}
        facts["prompts"] = sum(bool(t.successes or t.unjudged) for t in outcomes.tallies.values())
        facts["accuracy"] = outcomes.accuracy
    return facts


def _difficulty(
    run: Run, plans: list[Json], came: list[Json], finished: bool, seconds: Mapping[tuple[str, int], float]
) -> Json | None:
    """References and their cost, round by round, and the quality of predictions.

    All drawn prompts were predicted near the target, so a correlation over them says little about the
    predictor. References are a random sample, predicted from each other, or one half from the other.
    """
    params, newest = run.facts["params"], len(plans) - 1
    # By the run's files: a user's strategy may not be importable where a run is only looked at.
    if "references" not in plans[-1] if plans else not (run.references_folder(0) / IDS).exists():
        return None
    rounds: list[Json] = [
        {
            "round": round_,
            "references": len(references["ids"]),
            **{name: references[name] for name in _OF_REFERENCES},
            "checkpoint": references["checkpoint"],
            "reusable": len(references["reusable"]["ids"]) if "reusable" in references else None,
            "rollout_seconds": seconds.get(("rollout", round_)),
            "predict_seconds": seconds.get(("predict", round_)),
            "on_references": references["quality"],
            "on_halves": references["quality_of_halves"],
            "on_drawn": came[round_].get("calibration"),
        }
        for round_, references in enumerate(plan["references"] for plan in plans)
    ]
    target = target_of(plans[-1]) if plans else params.get("target")
    costs = ("rollouts", "completion_tokens", "rollout_seconds", "predict_seconds")
    last, folder = newest if finished else newest - 1, run.references_folder(newest + 1)
    waits = not plans or ((folder / DATA).exists() and not (run.round_folder(newest + 1) / PLAN).exists())
    waiting = {
        "round": newest + 1,
        "prompts": str(folder / DATA),
        "outcomes": str(folder / GIVEN),
        "rolls_out": params.get("rollout") is not None,
    }
    return {
        "target": target,
        "target_difficulty": None if target == "variance" else params.get("target_difficulty"),
        "predictor": plans[-1]["references"]["predictor"]["method"] if plans else None,
        "rounds": rounds,
        "newest": _on_drawn(run, last) if last >= 0 else None,
        "cost": {name: sum(row[name] or 0 for row in rounds) for name in costs},
        "waiting": waiting if waits and not finished else None,
    }


def _on_drawn(run: Run, round_: int) -> Json | None:
    """A round's predictions against what came back, with intervals."""
    plan = run.plan(round_)
    try:
        outcomes = read_outcomes(run.outcomes(round_), round_, run.ids, run.rules)
    except OutcomeError:  # changed since they were taken
        return None
    predicted, wins, losses = judged(plan, list(outcomes.tallies.values()))
    metrics = quality(predicted, wins, losses, target=target_of(plan), seed=run.config.seed)
    return {"round": round_, **asdict(metrics)}
