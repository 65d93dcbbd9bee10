from __future__ import annotations

import json
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import exports
from command import run as gaincurate
from gaincurate.trainers.profile import TRAINERS, profiles

MORE = {
    "verl": ["--data-source", "openai/gsm8k"],
    "roll": ["--data-source", "math_rule"],
    "open-instruct": ["--data-source", "gsm8k"],
    "skyrl": ["--env-class", "gsm8k"],
}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainer_gets_a_file_and_settings_that_name_it(tmp_path: Path, trainer: str) -> None:
    scored = exports.make_set(tmp_path / "set", exports.sums())
    file = tmp_path / f"o u/{trainer}{profiles()[trainer].suffixes[0]}"
    words = ("export", scored, "--trainer", trainer, "--out", file, *MORE.get(trainer, []))
    result = gaincurate(*words)
    assert result.exit_code == 0, result.stderr
    assert f"{trainer}.{file.suffix[1:]}: 6 rows for {trainer} " in result.stderr
    told = json.loads(gaincurate(*words, "--overwrite", "--json").stdout)
    assert told["rows"] == 6
    assert told["made"]["trainer"] == trainer
    assert any(str(file.parent) in line for line in told["settings"])
    if told["form"] == "flags":
        assert shlex.split(result.stdout) == told["settings"]
    else:
        assert result.stdout.splitlines() == told["settings"]


def test_scores_and_limits_reach_the_file(tmp_path: Path) -> None:
    scored, file = exports.make_set(tmp_path / "set", exports.sums()), tmp_path / "x.parquet"
    options = ["--by", "gc_angle", "--ascending", "--limit", 2, "--with-scores", "--plain-answer"]
    assert gaincurate("export", scored, "--trainer", "openrlhf", "--out", file, *options).exit_code == 0
    table = pq.read_table(file)
    assert table.column("gc_id").to_pylist() == ["id0005", "id0004"]
    assert table.column("label").to_pylist() == ["10", "8"]
    assert "gc_angle" in table.column_names
