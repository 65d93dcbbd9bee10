"""`gaincurate schedule recipe`: one round of a trainer as a script for `gaincurate schedule run`."""

from __future__ import annotations

from typing import Annotated

import typer

from gaincurate.cli import output


def recipe(
    trainer: Annotated[
        str,
        typer.Argument(
            metavar="TRAINER", help="trl, verl, openrlhf, nemo-rl, skyrl, slime, prime-rl or areal."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
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
