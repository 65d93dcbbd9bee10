"""`gaincurate derive`: variants of a score that length does not explain, as columns to order by.

They are written as computed columns; the set's other files do not change.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured

if TYPE_CHECKING:
    from gaincurate.report.config import DeriveConfig


@configured("gaincurate.report.config:DeriveConfig")
def derive(config: DeriveConfig, as_json: AsJson = False) -> None:
    """Write a length-free variant of a score as a computed column, for `--by`.

    Example: gaincurate derive scored --signal gc_angle --length-free residual
    """
    with output.reporting():
        from gaincurate.core.scored_set import open_scores
        from gaincurate.report.length_free import derive as make

        column = make(
            open_scores(config.folder),
            config.signal,
            config.length_free,
            bins=config.bins,
            name=config.name,
            overwrite=config.overwrite,
        )
        if as_json:
            output.as_json(asdict(column))
            return
        done = "is there already, made in this way" if column.kept else "written"
        of, verb = output.counted(column.rows, "row"), "has" if column.values == 1 else "have"
        output.text(f"{config.folder}: {column.name} {done}, {column.values:,} of {of} {verb} a value")
        before, after = (output.number(rho, "+.3f") for rho in (column.before, column.after))
        output.text(f"  Spearman with question length: {config.signal} {before}, {column.name} {after}")
        output.text(f"  next: --by {column.name}, with `gaincurate schedule start` or `gaincurate export`")
