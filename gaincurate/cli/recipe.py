"""`gaincurate schedule recipe`: one round of a trainer as a script for `gaincurate schedule run`."""

from __future__ import annotations

from typing import Annotated

from gaincurate.cli import output
from gaincurate.cli.options import configured
from gaincurate.options import Option


@configured()
def recipe(
    trainer: Annotated[
        str,
        Option(
            "trl, verl, openrlhf, nemo-rl, skyrl, slime, prime-rl or areal.", metavar="TRAINER", argument=True
        ),
    ],
    as_json: Annotated[bool, Option("Print JSON.", names=("--json",))] = False,
) -> None:
    """Print a script that trains one round with a trainer, to begin yours from.

    It says what becomes of the optimizer, the learning rate and the KL reference between rounds.

    Example: gaincurate schedule recipe verl > round.sh
    """
    with output.reporting():
        from gaincurate.trainers.profile import COMMAND, recipe_of

        found = recipe_of(trainer)
        if as_json:
            output.as_json(found.as_json())
            return
        for line in found.script.splitlines():
            output.text(line)
        output.note(f"saved as round.sh: {COMMAND}")
