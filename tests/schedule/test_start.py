from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gaincurate
import runs
from gaincurate.core.sealed import write_sealed
from gaincurate.errors import InputError, OutputError
from gaincurate.schedule.base import Pool, build
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run, working_on


@pytest.mark.parametrize(
    ("sigma", "words"), [("1000", "nearly even over the set"), ("0.2", "a few ranks wide")]
)
def test_a_sigma_that_does_not_fit_the_set_is_told(tmp_path: Path, sigma: str, words: str) -> None:
    said: list[str] = []
    runs.begin(tmp_path, options={"sigma": sigma}, note=said.append)
    assert [words in note for note in said] == [True]


def test_a_start_that_was_killed_leaves_no_run_and_can_be_repeated(tmp_path: Path) -> None:
    beside = tmp_path / ".run.starting"
    (beside / "rounds/00000").mkdir(parents=True)
    (beside / "run.json").write_text("{")
    run = runs.begin(tmp_path)
    assert not beside.exists()
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "lock", "order.arrow", "rounds", "run.json"
    ]  # fmt: skip


@pytest.mark.parametrize("name", [".", "../here"])
def test_the_working_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match="is the working folder; give a new or empty folder"):
        runs.begin(tmp_path, run=Path(name))
    assert not list(Path().iterdir())


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    code = f"import sys; sys.path[:0]={sys.path!r}; from gaincurate.cli.app import main; main()"
    with working_on(run.folder):
        result = subprocess.run(
            [sys.executable, "-c", code, "schedule", "next", run.folder], capture_output=True, text=True
        )
    assert result.returncode == 1
    assert f"another process is at work on {run.folder}; wait for it" in result.stderr


FIXED = {"strategy": "file-order", "by": "gc_angle", "rescore": {"what": "full"}}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "budget": ({"budget": 61}, "--budget 61 is over the 60 rows of "),
    "align": ({"budget": 10, "align_to": 4}, "--budget 10 is no multiple of --align-to 4."),
    "range": ({"reward_low": 1, "reward_high": 1}, "--reward-range: the first must be less than the second."),
    "strategy": ({"strategy": "best"}, "--strategy best: there are uniform, file-order, length, gain-rl"),
    "class": ({"strategy": "json:loads"}, "--strategy json:loads: json has no subclass loads of"),
    "column": ({"by": "level"}, "has no column 'level'"),
    "order": (FIXED, "and strategy file-order goes by gc_angle; use --rescore round or off."),
    "length": ({"strategy": "length", "rescore": {"what": "window"}}, "length goes by gc_question_tokens; u"),
    "no-order": ({"strategy": "posterior", "by": "gc_angle"}, "--by gc_angle: strategy posterior has no o"),
    "direction": ({"strategy": "uniform", "ascending": True}, "--descending: strategy uniform has no order."),
    "model": ({"model": "./nowhere"}, "--model ./nowhere: there is no such folder."),
    "scoring": ({"rescore": {"options": ["--device", "cpu"]}}, "--scoring goes with --rescore round, window"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_start_that_cannot_work_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    options, sentence = REFUSED[name]
    with pytest.raises(InputError) as caught:
        runs.begin(tmp_path, **options)
    assert sentence in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


@pytest.mark.parametrize(
    ("strategy", "options", "sentence"),
    [
        ("gain-rl", {"sigma": "wide"}, "sigma = 'wide': a width is a number of ranks from 1e-9 to 1e15 (1000) or a share of"),
        ("gain-rl", {"sigma": "0"}, "sigma = '0': a width is a number of ranks from"),
        ("gain-rl", {"sigma": "1e308"}, "sigma = '1e308': a width is a number of ranks from"),
        ("gain-rl", {"sigma": "nanN"}, "sigma = 'nanN': a width"),
        ("gain-rl", {"step_low": 1000, "step_high": 0}, "the least step must be less than the largest"),
        ("gain-rl", {"alpha": "much"}, "strategy gain-rl: alpha = 'much': Input should be a valid number"),
        ("gain-rl", {"temper": 1}, "strategy gain-rl has no option 'temper'; it has: sigma, alpha, beta, scale,"),
        ("posterior", {"aim": "thompson"}, "aim thompson takes the best of its samples: give draw=top with it"),
        ("posterior", {"candidates": 4}, "passes draw among all prompts: leave candidates out, or give draw=weights"),
        ("posterior", {"preset": "mopp"}, "preset = 'mopp': Input should be 'variance', 'mopps' or 'mapp'"),
        ("posterior", {"group_sizes": "9,16"}, "group_sizes are 2 or more and have group_size = 8"),
        ("dots", {"temperature": 0}, "strategy dots: temperature = 0: Input should be greater than 0."),
        ("dots", {"references": 2}, "strategy dots: references = 2: Input should be greater than or equal to 3."),
        ("dots", {"adapter": "a", "group_column": "b"}, "strategy dots: adapter and group_column are two predictors"),
        ("dots", {"target": "variance", "target_difficulty": 0.5}, "target_difficulty goes with target = difficulty"),
    ],
)  # fmt: skip
def test_bad_options_of_a_strategy_are_refused(strategy: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        build(strategy, Pool(10, 2, 0), options)


def test_a_run_is_not_started_over_a_run_or_over_something_else(tmp_path: Path) -> None:
    runs.begin(tmp_path)
    with pytest.raises(OutputError, match="run is a run already; go on with `gaincurate schedule next`"):
        runs.begin(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(OutputError, match="already holds 'file' and is no run"):
        runs.begin(tmp_path, run=tmp_path / "other")
    with pytest.raises(OutputError, match="file is no folder"):
        runs.begin(tmp_path, run=tmp_path / "other/file")
    (tmp_path / "empty").mkdir()
    runs.begin(tmp_path, run=tmp_path / "empty")


def test_a_damaged_shard_is_found_at_the_start(tmp_path: Path) -> None:
    runs.some_set(tmp_path / "set")
    path = tmp_path / "set/shard-00001.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(OutputError, match="shard-00001.arrow does not match the manifest"):
        runs.begin(tmp_path)


def test_no_run_and_a_damaged_or_newer_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is no run: it has no run.json. `gaincurate schedule start DIR"):
        Run(tmp_path)
    run = runs.begin(tmp_path)
    (run.folder / "order.arrow").unlink()
    runs.report(run)
    with pytest.raises(OutputError, match="order.arrow is missing or is not the order"):
        advance(run)
    write_sealed(run.folder / "run.json", {**run.facts, "format": 9})
    with pytest.raises(OutputError, match="has format 9, this version reads 1"):
        Run(run.folder)
    other = {**run.facts, "config": {**run.facts["config"], "an_option_of_before": 1}}
    write_sealed(run.folder / "run.json", other)
    with pytest.raises(OutputError, match="was opened with options that this version does not have; use"):
        Run(run.folder)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"sgima": "6"}, "there is no keyword 'sgima'"),
        ({"budget": "x"}, "budget = 'x': it should be a valid integer"),
        ({"rescore": {"what": "x"}}, "rescore.what = 'x': it should be 'off', 'round', 'window' or 'full'."),
        ({"options": {"sgima": "6"}}, "strategy gain-rl has no option 'sgima'; it has: "),
    ],
)
def test_a_program_is_told_of_its_keywords(tmp_path: Path, given: dict[str, Any], sentence: str) -> None:
    required: dict[str, Any] = {"strategy": "gain-rl", "budget": 8, "rounds": 2}
    with pytest.raises(InputError) as caught:
        gaincurate.Schedule.start(runs.some_set(tmp_path / "set"), tmp_path / "run", **(required | given))
    assert str(caught.value).startswith(sentence)
