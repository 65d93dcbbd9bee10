"""`gaincurate compare`: strategies trained side by side at equal cost, and what can be said of them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincurate.cli import output

if TYPE_CHECKING:
    from gaincurate.compare.harness import View


def compare(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A .toml file; see docs/compare.md.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the comparison.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all measures as JSON.")] = False,
) -> None:
    """Train a model under several strategies at equal generated tokens, and say whether they differ.

    Run the same command again after an interruption: what was trained and judged is kept.

    Example: gaincurate compare compare.toml -o compared
    """
    again = f"Run the same command again: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(again):
        from gaincurate.compare.config import read_comparison
        from gaincurate.compare.harness import compare as run
        from gaincurate.compare.measures import document
        from gaincurate.files import write_json
        from gaincurate.schedule.trainer import stoppable

        with stoppable():
            found = document(run(read_comparison(config), out, _view()))
        write_json(out / "results.json", found)
        if as_json:
            output.as_json(found)
        else:
            _print(found)
        output.note(f"all measures: {out / 'results.json'}")


def _view() -> View:
    from gaincurate.compare.harness import View

    class Lines(View):
        """A line for each job, with the time left by those before."""

        def __init__(self) -> None:
            self._seconds: list[float] = []

        def note(self, text: str) -> None:
            output.note(text)

        def job(self, place: int, count: int, arm: str, seed: int, what: str) -> None:
            output.note(f"{place + 1} of {count}: {arm}, seed {seed}: {what}")

        def job_done(self, place: int, count: int, seconds: float) -> None:
            if not seconds:
                return
            self._seconds.append(seconds)
            left = (count - place - 1) * sum(self._seconds) / len(self._seconds)
            if left:
                output.note(f"  {seconds:,.0f} s; about {left / 60:,.0f} minutes left")

    return Lines()


def _print(found: dict[str, Any]) -> None:
    from gaincurate.compare.measures import rows

    verdict = found["verdict"]
    output.text(
        f"{verdict['prompts']:,} held-out prompts, {verdict['seeds']} seeds, "
        f"{found['marks'][-1]:,.0f} generated tokens an arm and seed"
    )
    lines = []
    for row in rows(found):
        joint = row["joint"]
        lines.append(
            [
                row["arm"],
                f"{row['accuracy']:.3f}",
                output.number(row["difference"], "+.3f"),
                "-" if joint is None else f"{joint[0]:+.3f} to {joint[1]:+.3f}",
                row["answer"],
                "not reached" if row["tokens"] is None else f"{row['tokens']:.2f}",
                output.number(row["effective"], ".2f"),
                f"{row['seconds']:,.0f}",
            ]
        )
    head = ["arm", "accuracy", "difference", "joint 95 %", "verdict", "tokens to reach", "0<p<1", "seconds"]
    output.table(lines, head)
    for line in found["sentences"]:
        output.text(line)
