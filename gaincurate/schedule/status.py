"""The status of a run: its rounds so far, and what the newest waits for.

A problem in a file of outcomes is part of the status and not an error, so that a user sees it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from gaincurate.core.artifact import Json
from gaincurate.core.outcomes import read_outcomes
from gaincurate.core.process import last_line
from gaincurate.difficulty.metrics import quality
from gaincurate.errors import OutcomeError
from gaincurate.schedule.observations import REPLAY, judged, nothing_learnt, target_of
from gaincurate.schedule.run import DATA, GIVEN, IDS, PLAN, Run

_OF_REFERENCES = ("observed", "left_out", "rollouts", "completion_tokens", "unjudged", "policy", "carried")
_LARGE = ("ids", "predicted", "predicted_rollouts")
_OF_OUTCOMES = (
    "accuracy", "effective", "all_wrong", "all_right", "concentration", "concentration_from", "prompts",
    "rollouts", "unjudged", "late", "completion_tokens", "rescored", "drift",
)  # fmt: skip

Seconds = Counter[tuple[str, int]]
"""The seconds that each kind of work on each round took."""


def status(run: Run) -> Json:
    """The state of a run, and every round so far, as plain values.

    `rounds` says of each round what it was drawn with, what came back and how long it took. `seconds_left`
    goes by the last rounds. `waiting` is what the newest round has so far, and `last_line` the end of its
    trainer's log. `difficulty` has references and predictions.
    """
    state, config = run.state, run.config
    finished, newest = state["finished"], state["round"]
    counts: dict[Any, Json] = {}
    seconds = Seconds()
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
    """The outcomes of the newest round so far; a problem in the file is reported, not raised."""
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
    run: Run, plans: list[Json], came: list[Json], finished: bool, seconds: Seconds
) -> Json | None:
    """References and their cost, round by round, and how well predictions did.

    Drawn prompts were all predicted near the target, so a correlation over them says little of the predictor.
    References are a random sample. `on_references` are predicted from each other, `on_halves` one half from
    the other, and `newest` has the last drawn prompts.
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
