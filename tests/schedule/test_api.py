from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gaincurate
import runs
from gaincurate.errors import InputError, OutcomeError


def test_a_program_can_run_a_whole_schedule(tmp_path: Path) -> None:
    scored = runs.some_set(tmp_path / "set")
    schedule = gaincurate.Schedule.start(
        scored, tmp_path / "run", strategy="gain-rl", budget=8, rounds=2, options={"sigma": "6"}
    )
    assert (schedule.round, schedule.finished, len(schedule.ids)) == (0, False, 8)
    assert schedule.data().column("gc_id").to_pylist() == schedule.ids == schedule.plan["ids"]
    schedule.report({"gc_id": i, "reward": 1.0} for i in schedule.ids[:7])
    with pytest.raises(OutcomeError, match="outcomes for 7 of its 8 prompts"):
        schedule.next()
    schedule.report([{"gc_id": schedule.ids[7], "reward": 0.0}])
    assert schedule.next()
    again = gaincurate.Schedule(tmp_path / "run")
    assert again.round == 1
    again.report({"gc_id": i, "reward": 1.0} for i in again.ids)
    assert not again.next()
    assert again.finished
    assert [row["accuracy"] for row in again.status()["rounds"]] == [7 / 8, 1.0]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"sgima": "6"},
            "there is no keyword 'sgima'",
        ),
        ({"budget": "x"}, "budget = 'x': it should be a valid integer"),
        ({"rescore": {"what": "x"}}, "rescore.what = 'x': it should be 'off', 'round', 'window' or 'full'."),
        ({"options": {"sgima": "6"}}, "strategy gain-rl has no option 'sgima'; it has: "),
    ],
)
def test_a_program_is_told_of_its_keywords_and_not_of_a_commands_options(
    tmp_path: Path, given: dict[str, Any], sentence: str
) -> None:
    scored = runs.some_set(tmp_path / "set")
    required: dict[str, Any] = {"strategy": "gain-rl", "budget": 8, "rounds": 2}
    with pytest.raises(InputError) as caught:
        gaincurate.Schedule.start(scored, tmp_path / "run", **(required | given))
    assert str(caught.value).startswith(sentence)
