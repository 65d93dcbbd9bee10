"""A run as TRL's data set: its asynchronous trainer with the stand-ins of trl_async_run.py, and GRPO's own."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trl.chat_template_utils import qwen3_chat_template

import runs
import tiny
from gaincurate import RoundDataset
from gaincurate.errors import InputError, OutcomeError, OutputError
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run
from gaincurate.trainers.trl import async_arguments

PROGRAM = Path(__file__).parent.parent / "trl_async_run.py"
GROUP = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("model") / "tiny", template=qwen3_chat_template)


def program(*words: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(PROGRAM.parent)])}
    environment |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(PROGRAM), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


def outcomes(run: Run) -> dict[int, list[dict[str, Any]]]:
    """The lines of each draw that were not taken back, from the files alone."""
    lines: dict[int, list[dict[str, Any]]] = {}
    for line in runs.valid_lines(run):
        lines.setdefault(line["step"], []).append(line)
    return lines


def logged(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "rewards.jsonl").read_text().splitlines()]


def see_replay(run: Run, folder: Path, **options: Any) -> None:
    """Plan a copy from the outcomes that each plan says it was made from."""
    copy = runs.begin(folder, **options)
    for newest in range(1, run.state["round"] + 1):
        for name, size in run.state_of(newest)["taken"].items():
            copy.outcomes(int(name)).write_bytes(run.outcomes(int(name)).read_bytes()[:size])
        advance(copy)
    assert runs.plans(copy) == runs.plans(run)


@pytest.mark.slow
def test_killed_ten_times_nothing_is_lost_or_doubled(tmp_path: Path, model: Path) -> None:
    # TRL asks for up to 24 prompts ahead of their rewards: 8 are generated, and 16 wait to be scored.
    options: dict[str, Any] = {"strategy": "posterior", "budget": 30, "rounds": 4, "min_coverage": 0.1}
    run, output = runs.begin(tmp_path, rows=120, **options), tmp_path / "out"
    done = program("kills", model, run.folder, output, "kills=10")
    assert done.returncode == 0, done.stderr
    planned = [gc_id for round_ in range(4) for gc_id in run.ids(round_)]
    reported, calls = outcomes(run), [call for call in logged(output) if call["draw"]]
    assert sorted(reported) == list(range(1, 121))
    assert all(call["id"] == planned[call["draw"] - 1] for call in calls)
    given = by_draw(calls)
    for draw, lines in reported.items():
        assert sorted(line["sample"] for line in lines) == list(range(GROUP))
        rewards = [line["reward"] for line in sorted(lines, key=lambda line: line["sample"])]
        assert rewards in given[draw]
    # A prompt is drawn again only if its reward was given and the kill came before it was reported.
    assert sum(len(each) - 1 for each in given.values()) <= 10
    assert sum(run.plan(round_)["inputs"]["late"] for round_ in range(1, 4)) > 0
    see_replay(run, tmp_path / "copy", rows=120, **options)


def by_draw(calls: list[dict[str, Any]]) -> dict[int, list[list[Any]]]:
    """What the reward functions gave each draw."""
    given: dict[int, list[list[Any]]] = {}
    for call in calls:
        given.setdefault(call["draw"], []).append(call["rewards"])
    return given


def sums(rewards: list[list[Any]]) -> list[float]:
    """Of a draw's rollouts; a function that could not judge is left out."""
    return [sum(value for value in values if value is not None) for values in zip(*rewards, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "rounds", "every", "kill"), [(32, 3, 2, 5), (48, 2, 4, 1)])
def test_a_training_that_is_killed_goes_on_behind_the_last_prompt_that_it_trained_on_or_begins_anew(
    tmp_path: Path, model: Path, budget: int, rounds: int, every: int, kill: int
) -> None:
    """Killed at step 5, behind the checkpoint of step 4, and at step 1, before the first one."""
    options: dict[str, Any] = {
        "strategy": "posterior",
        "budget": budget,
        "rounds": rounds,
        "min_coverage": 0.1,
    }
    run, output = runs.begin(tmp_path, rows=120, **options), tmp_path / "out"
    words = ["train", model, run.folder, output, "max_steps=12", f"save_steps={every}", "max_staleness=99"]
    words += ["per_device_train_batch_size=16"]
    assert program(*words, f"kill={kill}").returncode == -9
    first, before = len(logged(output)), by_draw(logged(output))
    assert len(before) >= 8
    place, newest = 0, 0
    if kill > every:
        assert all(
            len(calls) == 2 for calls in before.values()
        )  # both functions were called once for each draw
        saved = [json.loads((output / f"checkpoint-{k}/gaincurate_state.json").read_text()) for k in (2, 4)]
        place, newest = saved[1]["step"], budget * saved[1]["round"]
        assert 8 <= saved[0]["step"] <= place <= 5 * 8
    done = program(*words)
    assert done.returncode == 0, done.stderr
    after = logged(output)[first:]
    assert sorted({call["draw"] for call in after if call["draw"]}) == list(range(place + 1, 97))
    planned = [gc_id for round_ in range(rounds) for gc_id in run.ids(round_)]
    assert all(call["draw"] == 0 or call["id"] == planned[call["draw"] - 1] for call in after)
    given, reported = by_draw(after), outcomes(run)
    for draw in range(1, 97):
        lines = sorted(reported[draw], key=lambda line: line["sample"])
        assert {line["sample"] for line in lines} == set(range(GROUP))
        if draw > max(newest, place):  # those before the kill are void
            assert len(lines) == GROUP
            assert [line["reward"] for line in lines] == sums(given[draw])
    see_replay(run, tmp_path / "copy", rows=120, **options)


def test_without_a_checkpoint_round_0_is_drawn_again(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, strategy="posterior", budget=8, rounds=2)
    start = SimpleNamespace(global_step=0, is_world_process_zero=True)

    def begun() -> RoundDataset:
        given = async_arguments(run.folder, len)
        given["callbacks"][0].on_train_begin(None, start, None)
        sent: RoundDataset = pickle.loads(pickle.dumps(given["train_dataset"]))  # as TRL does to its worker
        return sent

    for drawn in (3, 8, 9):
        dataset = begun()
        rows = iter(dataset)
        for draw in range(1, drawn + 1):
            row = next(rows)
            assert row["gc_draw"] == draw
            dataset.report([row], [[0.0, 1.0]])
        dataset.close()
    with pytest.raises(OutputError, match="is at round 1 and the trainer begins at step 0: resume"):
        begun()


@pytest.mark.parametrize("values", [(math.inf, -math.inf), (1.7e308, 1.7e308)])
def test_a_sum_that_is_not_finite_is_refused_in_a_sentence(tmp_path: Path, values: tuple[float, ...]) -> None:
    run = runs.begin(tmp_path, strategy="posterior", budget=8)
    given = async_arguments(run.folder, [lambda value=value, **columns: [value] * GROUP for value in values])
    row = next(iter(given["train_dataset"]))
    columns = {name: [row[name]] * GROUP for name in ("gc_id", "gc_round", "gc_draw")}
    first, second = given["reward_funcs"]
    first(**columns, completion_ids=[[1]] * GROUP)
    with pytest.raises(OutcomeError, match="reward is Infinity, not a number"):
        second(**columns, completion_ids=[[1]] * GROUP)
    assert not run.outcomes(0).exists()


def test_plans_with_group_sizes_are_refused(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, strategy="posterior", options={"group_sizes": "2,16"})
    with pytest.raises(InputError, match="give each prompt a group size, and TRL has one size for all"):
        async_arguments(run.folder, reward_funcs=len)
    rows = iter(RoundDataset(run.folder))  # a loop of one's own takes them
    assert [next(rows)["gc_rollouts"] for _ in range(8)] == run.rollouts(0)
