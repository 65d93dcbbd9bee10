"""docs/compare.md names every setting, and its example is one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from gaincurate.compare.config import Arm, Comparison, Evaluation, ReplayArm, checked_comparison

TEXT = (Path(__file__).parent.parent.parent / "docs/compare.md").read_text()


@pytest.mark.parametrize("kind", [Comparison, Arm, ReplayArm, Evaluation])
def test_every_setting_is_named_with_its_default(kind: type[BaseModel]) -> None:
    settings = TEXT[TEXT.index("## Settings") : TEXT.index("## What an arm is charged")]
    for name, field in kind.model_fields.items():
        if name in ("train", "evaluation", "arms"):
            assert f"`[{name}]`" in settings or f"`[[{name}]]`" in settings
        else:
            assert f"`{name}`" in settings
        row = re.search(rf"^\| `{name}` \| ([^|]*) \|", settings, re.MULTILINE)
        if row and isinstance(field.default, int | float):
            assert row[1] == str(field.default)


def test_the_example_is_a_comparison() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    found = checked_comparison(tomllib.loads(example))
    assert [arm.name for arm in found.arms] == ["uniform", "length", "gain-rl", "variance"]
