"""Wires the commands together, in the order in which `--help` lists them.

Each command imports what it needs when it runs, so `gaincurate --help` loads neither torch nor Arrow.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import gaincurate
from gaincurate.cli import difficulty, output, schedule
from gaincurate.cli.doctor import doctor
from gaincurate.cli.export import export
from gaincurate.cli.options import group
from gaincurate.cli.report import compare, report
from gaincurate.cli.score import score
from gaincurate.cli.sets import derive, example, hygiene, ls, show

_COMMANDS = (example, score, show, ls, derive, hygiene, report, export, doctor, compare)
app = group(
    *_COMMANDS,
    name="gaincurate",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(schedule.app, name="schedule")
app.add_typer(difficulty.app, name="difficulty")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"gaincurate {gaincurate.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Choose which prompts to train on with RL, and measure what the choice is worth."""


def _open_streams() -> None:
    """Open /dev/null for streams that the caller closed (`>&-`); the next opened file would replace them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            os.set_inheritable(number, True)  # or a worker's first file would replace it
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def main() -> None:
    """Run the command line."""
    _open_streams()
    try:
        app()
    except OSError as error:  # from `--help` and `--version`, which run outside commands
        if os.environ.get("GAINCURATE_DEBUG") == "1":
            raise
        refused = output.unwritten(error)
        output.note(f"error: {refused}")
        sys.exit(refused.exit_code)
