"""The defaults that the rules go by are those of the trainers' sources."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from gaincurate.trainers.names import with_part
from gaincurate.trainers.profile import profile_of
from trainer_defaults import STORED, defaults_in

FACTS = json.loads(STORED.read_text())


def test_every_trainer_with_rules_has_defaults_of_the_version_of_its_profile() -> None:
    assert set(FACTS) == set(with_part("rules"))
    for name, facts in FACTS.items():
        assert profile_of(name).version == facts["version"]


@pytest.mark.parametrize("trainer", FACTS)
def test_the_defaults_are_those_of_the_source_that_is_here(trainer: str) -> None:
    """Also of what is installed or on PYTHONPATH for the tests of loaders."""
    facts, read = FACTS[trainer], defaults_in(FACTS[trainer], [Path(place) for place in sys.path])
    if read is None:
        pytest.skip(f"{facts['files'][0]} is not here")
    try:
        there = version({"trinity": "trinity-rft"}.get(trainer, trainer))
    except PackageNotFoundError:  # a checkout
        there = facts["version"]
    if there != facts["version"]:
        pytest.skip(f"{trainer} {there} is here, {facts['version']} was read")
    assert read == facts["defaults"]
