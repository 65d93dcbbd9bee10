"""`gaincurate difficulty`: how hard each prompt is for the present policy."""

from __future__ import annotations

import typer

from gaincurate.cli.difficulty_fit import fit, predict

app = typer.Typer(no_args_is_help=True, help="Failure rates of prompts: observed, and predicted from a few.")
app.command()(fit)
app.command()(predict)
