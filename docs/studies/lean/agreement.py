"""Prints what the lean loop and TRL came to with the same arms, from the files of both studies.

Usage: python docs/studies/lean/agreement.py [RESULTS.jsonl].
Both begin with the same model where `build/study/model/facts.json` has the sha256 of docs/head-to-head.md.
Errors are standard errors over seeds. TRL's have the noise of four samples per prompt in them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from study import COLUMNS, difference, ends_of

from gaincurate.core.files import json_lines

HERE = Path(__file__).parent
KEPT = HERE / "results.jsonl"
FIGURES = HERE.parent / "head_to_head/figures.json"
ARMS = ("length", "gain-rl", "variance")


def main(results: Path) -> None:
    """Print the table."""
    rows = [row for _, row in json_lines(results) if row and row["world"] == "w1"]
    figures = {arm["arm"]: arm for arm in json.loads(FIGURES.read_bytes())["arms"]}
    print("| arm | less uniform | TRL | steps | TRL | groups that differ | TRL | gradient norm | TRL |")
    print("| --- " + 8 * "| ---: " + "|")
    controls = ends_of([row for row in rows if row["arm"] == "uniform"]), seeds_of(figures["uniform"])
    for name in ("uniform", *ARMS):
        lean, trl = [row for row in rows if row["arm"] == name], figures[name]
        cells = [
            "{:+.1f} ± {:.1f}".format(*difference(ends, control))
            if name != "uniform"
            else f"at {fmean(ends):.1f}"
            for ends, control in zip((ends_of(lean), seeds_of(trl)), controls, strict=True)
        ]
        training = trl["training"]
        for column, value in (
            ("steps", trl["cost"]["step"]),
            ("differ", training["effective"]),
            ("grad_norm", training["grad_norm"]),
        ):
            form = COLUMNS[column]
            cells += [form.format(fmean(row[column] for row in lean)), form.format(value)]
        print("| " + " | ".join([name, *cells]) + " |")


def seeds_of(arm: dict[str, Any]) -> list[float]:
    """TRL's accuracies at the end in percent, by seed."""
    return [100 * accuracy for accuracy in arm["accuracy_by_seed"]]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else KEPT)
