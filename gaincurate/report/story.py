"""A run in a report: takes a run, yields its rounds and what they cost. Knows nothing of signals."""

from __future__ import annotations

from typing import Any

from gaincurate.core.artifact import Json
from gaincurate.difficulty.quality import Bin
from gaincurate.report.figures import Estimate
from gaincurate.report.sections import Foresight, Predictions, Round, RunStory
from gaincurate.schedule.run import Run
from gaincurate.schedule.story import status

REFERENCES, DRAWN = "references, each predicted from the others", "drawn prompts"
_RANGE = (
    "Drawn prompts were all predicted near the target, so a correlation over them says little of the "
    "predictor; references are a random sample."
)


def tell(run: Run) -> RunStory:
    """Where a run stands, round by round."""
    found = status(run)
    return RunStory(
        folder=found["run"],
        strategy=found["strategy"],
        by=found["by"],
        params=found["params"],
        budget=found["budget"],
        planned_rounds=found["planned_rounds"],
        finished=found["finished"],
        rounds=[_round(entry) for entry in found["rounds"]],
        training_seconds=float(found["training_seconds"]),
        scoring_seconds=float(found["scoring_seconds"]),
        predictions=_predictions(found.get("difficulty")),
    )


def _round(entry: Json) -> Round:
    values: dict[str, Any] = {name: entry.get(name) for name in Round.__dataclass_fields__}
    return Round(**values)


def _predictions(told: Json | None) -> Predictions | None:
    """Of a run's status; what an older run did not write down is None."""
    if not told:
        return None
    rounds, drawn, cost = told.get("rounds") or [], told.get("newest"), told.get("cost") or {}
    found = []
    if rounds and rounds[-1].get("on_references"):
        found.append(_foresight(rounds[-1]["on_references"], int(rounds[-1]["round"]), REFERENCES))
    if drawn:
        found.append(_foresight(drawn, int(drawn["round"]), DRAWN))
    return Predictions(
        target=told["target"],
        target_difficulty=told.get("target_difficulty"),
        predictor=told.get("predictor"),
        found=found,
        warning=_RANGE if drawn else None,
        rollouts=cost.get("rollouts"),
        completion_tokens=cost.get("completion_tokens"),
        rollout_seconds=cost.get("rollout_seconds"),
        predict_seconds=cost.get("predict_seconds"),
    )


def _foresight(told: Json, round_: int, of: str) -> Foresight:
    rows = int(told["count"])
    bins = [
        Bin(**{name: one[name] for name in Bin.__dataclass_fields__}) for one in told.get("reliability") or []
    ]
    figures = {name: _estimate(told.get(name), rows) for name in ("pearson", "spearman", "brier", "ceiling")}
    return Foresight(
        round=round_, of=of, rows=rows, brier_of_mean=told.get("brier_of_mean"), bins=bins, **figures
    )


def _estimate(told: Json | None, rows: int) -> Estimate:
    low, high = (told or {}).get("interval") or (None, None)
    return Estimate((told or {}).get("value"), low, high, rows)
