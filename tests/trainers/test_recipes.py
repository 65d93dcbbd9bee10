"""Recipes as text: they hold what is known of their trainers, and nothing that the doctor would refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

import runs
from command import run
from gaincurate.schedule.driver import NAMES
from gaincurate.trainers.doctor.examine import examine, trainer_named
from gaincurate.trainers.doctor.read import read_script
from gaincurate.trainers.names import folder_of, with_part
from gaincurate.trainers.profile import COMMAND, profile_of, recipe_of
from gaincurate.trainers.verl.settings import overrides
from trainer_defaults import STORED

RECIPES = with_part("recipe")


def recipe(trainer: str) -> Path:
    return STORED.parent / folder_of(trainer) / "recipe.sh"


@pytest.mark.parametrize("trainer", RECIPES)
def test_every_setting_is_one_of_the_version_that_was_read(trainer: str) -> None:
    facts, script = json.loads(STORED.read_text())[trainer], recipe_of(trainer)
    known = {key.replace("-", "_") for key in [*facts["defaults"], *facts["also"]]}
    named = set(read_script(script, trainer_named(trainer).launches).given)
    assert len(named) >= 7
    assert {key for key in named if trainer != "skyrl" or "." in key} <= known
    ran = "run on a CPU" if trainer == "trl" else "read, not run"
    assert f"# One round of {trainer} {profile_of(trainer).version}; {ran}.\n#   {COMMAND}\n" in script


@pytest.mark.parametrize("trainer", RECIPES)
def test_every_name_is_one_that_the_driver_fills_in(trainer: str) -> None:
    assert re.findall(r"\{(\w+)\}", COMMAND) == list(NAMES)
    script = recipe_of(trainer)
    assert f"\n{' '.join(f'{name}=${place}' for place, name in enumerate(NAMES, 1))}\n" in script
    in_braces = set(re.findall(r"(?<!\$)\{(\w+)\}", script.replace(COMMAND, "")))
    assert in_braces <= ({"rollout_id"} if trainer == "slime" else set())
    assert {name.lower() for name in re.findall(r"GAINCURATE_([A-Z]+)", script)} <= set(NAMES)
    done = subprocess.run(["bash", "-n", recipe(trainer)], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("trainer", RECIPES)
def test_the_doctor_finds_nothing_that_would_break_it(trainer: str, tmp_path: Path) -> None:
    report = examine(trainer, [str(recipe(trainer))])
    assert {finding.name for finding in report.findings} <= {"shuffle", "log-without-id"}
    assert not [note for note in report.notes if "not known before it runs" in note]
    opened = runs.begin(tmp_path, rows=80, budget=8 if trainer == "trl" else 64, rounds=2)
    assert examine(trainer, [str(recipe(trainer))], "segment", opened.folder).ok


def test_the_command_prints_a_script_and_says_how_to_start_it() -> None:
    done = run("schedule", "recipe", "verl")
    assert (done.exit_code, done.stdout) == (0, recipe_of("verl"))
    assert done.stderr == f"saved as round.sh: {COMMAND}\n"
    printed = json.loads(run("schedule", "recipe", "verl", "--json").stdout)
    assert printed == {"trainer": "verl", "command": COMMAND, "script": recipe_of("verl")}
    done = run("schedule", "recipe", "trinity")
    sentence = f"error: TRAINER trinity: it must be one of {', '.join(RECIPES)}.\n"
    assert (done.exit_code, done.stderr) == (2, sentence)


@pytest.mark.parametrize(
    ("checkpoint", "round_", "resumed"),
    [
        ("base", 0, None),
        ("output", 1, "output/checkpoint-12"),  # the final model, as any folder with whole weights is found
        ("output/checkpoint-12", 1, "output/checkpoint-12"),  # as `schedule run --trainer trl` finds it
    ],
)
def test_trls_recipe_goes_on(tmp_path: Path, checkpoint: str, round_: int, resumed: str | None) -> None:
    done = trl_round(tmp_path, checkpoint, round_)
    assert done.returncode == 0, done.stderr
    given = (tmp_path / "given").read_text().splitlines()
    assert given[given.index("--model_name_or_path") + 1] == str(tmp_path / checkpoint)
    assert given[given.index("--max_steps") + 1] == str(8 * (round_ + 1))
    at = [k for k, word in enumerate(given) if word == "--resume_from_checkpoint"]
    assert [given[k + 1] for k in at] == ([] if resumed is None else [str(tmp_path / resumed)])


def test_trls_recipe_does_not_begin_anew_in_silence(tmp_path: Path) -> None:
    done = trl_round(tmp_path, "base", 1)
    sentence = f"no trainer state in {tmp_path / 'base'}: the optimizer would start over\n"
    assert (done.returncode, done.stderr, (tmp_path / "given").exists()) == (1, sentence, False)


def trl_round(folder: Path, checkpoint: str, round_: int) -> subprocess.CompletedProcess[str]:
    """The recipe with a stand-in for `trl` that notes what it is given."""
    for name in ("base", "output/checkpoint-4", "output/checkpoint-12", "now"):
        (folder / name).mkdir(parents=True)
    for name in ("checkpoint-4", "checkpoint-12"):
        (folder / "output" / name / "trainer_state.json").write_text("{}")
    stand_in = folder / "trl"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder / "given"}\n')
    stand_in.chmod(0o755)
    (folder / "data.parquet").write_text("")
    (folder / "round.sh").write_text(recipe_of("trl"))
    places = [folder / "data.parquet", round_, folder / checkpoint, folder / "outcomes.jsonl", folder / "now"]
    command = ["bash", str(folder / "round.sh"), *map(str, places)]
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(command, env=environment, text=True, capture_output=True)


def test_the_settings_of_a_live_verl_are_printed_one_per_line(tmp_path: Path) -> None:
    followed = runs.begin(tmp_path, align_to=4).folder
    line, wanted = ["schedule", "recipe", "verl", "--live", followed], overrides(followed)
    assert run(*line).stdout.splitlines() == wanted
    assert json.loads(run(*line, "--json").stdout) == {"settings": wanted}
    refused = run("schedule", "recipe", "trl", "--live", followed)
    assert refused.exit_code == 2
    assert "--live prints verl's settings" in refused.output
