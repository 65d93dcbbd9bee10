"""The light list of trainers says what the profiles say, and the help has it."""

from __future__ import annotations

import pytest

from command import run
from gaincurate.trainers.names import TRAINERS, with_part
from gaincurate.trainers.profile import profiles


def test_a_part_is_listed_where_the_profile_has_it() -> None:
    for part in ("layout", "rules"):
        assert with_part(part) == [name for name, profile in profiles().items() if getattr(profile, part)]


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["export"], TRAINERS),
        (["doctor"], with_part("rules")),
        (["schedule", "next"], with_part("layout")),
        (["schedule", "run"], with_part("layout")),
        (["schedule", "recipe"], with_part("recipe")),
    ],
)
def test_the_help_lists_every_trainer_that_the_command_takes(command: list[str], names: list[str]) -> None:
    shown = " ".join(run(*command, "--help").stdout.replace("│", " ").split())
    assert f"{', '.join(names)}." in shown
