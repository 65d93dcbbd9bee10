"""The only printer: data to stdout, everything else to stderr; exceptions become a sentence and a code.

Knows nothing of what is printed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from gaincurate.errors import GaincurateError


def text(line: str = "") -> None:
    """One line of data, to stdout."""
    sys.stdout.write(line + "\n")


def as_json(value: Any) -> None:
    """One JSON value, to stdout."""
    text(json.dumps(value, indent=2, ensure_ascii=False))


def note(line: str) -> None:
    """One line for whoever watches, to stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> None:
    """Aligned columns to stdout: the first to the left, the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text("  " + "  ".join(cells).rstrip())


def plain(value: str) -> str:
    """A data set's text made safe for a terminal: one line, no control characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(value.split()))


@contextmanager
def reporting(resume: str = "") -> Iterator[None]:
    """Turn our exceptions into a sentence on stderr and an exit code; bugs keep their traceback.

    Args:
        resume: what to say after Ctrl-C.
    """
    try:
        yield
    except GaincurateError as error:
        if os.environ.get("GAINCURATE_DEBUG") == "1":
            raise
        note(f"error: {error}")
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        note(f"interrupted. {resume}".rstrip())
        raise typer.Exit(130) from error
    except BrokenPipeError:  # `gaincurate show DIR | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def length_sentence(rho: float | None) -> str:
    """What a rank correlation of `gc_angle` with question length means, in plain words."""
    if rho is None:
        return "gc_angle against question length: too few or equal rows for a rank correlation."
    direction = "shorter questions score higher" if rho < 0 else "longer questions score higher"
    strength = abs(rho)
    if strength >= 0.8:
        meaning = f"ordering by it is close to ordering by length ({direction})"
    elif strength >= 0.5:
        meaning = f"length explains a good part of the order ({direction})"
    elif strength >= 0.2:
        meaning = f"length explains a little of the order ({direction})"
    else:
        meaning = "length explains next to nothing of the order"
    return f"gc_angle against question length: Spearman {rho:+.2f}; {meaning}."
