"""Attempts at a round that a program reports, and the loop of docs/own-loop.md, killed in each third of a round."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import runs
import tiny
from gaincurate import Schedule, score
from gaincurate.errors import OutcomeError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def schedule(tmp_path: Path) -> Schedule:
    return Schedule.start(
        runs.some_set(tmp_path / "set"), tmp_path / "run", strategy="uniform", budget=9, rounds=2
    )


def give(schedule: Schedule, first: int, last: int, reward: float, **more: int) -> None:
    schedule.report({"gc_id": gc_id, "reward": reward, **more} for gc_id in schedule.ids[first:last])


def closed(schedule: Schedule, round_: int = 0) -> Any:
    """Accuracy and rollouts of a round, once the next is planned."""
    schedule.next()
    row = schedule.status()["rounds"][round_]
    return row["accuracy"], row["rollouts"]


@pytest.mark.parametrize("half", [3, 6, 9])
def test_a_round_that_is_reported_again_counts_once(schedule: Schedule, half: int) -> None:
    give(schedule, 0, half, 0.0)
    with (schedule.folder / "rounds/00000/outcomes.jsonl").open("a") as file:
        file.write('{"gc_id": "id00')  # killed here
    again = Schedule(schedule.folder)
    for first in (0, 3, 6):  # several reports are one attempt
        give(again, first, first + 3, 1.0)
    assert closed(again) == (1.0, 9)
    give(again, 0, 9, 0.0)
    assert closed(again, 1) == (0.0, 9)


def test_a_loop_that_was_left_trains_the_round_again(schedule: Schedule) -> None:
    for _ in schedule:
        give(schedule, 0, 5, 0.0)
        break
    for _ in schedule:
        give(schedule, 0, 9, 1.0)
    assert [row["accuracy"] for row in schedule.status()["rounds"]] == [1.0, 1.0]


def test_who_goes_on_on_purpose_replaces_only_what_is_done_again(schedule: Schedule) -> None:
    give(schedule, 0, 3, 0.0, step=1)
    give(schedule, 3, 6, 0.0, step=2)
    give(Schedule(schedule.folder), 3, 9, 1.0, step=2)
    assert closed(schedule) == (pytest.approx(6 / 9), 9)
    give(schedule, 0, 3, 0.0)
    again = Schedule(schedule.folder)
    again.report(({"gc_id": gc_id, "reward": 1.0} for gc_id in again.ids[3:6]), attempt=1)
    give(again, 6, 9, 1.0)
    assert closed(again, 1) == (pytest.approx(6 / 9), 9)


def test_a_late_outcome_is_no_attempt(schedule: Schedule) -> None:
    first = schedule.ids[0]
    give(schedule, 0, 9, 1.0)
    schedule.next()
    give(schedule, 0, 5, 1.0)
    late = Schedule(schedule.folder)
    late.report([{"gc_id": first, "reward": 0.0, "round": 0}])
    give(schedule, 5, 9, 1.0)
    assert closed(schedule, 1) == (1.0, 9)
    assert schedule.status()["rounds"][1]["late"] == 1


def test_threads_of_one_process_are_one_attempt(schedule: Schedule) -> None:
    give(Schedule(schedule.folder), 0, 9, 0.0)
    threads = [threading.Thread(target=give, args=(schedule, k, k + 1, 1.0)) for k in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert closed(schedule) == (1.0, 9)


RANK = """
import sys, pickle
schedule = pickle.loads(bytes.fromhex(sys.argv[1]))
for line in sys.stdin:
    first, last, reward = map(int, line.split())
    schedule.report({"gc_id": gc_id, "reward": reward} for gc_id in schedule.ids[first:last])
    print(flush=True)
"""


def test_processes_that_live_together_are_one_attempt_and_what_died_is_replaced(schedule: Schedule) -> None:
    for reports in ([(0, "0 3 0"), (1, "3 6 0"), (0, "6 7 0")], [(1, "4 9 1"), (0, "0 3 1"), (1, "3 4 1")]):
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, pickle.dumps(schedule).hex()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for rank, words in reports:
            stdin, stdout = ranks[rank].stdin, ranks[rank].stdout
            assert stdin is not None
            assert stdout is not None
            print(words, file=stdin, flush=True)
            assert stdout.readline() == "\n"
        for each in ranks:
            each.kill()
            each.communicate()
    assert closed(schedule) == (1.0, 9)


def test_what_the_run_cannot_take_is_refused_at_once(schedule: Schedule) -> None:
    give(schedule, 0, 9, 1.0)
    again = Schedule(schedule.folder)
    lines = [{"gc_id": gc_id, "reward": 1.0} for gc_id in ["x", again.ids[0], "y"]]
    for bad, sentence in (
        (lines, "an outcome: 'x' is not among the prompts of round 0. 2 of 3 outcomes have this fault"),
        ([{"gc_id": again.ids[0], "reward": 2.0}], "an outcome: reward 2 of .* is outside 0 to 1"),
        ([{"gc_id": again.ids[0]}], "an outcome has no reward"),
    ):
        with pytest.raises(OutcomeError, match=sentence):
            again.report(bad)
    give(again, 0, 3, 1.0)
    with pytest.raises(OutcomeError, match=r"for 3 of its 9 .* It has 9 lines that a later attempt replaced"):
        again.next()


def test_the_page_has_the_script_whose_integration_is_nine_lines() -> None:
    script = (ROOT / "docs/examples/own_loop.py").read_text()
    main = script[script.index("def main") : script.index("\n\nif __name__")]
    assert f"```python\n{main}```" in (ROOT / "docs/own-loop.md").read_text()
    ours = [
        line for line in script.splitlines() if re.search("gaincurate|schedule|run.exists|outcomes", line)
    ]
    assert len(ours) == 9


def test_the_loop_by_batches_of_the_page_goes_back_to_its_checkpoint(tmp_path: Path) -> None:
    page: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own-loop.md").read_text(), re.DOTALL)
    exec(next(block for block in blocks if "RunSession" in block), page)
    run, checkpoint = runs.begin(tmp_path, strategy="uniform", budget=16, rounds=3), tmp_path / "checkpoint"

    def save(step: int) -> Path:
        checkpoint.mkdir(exist_ok=True)
        return checkpoint

    def step_of(rows: list[dict[str, Any]], reward: float, dies: list[int]) -> list[dict[str, Any]]:
        dies.append(1)
        if len(dies) == 5:  # in the middle of round 2, after step 3 was saved and step 4 reported
            raise KeyboardInterrupt
        return [{"gc_id": row["gc_id"], "reward": reward} for row in rows]

    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        page["train"](run.folder, None, lambda rows: step_of(rows, 0.0, steps), save, 3)
    page["train"](run.folder, checkpoint, lambda rows: step_of(rows, 1.0, []), save, 3)
    assert [row["accuracy"] for row in Schedule(run.folder).status()["rounds"]] == [0.0, 0.5, 1.0]


@pytest.mark.slow
def test_the_loop_of_the_docs_killed_in_each_third_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model")
    data = tiny.write_jsonl(tmp_path / "prompts.jsonl", tiny.questions(24))
    score(str(data), str(tmp_path / "model"), tmp_path / "scored")
    program = [sys.executable, str(ROOT / "tests/kill_own_loop.py"), str(tmp_path)]
    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT / "tests")])},
    )
    assert done.returncode == 0, done.stderr
    whole, killed = (Schedule(tmp_path / name / "run") for name in ("whole", "killed"))
    assert whole.finished
    assert killed.finished
    for row, other in zip(whole.status()["rounds"], killed.status()["rounds"], strict=True):
        assert 0 < row["accuracy"] == other["accuracy"] < 1
        assert row["rollouts"] == other["rollouts"] == 6 * 8
    lines = (killed.folder / "rounds/00001/outcomes.jsonl").read_text().splitlines()
    assert sorted({json.loads(line)["attempt"] for line in lines}) == [1, 2, 3, 4]
    for number in range(3):
        plans = [each.folder / f"rounds/0000{number}/plan.json" for each in (whole, killed)]
        assert plans[0].read_bytes() == plans[1].read_bytes()
