"""docs/compare.md names every setting, its example is one, and its study has the simulated rates."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from gaincurate.compare.config import Arm, Comparison, Evaluation, ReplayArm, Tune, checked_comparison

DOCS = Path(__file__).parent.parent.parent / "docs"
TEXT = (DOCS / "compare.md").read_text()


@pytest.mark.parametrize("kind", [Comparison, Arm, ReplayArm, Evaluation, Tune])
def test_every_setting_is_named_with_its_default(kind: type[BaseModel]) -> None:
    settings = TEXT[TEXT.index("## Settings") : TEXT.index("## What an arm is charged")]
    for name, field in kind.model_fields.items():
        if name in ("train", "evaluation", "tune", "arms"):
            assert f"`[{name}]`" in settings or f"`[[{name}]]`" in settings
        else:
            assert f"`{name}`" in settings
        row = re.search(rf"^\| `{name}` \| ([^|]*) \|", settings, re.MULTILINE)
        if row and isinstance(field.default, int | float):
            assert row[1] == json.dumps(field.default)


def test_the_example_is_a_comparison() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    found = checked_comparison(tomllib.loads(example))
    assert [arm.name for arm in found.arms] == ["uniform", "length", "gain-rl", "posterior"]


def test_rates_of_wrong_verdicts_are_those_that_were_simulated() -> None:
    """Rows of both tables: tasks, effects of arm and seed on tasks, then what the simulation's file says."""
    rows = list(csv.DictReader((DOCS / "studies/verdicts/rates.csv").read_text().splitlines()))
    page = (DOCS / "studies/verdicts/README.md").read_text()
    lines = {tuple(re.findall(r"[\d.]+", line)) for line in page.splitlines() if line.startswith("| ")}
    for row in rows:
        key = [row["tasks"], *(f"{float(row[name]):g}" for name in ("arm x task", "seed x task"))]
        if float(row["points"]) == 0:
            names = ["independent wrong %", "these wrong %", "other wrong %"]
        else:
            key = [*(f"{float(row[name]):g}" for name in ("points", "seed")), *key[1:]]
            names = ["these seen %", "these half", "other seen %", "other half"]
        assert (*key, *(f"{float(row[name]):.1f}" for name in names)) in lines
        assert float(row["other wrong %"]) <= 5
    assert int(rows[0]["studies"]) == 200
