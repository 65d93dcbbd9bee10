"""`gaincurate score`: a view of the run that a ScoreConfig asks for."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from gaincurate.cli import output
from gaincurate.cli.options import configured
from gaincurate.cli.progress import ProgressView
from gaincurate.cli.score_summary import need_a_row, print_summary
from gaincurate.errors import InputError
from gaincurate.options import Option

if TYPE_CHECKING:
    from gaincurate.config import ScoreConfig


@configured("gaincurate.config:ScoreConfig")
def score(
    config: ScoreConfig,
    as_json: Annotated[bool, Option("Print the summary as JSON.", names=("--json",))] = False,
) -> None:
    """Score a prompt set and write it as Arrow shards with score columns.

    Run the same command again after an interruption: finished shards are kept. Exits with 2 and the commonest
    reason if every row was rejected.

    Example: gaincurate score gsm8k.parquet --model demo --out scored
    """
    again = f"Run the same command again to go on: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(again):
        need_scoring_packages()
        from gaincurate.scoring.pipeline import score_dataset

        with ProgressView() as view:
            summary = score_dataset(config, view)
        if as_json:
            output.as_json({**asdict(summary), "out": str(summary.out)})
        else:
            print_summary(summary)
        need_a_row(summary)


def need_scoring_packages() -> None:
    """Say what is missing before anything heavy is imported.

    Raises:
        InputError: torch or transformers is not installed.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"scoring needs {' and '.join(missing)}: `pip install 'gaincurate[score]'`.")
