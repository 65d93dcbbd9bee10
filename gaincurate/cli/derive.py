"""`gaincurate derive`: variants of a score that length does not explain, as columns to order by.

They are written as computed columns; the set's other files do not change.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.core.options import Option


@configured()
def derive(
    folder: Annotated[Path, Option("A finished scored set.", metavar="DIR", argument=True)],
    signal: Annotated[str, Option("The number column to free of length.", metavar="COLUMN")],
    length_free: Annotated[
        Literal["residual", "rank-in-bin"],
        Option(
            "residual: less its usual value at that length, a spline on log length (needs scipy). "
            "rank-in-bin: its rank among rows of about the same length."
        ),
    ],
    bins: Annotated[
        int | None, Option("For rank-in-bin: length bins of about equally many rows. Default: 20.", min=1)
    ] = None,
    name: Annotated[
        str | None,
        Option("Of the new column. Default: COLUMN_residual or COLUMN_rank_in_bin.", metavar="NAME"),
    ] = None,
    overwrite: Annotated[bool, Option("Replace a column of that name that was made otherwise.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a length-free variant of a score as a computed column, for `--by`.

    Example: gaincurate derive scored --signal gc_angle --length-free residual
    """
    with output.reporting():
        from gaincurate.core.scored_set import open_scores
        from gaincurate.report.length_free import derive as make

        column = make(open_scores(folder), signal, length_free, bins=bins, name=name, overwrite=overwrite)
        if as_json:
            output.as_json(asdict(column))
            return
        done = "is there already, made in this way" if column.kept else "written"
        of, verb = output.counted(column.rows, "row"), "has" if column.values == 1 else "have"
        output.text(f"{folder}: {column.name} {done}, {column.values:,} of {of} {verb} a value")
        before, after = (output.number(rho, "+.3f") for rho in (column.before, column.after))
        output.text(f"  Spearman with question length: {signal} {before}, {column.name} {after}")
        output.text(f"  next: --by {column.name}, with `gaincurate schedule start` or `gaincurate export`")
