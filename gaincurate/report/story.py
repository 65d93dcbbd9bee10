"""A run in a report: takes a run, yields its rounds and what they cost. Knows nothing of signals."""

from __future__ import annotations

from typing import Any

from gaincurate.report.sections import Round, RunStory
from gaincurate.schedule.run import Run
from gaincurate.schedule.story import status
from gaincurate.shards import Json


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
    )


def _round(entry: Json) -> Round:
    values: dict[str, Any] = {name: entry.get(name) for name in Round.__dataclass_fields__}
    return Round(**values)
