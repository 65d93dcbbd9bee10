"""Tables with TRL's columns, and lines of our own, as a round's outcomes."""

from __future__ import annotations

import datetime
import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exports
import runs
from command import run as gaincurate
from gaincurate.core.outcomes import read_outcomes
from gaincurate.errors import OutcomeError, StorageError
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.observations import take_outcomes
from gaincurate.schedule.rounds import advance, start
from gaincurate.schedule.run import Run
from gaincurate.trainers.logs import TAKEN, overlap, take_logs

ROWS = [{"question": f"What is {k}?", "answer": str(k)} for k in range(3)]
ROWS += [{"question": "Again?", "answer": answer} for answer in ("yes", "no")]  # told apart by the id alone


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose every round has all five prompts."""
    added = {"system": exports.SYSTEM}
    exports.make_set(tmp_path / "set", ROWS, segmentation=added)
    options: dict[str, Any] = {"strategy": "file-order", "budget": 5, "rounds": 3}
    return start(ScheduleConfig(scored=tmp_path / "set", run=tmp_path / "run", **options))


def lines_of(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def outcomes(run: Run, round_: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.outcomes(round_).read_text().splitlines()]


def row(place: int, reward: float, step: int, completion: str = "so", **more: Any) -> dict[str, Any]:
    """A row of TRL's table, without the id unless `more` has it."""
    question = ROWS[place]["question"]
    prompt = [{"role": "system", "content": exports.SYSTEM}, {"role": "user", "content": question}]
    made = {"prompt": prompt, "completion": completion, "reward": reward, "step": step, "advantage": 0.0}
    return {**made, "gc_id": None, **more}


def with_id(place: int, reward: float, step: int, completion: str = "so") -> dict[str, Any]:
    return row(place, reward, step, completion, gc_id=f"id{place:04d}")


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_what_cannot_be_joined_is_told_with_place_and_reason(run: Run, tmp_path: Path) -> None:
    strange = row(0, 1.0, 1) | {"prompt": [{"role": "user", "content": "What is 1 plus 2?"}]}
    text, stranger = row(0, 1.0, 1) | {"prompt": None}, row(0, 1.0, 1, gc_id="id9999")
    rows = [row(2, 1.0, 1), strange, row(3, 1.0, 1), row(4, 1.0, 1), stranger, text]
    file = table(tmp_path / "completions_1.parquet", rows)
    told: list[str] = []
    assert take_logs(run, [file], note=told.append) == 1
    assert told == [
        "1 outcomes for round 0 from 6 rows",
        "left out: the prompt is not in round 0 (2 times, first completions_1.parquet, row 2)",
        "left out: several prompts of the round have these messages, and there is no id (2 times, first "
        "completions_1.parquet, row 3)",
        "left out: the id is not among the prompts of round 0 (1 times, first completions_1.parquet, row 5)",
    ]
    table(file, [strange])
    with pytest.raises(OutcomeError, match="nothing there belongs to round 0: the prompt is not in round"):
        take_logs(run, [file])
    assert len(outcomes(run)) == 1


def test_a_step_that_was_done_again_replaces_what_was_taken(run: Run, tmp_path: Path) -> None:
    logs = tmp_path / "completions"
    for step in (1, 2, 3):
        table(logs / f"completions_{step}.parquet", [with_id(k, 0.0, step, f"old{step}") for k in range(5)])
    take_logs(run, [logs])
    # The trainer went on from step 1 and came to step 2 only.
    table(logs / "completions_2.parquet", [with_id(k, 1.0, 2, "new") for k in range(5)])
    (logs / "completions_3.parquet").unlink()
    told: list[str] = []
    take_logs(run, [logs], note=told.append)
    assert "step 2 was trained again: from that step, the new outcomes count" in told
    found = take_outcomes(run, 0)
    assert (found.rollouts, found.accuracy) == (10, 0.5)
    before = run.outcomes(0).read_bytes()
    assert take_logs(run, [logs]) == 0
    assert run.outcomes(0).read_bytes() == before


def test_outcomes_from_another_writer_are_not_doubled_in_silence(run: Run, tmp_path: Path) -> None:
    lines_of(run.outcomes(0), [own("id0000", 1.0)])
    warned = []
    for _ in range(2):
        told: list[str] = []
        take_logs(run, [table(tmp_path / "completions_1.parquet", [with_id(0, 1.0, 1)])], note=told.append)
        warned.append(
            any(line.startswith("warning: round 0 has outcomes of another writer") for line in told)
        )
    assert warned == [True, False]


def test_the_reward_has_to_be_clear(run: Run, tmp_path: Path) -> None:
    made = {**with_id(0, 0.0, 1), "right": 1.0, "short": 0.5}
    del made["reward"]
    file = table(tmp_path / "completions_1.parquet", [made])
    with pytest.raises(OutcomeError, match=r"has 2 columns that could be the reward \(right, short\); name"):
        take_logs(run, [file])
    with pytest.raises(OutcomeError, match="and 'long' is not one of them"):
        take_logs(run, [file], reward_column="long")
    take_logs(run, [file], reward_column="short")
    assert [line["reward"] for line in outcomes(run)] == [0.5]


WHEN = datetime.datetime(2026, 1, 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"step": WHEN}, 'step is "2026-01-01 00:00:00", not a whole number'),
        ({"reward": 2.0}, "row 1: reward 2 of 'id0000' is outside 0 to 1; give the"),
        ({"gc_id": None, "prompt": [{"role": "user", "content": WHEN}]}, "the prompt is not in round 0"),
    ],
)
def test_a_table_of_other_types_is_refused(run: Run, tmp_path: Path, change: Any, why: str) -> None:
    file = table(tmp_path / "completions_1.parquet", [with_id(0, 1.0, 1) | change])
    with pytest.raises(OutcomeError, match=why):
        take_logs(run, [file])
    assert not run.outcomes(0).exists()


def test_a_table_is_whole_and_has_each_column_once_and_nan_is_no_reward(run: Run, tmp_path: Path) -> None:
    file = table(tmp_path / "completions_1.parquet", [with_id(0, math.nan, 1)])
    take_logs(run, [file])
    assert [line["reward"] for line in outcomes(run)] == [None]
    whole = pq.read_table(file)
    for made, why in (
        (whole.drop_columns(["step"]), "has no column 'step'"),
        (whole.append_column("step", pa.array([1])), "two columns named 'step'"),
    ):
        pq.write_table(made, file)
        with pytest.raises(OutcomeError, match=why):
            take_logs(run, [file])
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(OutcomeError, match="is no complete TRL table; is it being written"):
        take_logs(run, [file])


def own(gc_id: str, reward: float, **more: Any) -> dict[str, Any]:
    return {"gc_id": gc_id, "reward": reward, "round": 0, **more}


def test_lines_of_our_own_are_taken_once_also_those_without_a_sample(run: Run, tmp_path: Path) -> None:
    rows = [own(f"id{k:04d}", 1.0) for k in range(5) for _ in range(2)]
    file = lines_of(tmp_path / "rank0.jsonl", rows)
    other = lines_of(tmp_path / "other/rank0.jsonl", rows)
    assert take_logs(run, [file, other]) == 20
    with file.open("a") as more:
        more.write(json.dumps(own("id0000", 0.0)) + "\n" + '{"gc_id": "unfin')
    assert take_logs(run, [file, other]) == 1
    assert take_outcomes(run, 0).rollouts == 21


def test_lines_that_steer_void_what_they_did_where_they_stood(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "outcomes-0.jsonl"
    old = [own("id0000", 0.0, step=1, sample=0), own("id0001", 0.0, step=5, sample=0)]
    lines_of(file, old)
    take_logs(run, [file])
    again = [{"resume_from_step": 2}, own("id0001", 1.0, step=5, sample=0)]
    lines_of(file, old + again)
    assert [take_logs(run, [file]) for _ in range(3)] == [1, 0, 0]
    found = read_outcomes(run.outcomes(0), 0, run.ids, run.rules)
    assert {i: t.successes for i, t in found.tallies.items() if t.successes} == {
        "id0000": [0.0], "id0001": [1.0]
    }  # fmt: skip


def test_attempts_of_a_file_are_the_same_after_a_kill_before_the_record(run: Run, tmp_path: Path) -> None:
    first, again = ([own(f"id{k:04d}", reward) for k in range(5)] for reward in (0.0, 1.0))
    file = lines_of(tmp_path / "rank0.jsonl", [*first, {"attempt": 2}, *again])
    for _ in range(2):
        take_logs(run, [file])
        assert (take_outcomes(run, 0).rollouts, take_outcomes(run, 0).accuracy) == (5, 1.0)
        (run.round_folder(0) / TAKEN).unlink()


def test_a_folder_with_two_kinds_of_logs_is_not_counted_twice(run: Run, tmp_path: Path) -> None:
    table(tmp_path / "logs/completions_1.parquet", [with_id(0, 1.0, 1)])
    lines_of(tmp_path / "logs/outcomes.jsonl", [own("id0000", 1.0)])
    with pytest.raises(OutcomeError, match="holds logs of two kinds"):
        take_logs(run, [tmp_path / "logs"])


def test_a_folder_that_grew_over_rounds_gives_each_round_its_own(run: Run, tmp_path: Path) -> None:
    logs = tmp_path / "completions"
    for round_ in range(3):
        rows = [with_id(k, float(round_ == 1), round_ + 1, f"r{round_}") for k in range(5)]
        table(logs / f"completions_{round_ + 1}.parquet", rows)
        told: list[str] = []
        assert take_logs(run, [logs], note=told.append) == 5
        assert [line for line in told if "left out" in line] == [
            f"left out: the file was taken for round {r} (1 times, first completions_{r + 1}.parquet)"
            for r in range(round_)
        ]
        advance(run)
    assert [run.plan(r)["inputs"]["accuracy"] for r in (1, 2)] == [0.0, 1.0]
    result = gaincurate("schedule", "next", run.folder, "--outcomes", logs)
    assert (result.exit_code, "is finished" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"gc_id": "a"', "nothing there belongs to round 0: it has no rows"),
        (json.dumps(own("id0000", 1.0)) + '\n{"resume_from_step": "x"}\n', 'resume_from_step is "x", not a'),
        (json.dumps(own("id0000", 7.0)) + "\n", "reward 7 of 'id0000' is outside 0 to 1"),
        (json.dumps(own("id0000", 1.0, sample="\ud800")) + "\n", "half of a surrogate pair"),
    ],
)
def test_a_bad_file_is_one_sentence_and_nothing_is_taken(
    run: Run, tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "1.jsonl").write_text(text)
    result = gaincurate("schedule", "next", run.folder, "--outcomes", tmp_path / "1.jsonl")
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not run.outcomes(0).exists()


def test_a_pipe_in_the_place_of_a_rounds_outcomes_is_refused(run: Run, tmp_path: Path) -> None:
    os.mkfifo(run.outcomes(0))
    with pytest.raises(StorageError, match="it is no regular file"):
        take_logs(run, [lines_of(tmp_path / "1.jsonl", [own("id0000", 1.0)])])


ROWS_AS_TEXT = st.lists(st.sampled_from("ab"), max_size=12)


@given(ROWS_AS_TEXT, ROWS_AS_TEXT)
def test_what_two_tables_share_is_the_longest_end_that_is_a_beginning(
    before: list[str], rows: list[str]
) -> None:
    shared = [n for n in range(min(len(before), len(rows)) + 1) if before[len(before) - n :] == rows[:n]]
    assert overlap(before, rows) == max(shared)


def test_paths_and_options_that_mean_nothing_are_refused(run: Run, tmp_path: Path) -> None:
    def refused(*options: object) -> str:
        result = gaincurate("schedule", "next", run.folder, *options)
        assert result.exit_code == 2
        return result.stderr

    assert "there is no such file, and none like completions_" in refused("--outcomes", tmp_path / "x")
    assert "--reward-column x goes with" in refused("--reward-column", "x")


REWARDS = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=3)


@given(rewards=st.lists(REWARDS, min_size=5, max_size=5), cuts=st.lists(st.integers(0, 12), max_size=4))
def test_however_a_growing_log_is_taken_the_outcomes_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, rewards: list[list[float]], cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("grow")
    begun = runs.begin(folder, rows=5, strategy="file-order", budget=5)
    rows = [own(f"id{k:04d}", r, step=j) for k, each in enumerate(rewards) for j, r in enumerate(each)]
    file = folder / "log.jsonl"
    for end in [*sorted(cuts), len(rows), len(rows)]:
        if rows[:end]:
            take_logs(begun, [lines_of(file, rows[:end])])
    found = take_outcomes(begun, 0)
    assert {i: tally.successes for i, tally in found.tallies.items()} == {
        f"id{k:04d}": each for k, each in enumerate(rewards)
    }
