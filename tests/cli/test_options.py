"""Options from a file: every format, flags before the file before defaults, and what a file cannot say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

import runs
from command import read_options, run
from compare_command import toml
from gaincurate.cli.app import app as gaincurate_app
from gaincurate.core.options import checked
from gaincurate.errors import InputError
from gaincurate.schedule.config import ScheduleConfig

OPTIONS: dict[str, Any] = {"model": "demo", "limit": 3, "signals": ["angle", "nll"], "system_override": True}
OPTIONS |= {"shard": "2/3", "batch-tokens": 512, "template_kwargs": {"enable_thinking": False}}
TOML = toml(OPTIONS)
YAML = yaml.safe_dump(OPTIONS)
_RUN = {"scored": "set", "run": "run", "strategy": "uniform", "budget": 8, "rounds": 2}


@pytest.mark.parametrize(
    ("name", "text"), [("c.toml", TOML), ("c.yaml", YAML), ("c.yml", YAML), ("c.json", json.dumps(OPTIONS))]
)
def test_a_file_in_any_format_says_what_flags_say(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    by_file = read_options("score", "data.jsonl", "--out", "set", "--config", tmp_path / name)
    flags = ["--model", "demo", "--limit", 3, "--signals", "angle,nll", "--system-override", "--shard", "2/3"]
    flags += ["--batch-tokens", 512, "--template-kwargs", '{"enable_thinking": false}']
    by_flags = read_options("score", "data.jsonl", "--out", "set", *flags)
    texts = {"signals": "angle,nll", "batch_tokens": "512"}
    assert by_file | texts == by_flags | {"template_kwargs": {"enable_thinking": False}}
    assert by_file["device"] == "auto"
    assert by_file["data"] == "data.jsonl"


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('data = "data.jsonl"\nmodel = "m"\nout = "set"\nlimit = 3\nlayer = 2\n')
    values = read_options("score", "--config", path, "--limit", 5)
    assert (values["limit"], values["layer"], values["shard_rows"]) == (5, 2, 1024)


def test_a_file_of_any_command_has_the_names_of_its_options(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    of_commands: dict[tuple[str, ...], dict[str, Any]] = {
        ("derive",): {"folder": "set", "signal": "nll", "length_free": "rank-in-bin", "bins": 7},
        ("schedule", "next"): {"run": "run", "trainer": "trl", "outcomes": ["a", "b"]},
    }
    for command, options in of_commands.items():
        path.write_text(json.dumps(options))
        assert options.items() <= read_options(*command, "--config", path).items()


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("none.toml", None, "--config {F} does not exist."),
        ("c.toml", "batch_tokns = 3", "{F}: there is no option 'batch_tokns'; similar: batch_"),
        ("c.toml", "json = true", "{F}: there is no option 'json'"),
        ("c.toml", "limit = 0", "{F}: limit = 0: input should be greater than or equal to 1."),
        ("c.toml", "dtype = 'int8'", "{F}: dtype = 'int8': "),
        ("c.json", "{", "--config {F} is no JSON: "),
        ("c.yaml", "- a", "--config {F}: expected options as names with values."),
        ("c.txt", "", "--config {F}: expected a file that ends in .toml, .yaml, .yml or .json."),
        ("c.toml", "template_kwargs = {date_string = 2026-07-26}", "--config {F}: Object of type date is"),
        ("c.toml", "shots = 5", "--shots 5: it should be a valid list."),
        ("c.json", '{"out": {"a": 1}}', "{F}: out = {'a': 1}: it is empty, or no path."),
    ],
)
def test_a_file_is_refused_in_a_sentence(tmp_path: Path, name: str, text: str | None, sentence: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    result = run("score", "data.jsonl", "--model", "demo", "--out", tmp_path / "set", "--config", path)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: " + sentence.replace("{F}", str(path)))
    assert not (tmp_path / "set").exists()


def test_a_run_is_opened_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    places = {"scored": str(runs.some_set(tmp_path / "set")), "run": str(tmp_path / "run")}
    more = {"strategy": "gain-rl", "sigma": 4, "reward_range": [-1, 1], "set": ["scale=3", "bare=true"]}
    path.write_text(toml(_RUN | places | more | {"rescore_every": 2}))
    result = run("schedule", "start", "--config", path, "--drift", "0.5")
    assert result.exit_code == 0, result.stderr
    config = json.loads((tmp_path / "run/run.json").read_text())["config"]
    assert (config["reward_low"], config["bare"], config["rescore"]["every"]) == (-1, True, 2)
    assert config["rescore"]["drift"] == 0.5
    assert (config["options"]["sigma"], config["options"]["scale"]) == ("4", 3)


def test_off_in_yaml_is_a_name_and_true_is_none(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("rescore: off\nby: no\nascending: true\nrescore_every: 2\n")
    values = read_options(
        "schedule", "start", "set", "--run", "r", "--strategy", "s", "--rounds", 1, "--config", path
    )
    assert (values["rescore"], values["by"], values["ascending"]) == ("off", "no", True)


@pytest.mark.parametrize("words", [("show", ""), ("schedule", "next", "r", "--outcomes", "")])
def test_an_empty_path_is_not_the_working_folder(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert "it is empty, or no path." in result.stderr


def test_an_older_spelling_is_read_and_not_shown(tmp_path: Path) -> None:
    assert "--outcomes" not in run("difficulty", "predict", "--help").stdout
    for name in ("rollouts", "outcomes"):
        by_option = read_options("difficulty", "predict", "set", f"--{name}", "a", f"--{name}=b")
        (tmp_path / "c.json").write_text(json.dumps({"scored": "set", name: ["a", "b"]}))
        assert read_options("difficulty", "predict", "--config", tmp_path / "c.json") == by_option
        assert by_option["rollouts"] == ["a", "b"]


def test_a_refusal_names_the_option_as_it_is_spelt(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--rescore-every 0: it should be greater than or equal to 1\.$"):
        checked(ScheduleConfig, {**_RUN, "rescore": {"every": 0}})
    with pytest.raises(InputError, match=r"^--bare 7: it should be a valid boolean"):
        checked(ScheduleConfig, {**_RUN, "bare": 7})
    with pytest.raises(InputError, match=r"^there is no option 'alignto'; similar: align_to\.$"):
        checked(ScheduleConfig, {**_RUN, "alignto": 7})
    with pytest.raises(InputError, match=r"^--strategy is missing\.$"):
        checked(ScheduleConfig, {name: value for name, value in _RUN.items() if name != "strategy"})


def commands(app: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command as its words."""
    group: Any = app or typer.main.get_command(gaincurate_app)
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*words, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, (*words, name))


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_help_at_80_columns_is_whole_and_many_options_can_come_from_a_file(command: tuple[str, ...]) -> None:
    narrow = CliRunner(env={"COLUMNS": "80"})
    shown = narrow.invoke(gaincurate_app, [*command, "--help"]).stdout
    assert "…" not in shown
    assert not re.search(r"<bool>|range>|<str>|<int>|<float>|Undefined|<path>", shown.partition("Options")[2])
    assert max(map(len, shown.splitlines())) <= 80
    names = set(re.findall(r"^│ \*? *(--[a-z-]+)", shown, re.MULTILINE)) - {"--help"}
    own = command in (("doctor",), ("compare",))  # their CONFIG is the trainer's, and a file of settings
    assert ("--config" in names) == (len(names - {"--config"}) > 5) or own


def test_the_help_of_an_option_stands_in_the_docstring_or_at_the_option() -> None:
    wide = CliRunner(env={"COLUMNS": "200"})
    for command, text in {
        "derive": "The number column to free of length.",
        "hygiene": "Overlong: the trainer's limit.",
        "score": "Read options from a TOML, YAML or JSON file.",
    }.items():
        assert text in wide.invoke(gaincurate_app, [command, "--help"]).stdout
