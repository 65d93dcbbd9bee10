"""The status of a run: its rounds so far, and a forecast of the rounds to come.

A problem in a file of outcomes is part of the status and not an error, so that a user sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from gaincurate.core.artifact import Json
from gaincurate.core.outcomes import read_outcomes
from gaincurate.core.process import fill, last_line
from gaincurate.difficulty.metrics import quality
from gaincurate.errors import NotReadyError, OutcomeError
from gaincurate.schedule.base import Selector
from gaincurate.schedule.checkpoints import Finder, checkpoint_before
from gaincurate.schedule.context import Context
from gaincurate.schedule.observations import REPLAY, judged, nothing_learnt, rules_of, target_of
from gaincurate.schedule.rescore import due
from gaincurate.schedule.rounds import selector_of
from gaincurate.schedule.run import DATA, GIVEN, IDS, PLAN, Run, names_of

_OF_REFERENCES = ("observed", "left_out", "rollouts", "completion_tokens", "unjudged", "policy", "carried")
_LARGE = ("ids", "predicted", "predicted_rollouts")
_OF_OUTCOMES = (
    "accuracy",
    "effective",
    "all_wrong",
    "all_right",
    "concentration",
    "concentration_from",
    "prompts",
    "rollouts",
    "unjudged",
    "late",
    "completion_tokens",
    "rescored",
    "drift",
)


def status(run: Run) -> Json:
    """The state of a run, and every round so far.

    Args:
        run: the run.

    Returns:
        Plain values: the run's facts, `rounds` with one entry each (what it was drawn with, what came back,
        how long it took), sums of seconds, `seconds_left` as the last rounds went, `waiting`, what the newest
        round has so far, and `last_line`, what its trainer's log ends with.
    """
    state, config = run.state, run.config
    counts = {entry.get("round"): entry for entry in run.executions() if entry.get("what") == "outcomes"}
    finished, newest = state["finished"], state["round"]
    seconds = _seconds(run)
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
        "seconds_left": _left(config.rounds, newest, finished, rounds),
        "nothing_learnt": nothing,
        "advice": REPLAY if nothing is None and shares and 0 < np.mean(shares) < 0.5 else None,
        "late": sum(entry["late"] or 0 for entry in rounds),
        "waiting": None if finished or newest < 0 else _waiting(run, newest),
        "last_line": None if finished or newest < 0 else _last_line(run, newest),
        "metrics": state.get("metrics"),
        "difficulty": _difficulty(run, plans, came, finished, seconds),
    }


def _seconds(run: Run) -> dict[tuple[str, int], float]:
    seconds: dict[tuple[str, int], float] = {}
    for entry in run.executions():
        if entry.get("what") in ("training", "scoring", "rollout", "predict") and "round" in entry:
            key = (entry["what"], entry["round"])
            seconds[key] = seconds.get(key, 0.0) + entry.get("seconds", 0.0)
    return seconds


def _left(planned: int, newest: int, finished: bool, rounds: list[Json]) -> float | None:
    """Seconds for the rounds to come, at the mean of the last five that are done; None before the first."""
    seconds = [
        (row["training_seconds"] or 0.0) + (row["scoring_seconds"] or 0.0)
        for row in rounds[:newest]
        if row["training_seconds"]
    ][-5:]
    return None if finished or not seconds else sum(seconds) / len(seconds) * (planned - newest)


def _last_line(run: Run, round_: int) -> str | None:
    log = run.round_folder(round_) / "trainer.log"
    return last_line(log) if log.exists() else None


def _waiting(run: Run, round_: int) -> Json:
    """The outcomes of the newest round so far; a problem in the file is reported, not raised."""
    path, size = run.outcomes(round_), run.config.budget
    progress: Json = {"round": round_, "prompts": 0, "of": size, "accuracy": None, "problem": None}
    if path.exists():
        try:
            outcomes = read_outcomes(path, round_, run.ids, rules_of(run.config))
        except OutcomeError as error:
            return progress | {"problem": str(error)}
        progress["prompts"] = sum(bool(t.successes or t.unjudged) for t in outcomes.tallies.values())
        progress["accuracy"] = outcomes.accuracy
    return progress


def coming_rounds(run: Run, command: list[str], finder: Finder | None = None) -> Json:
    """The rounds to come, and what is known of each.

    Args:
        run: the run.
        command: the trainer's, with names in braces; may be empty.
        finder: finds the trainer's checkpoints.

    Returns:
        Plain values: `rounds`, each with its number, whether a re-scoring follows it, its prompt tokens (of
        mean prompts where it is not known), its prompts' ids where it is, and the newest one's command.
    """
    state, config, scored = run.state, run.config, run.scored
    newest = state["round"]
    left = [] if state["finished"] else range(max(newest, 0), config.rounds)
    selector, order = selector_of(run, state), run.orders.find(state["order"])
    mean_tokens = float(scored.column("gc_prompt_tokens").to_numpy().mean())
    rounds: list[Json] = []
    foreseen = selector.foresees
    for round_ in left:
        entry: Json = {"round": round_, "known": True, "rescoring": due(config, round_)}
        if round_ == newest:
            plan = run.plan(round_)
            entry |= {"ids": plan["ids"], **plan["forecast"]}
            names = names_of(run, round_, checkpoint_before(run, round_, command, finder))
            entry["command"] = fill(command, names)
        elif foreseen := foreseen and _can_prepare(run, selector, round_):
            ranks = np.asarray(selector.draw(round_))
            table = scored.take(order.rows[ranks])
            tokens = int(table.column("gc_prompt_tokens").to_numpy().sum())
            entry |= {"ids": table.column("gc_id").to_pylist(), "prompt_tokens": tokens}
        else:
            entry |= {"known": False, "prompt_tokens": round(mean_tokens * config.budget)}
        rounds.append(entry)
    return {"rounds": rounds}


def _can_prepare(run: Run, selector: Selector, round_: int) -> bool:
    """Have a selector prepare for a round that is only forecast; False where that has to wait."""
    state = run.state
    try:
        selector.prepare(Context(run, round_, state["order"], state["checkpoint"], opening=True))
    except NotReadyError:
        return False
    return True


def _difficulty(
    run: Run, plans: list[Json], came: list[Json], finished: bool, seconds: Mapping[tuple[str, int], float]
) -> Json | None:
    """References and their cost, round by round, and how well predictions did.

    Drawn prompts were all predicted near the target, so a correlation over them says little of the predictor.
    References are a random sample.

    Args:
        run: the run.
        plans: of its rounds.
        came: what came back for each.
        finished: whether it is finished.
        seconds: by what they went into and round.

    Returns:
        None where the strategy goes by no predictions. `rounds`, each with its references, their cost, and
        the quality on references (`on_references`, each from the others, and `on_halves`, one half of them
        from the other) and on drawn prompts (`on_drawn`); `newest`, the last of the latter with intervals and
        its reliability table; `cost`; `waiting`, the references that are needed.
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
        outcomes = read_outcomes(run.outcomes(round_), round_, run.ids, rules_of(run.config))
    except OutcomeError:  # changed since they were taken
        return None
    predicted, wins, losses = judged(plan, list(outcomes.tallies.values()))
    metrics = quality(predicted, wins, losses, target=target_of(plan), seed=run.config.seed)
    return {"round": round_, **asdict(metrics)}
