"""The only printer: data to stdout, everything else to stderr. Exceptions become a sentence and a code.

Texts of data sets may hold control characters, so each line is made harmless before it reaches a terminal.
"""

from __future__ import annotations

import io
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TextIO

import typer

from gaincurate.errors import GaincurateError, StorageError, reason_of

WIDTH = 100
"""Columns of a sentence."""


def text(line: str = "") -> None:
    """One line of data, to stdout."""
    _write(_harmless(line) + "\n")


def as_json(value: Any) -> None:
    """One JSON value, to stdout."""
    readable = sys.stdout.encoding.lower() in ("utf-8", "utf8")
    encoded = json.dumps(value, indent=2, ensure_ascii=not readable)
    _write("\n".join(map(_harmless, encoded.split("\n"))) + "\n")


def note(line: str) -> None:
    """One line for whoever watches, to stderr."""
    try:
        sys.stderr.write(_harmless(line) + "\n")
        sys.stderr.flush()
    except OSError:  # `2>&1 | head`, a full disk: nobody reads this any more, the work goes on
        _discard(sys.stderr)


def _write(data: str) -> None:
    try:
        sys.stdout.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard(sys.stdout)
        raise StorageError(f"cannot write the output: {reason_of(error)}.", errno=error.errno) from error


def _discard(stream: TextIO) -> None:
    """Let the rest of a stream vanish, or Python complains about it once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _harmless(line: str) -> str:
    """Names, ids and paths come from outside: what would steer a terminal is shown as its escape."""
    return line if line.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in line)


def _escape(character: str) -> str:
    return json.dumps(character)[1:-1] if ord(character) != 0x7F else "\\u007f"


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> None:
    """Aligned columns to stdout: the first to the left, the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text("  " + "  ".join(cells).rstrip())


def say(line: str, indent: str = "") -> None:
    """A sentence to stdout, over several lines where it is long."""
    for part in textwrap.wrap(plain(line), WIDTH, subsequent_indent=indent, break_on_hyphens=False):
        text(part)


def number(value: float | None, form: str) -> str:
    """A number for a table, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things: `1 row`, `2,000 rows`."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def plain(value: str) -> str:
    """A data set's text made safe for a terminal: one line, no control characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(value.split()))


@contextmanager
def reporting(resume: str = "") -> Iterator[None]:
    """Turn our exceptions into a sentence on stderr and an exit code; bugs keep their traceback.

    Args:
        resume: what to say after Ctrl-C. Work that goes on so also ends in order after SIGTERM and SIGUSR1.
    """
    from gaincurate.core.process import Terminated, stoppable

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # prompts hold what a terminal may not have
    try:
        with stoppable() if resume else nullcontext():
            yield
    except GaincurateError as error:
        if os.environ.get("GAINCURATE_DEBUG") == "1":
            raise
        note(f"error: {error}")
        raise typer.Exit(error.exit_code) from error
    except Terminated as error:
        note(f"ended by {error}. {resume}".rstrip())
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        note(f"interrupted. {resume}".rstrip())
        raise typer.Exit(130) from error
    except BrokenPipeError:  # `gaincurate show DIR | head`
        _discard(sys.stdout)
        raise typer.Exit(0) from None


def zero_vector_sentence(count: int) -> str:
    """What hidden states without a direction mean for a set."""
    if count == 1:
        return "1 scored token has a zero vector as hidden state: it counts as a token and adds nothing."
    return (
        f"{count:,} scored tokens have a zero vector as hidden state: they count as tokens and add nothing."
    )


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
