"""The defaults that the rules go by are those of the version that was read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gaincurate.trainers.doctor.examine import trainer_named
from gaincurate.trainers.profile import TRAINERS, with_rules

FACTS = Path(__file__).parent.parent / "defaults"


def facts(trainer: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FACTS / f"{trainer}.json").read_text())
    return found


@pytest.mark.parametrize("trainer", with_rules())
def test_the_defaults_are_the_facts(trainer: str) -> None:
    assert facts(trainer)["version"] == trainer_named(trainer).version
    assert facts(trainer)["defaults"] == json.loads(json.dumps(dict(trainer_named(trainer).defaults)))


def test_every_trainer_has_a_name_that_is_known() -> None:
    assert set(with_rules()) <= set(TRAINERS)
    assert {path.stem for path in FACTS.glob("*.json")} == set(with_rules())


def test_trl_really_has_these_defaults(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    if trl.__version__ != trainer_named("trl").version:
        pytest.skip(f"trl {trl.__version__} is here, {trainer_named('trl').version} was read")
    known = {**trl.GRPOConfig.__dataclass_fields__, **trl.ModelConfig.__dataclass_fields__}
    wanted = dict(facts("trl")["defaults"])
    for key, value in wanted.items():
        assert known[key].default == value, key
