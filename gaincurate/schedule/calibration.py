"""What predictions were worth and what they cost, for the status of a run with strategy `dots`.

Figures are given on references and on drawn prompts apart. Drawn prompts were all predicted near the target,
so on them a correlation says little whatever the predictor is worth. References are a random sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from gaincurate.core.artifact import Json
from gaincurate.core.outcomes import Tally, read_outcomes
from gaincurate.core.rng import Floats
from gaincurate.difficulty.beta import groups_that_differ
from gaincurate.difficulty.metrics import Quality, Target, pass_variance, quality
from gaincurate.errors import OutcomeError
from gaincurate.schedule.observations import rules_of
from gaincurate.schedule.references import DATA, IDS
from gaincurate.schedule.run import GIVEN, PLAN, Run

Seconds = Mapping[tuple[str, int], float]
_OF_REFERENCES = ("observed", "left_out", "rollouts", "completion_tokens", "unjudged", "policy", "carried")


def calibration_of(plan: Json, tallies: Sequence[Tally]) -> Json:
    """For the next plan's inputs: figures of a round's predictions, without intervals.

    Args:
        plan: the round's.
        tallies: what came back, in the order of its prompts.

    Returns:
        `calibration`, and where the plan says what its predictions rest on `expected_effective`, the share of
        groups that was expected to differ at the sizes that came; nothing for a round without predictions.
    """
    if "predicted" not in plan:
        return {}
    predicted, wins, losses = _judged(plan, tallies)
    metrics = quality(predicted, wins, losses, target=_target(plan), intervals=False)
    return {
        "calibration": {
            "count": metrics.count,
            "pearson": metrics.pearson.value,
            "spearman": metrics.spearman.value,
            "brier": metrics.brier.value,
            "ceiling": metrics.ceiling.value,
            "carried": carried(wins, losses),
        },
        **_expected(plan, tallies),
    }


def _expected(plan: Json, tallies: Sequence[Tally]) -> Json:
    groups = (
        [
            (rollouts * (1 - failure), rollouts * failure, tally.group_size)
            for failure, rollouts, tally in zip(
                plan["predicted"], plan["predicted_rollouts"], tallies, strict=True
            )
            if tally.group_size
        ]
        if "predicted_rollouts" in plan
        else []
    )
    if not groups:
        return {}
    a, b, sizes = np.array(groups).T
    chances = [groups_that_differ(a[sizes == n], b[sizes == n], int(n)) for n in np.unique(sizes)]
    return {"expected_effective": float(np.concatenate(chances).mean())}


def carried(wins: Floats, losses: Floats) -> float | None:
    """The mean p (1 - p) of prompts as it was observed; None where none has two rollouts."""
    variances = pass_variance(wins, losses)
    variances = variances[np.isfinite(variances)]
    return float(variances.mean()) if len(variances) else None


def _target(plan: Json) -> Target:
    """What was predicted; of a strategy of a user's own a failure rate."""
    references: Json = plan.get("references") or {}
    target = references.get("target") or plan["params"].get("target")
    return "variance" if target == "variance" else "difficulty"


def _judged(plan: Json, tallies: Sequence[Tally]) -> tuple[Floats, Floats, Floats]:
    """Predictions, wins and losses of the prompts of which something could be judged."""
    wins = np.array([math.fsum(tally.successes) for tally in tallies])
    counts = np.array([float(len(tally.successes)) for tally in tallies])
    here = counts > 0
    return np.array(plan["predicted"], dtype=np.float64)[here], wins[here], (counts - wins)[here]


def difficulty_status(
    run: Run, newest: int, finished: bool, seconds: Seconds, calibrations: Mapping[int, Json]
) -> Json | None:
    """References and their cost, round by round, and how well predictions did.

    Args:
        run: the run.
        newest: its newest round, -1 for none.
        finished: whether it is finished.
        seconds: by what they went into and round.
        calibrations: of rounds whose outcomes were taken, by round.

    Returns:
        None where the strategy goes by no predictions. `rounds`, each with its references, their cost, and
        the quality on references (`on_references`, each from the others, and `on_halves`, one half of them
        from the other, with intervals; the latter None where a plan has none) and on drawn prompts
        (`on_drawn`);
        `newest`, the last of the latter with intervals and its reliability table; `cost`; `waiting`, what
        references are needed.
    """
    params = run.facts["params"]
    # By the run's files: a user's strategy may not be importable where a run is only looked at.
    if newest < 0 and not (run.references_folder(0) / IDS).exists():
        return None
    if newest >= 0 and "references" not in run.plan(newest):
        return None
    rounds: list[Json] = []
    for round_ in range(newest + 1):
        references = run.plan(round_).get("references")
        if references is None:
            continue
        rounds.append(
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
                "on_drawn": calibrations.get(round_),
            }
        )
    last = newest if finished else newest - 1
    target = _target(run.plan(newest)) if rounds else params.get("target")
    difficulty = params.get("target_difficulty")
    aimed = target != "variance" and isinstance(difficulty, int | float)
    return {
        "target": target if isinstance(target, str) else None,
        "target_difficulty": difficulty if aimed else None,
        "predictor": run.plan(newest)["references"]["predictor"]["method"] if rounds else None,
        "rounds": rounds,
        "newest": _newest(run, last) if last >= 0 else None,
        "cost": _cost(rounds),
        "waiting": None if finished else _waiting(run, newest),
    }


def _newest(run: Run, round_: int) -> Json | None:
    """The last round's predictions against what came back, with intervals."""
    plan = run.plan(round_)
    try:
        outcomes = read_outcomes(run.outcomes(round_), round_, run.ids, rules_of(run.config))
    except OutcomeError:  # changed since they were taken
        return None
    predicted, wins, losses = _judged(plan, list(outcomes.tallies.values()))
    metrics: Quality = quality(predicted, wins, losses, target=_target(plan), seed=run.config.seed)
    return {"round": round_, **asdict(metrics)}


def _cost(rounds: Sequence[Json]) -> Json:
    names = ("rollouts", "completion_tokens", "rollout_seconds", "predict_seconds")
    return {name: sum(round_[name] or 0 for round_ in rounds) for name in names}


def _waiting(run: Run, newest: int) -> Json | None:
    """The references that the next round needs, where it was asked for them."""
    folder = run.references_folder(newest + 1)
    if newest >= 0 and (not (folder / DATA).exists() or (run.round_folder(newest + 1) / PLAN).exists()):
        return None
    return {
        "round": newest + 1,
        "prompts": str(folder / DATA),
        "outcomes": str(folder / GIVEN),
        "rolls_out": run.facts["params"].get("rollout") is not None,
    }
