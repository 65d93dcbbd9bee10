"""All printing: data to stdout, everything else to stderr; exceptions become a sentence and an exit code.

Texts of data sets may contain control characters, which are escaped before a line reaches a terminal.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO, TypeVar

import typer

from gaincurate.errors import GaincurateError, StorageError, reason_of, refused_by_the_system

WIDTH = 100  # columns of a sentence


def terminal_width() -> int | None:
    """Columns of the terminal (or `COLUMNS`); None for a pipe or a file, which have no width.

    `COLUMNS` counts only on a terminal, because callers that have loaded readline export it.
    """
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def text(*lines: str) -> None:
    """Print lines of data to stdout."""
    _write("".join(f"{_harmless(line)}\n" for line in lines))


Facts = TypeVar("Facts")


def result(facts: Facts, as_json_: bool, show: Callable[[Facts], None]) -> None:
    """Print the result of a command, as JSON or by `show`."""
    as_json(facts) if as_json_ else show(facts)


def as_json(value: Any) -> None:
    """Print a JSON value to stdout. NaN and infinity, which JSON does not have, become null."""
    readable = sys.stdout.encoding.lower() in ("utf-8", "utf8")
    text(*json.dumps(_with_nulls(value), indent=2, ensure_ascii=not readable).split("\n"))


def _with_nulls(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return _with_nulls(asdict(value))
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _with_nulls(inner) for key, inner in value.items()}
    return [_with_nulls(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def note(line: str) -> None:
    """Print one line to stderr."""
    try:
        sys.stderr.write(_harmless(line) + "\n")
        sys.stderr.flush()
    except OSError:  # `2>&1 | head`, a full disk: the work continues without output
        _discard(sys.stderr)


def _write(data: str) -> None:
    try:
        sys.stdout.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritten(error) from error


def unwritten(error: OSError) -> StorageError:
    """The error for a failed write to stdout; the rest of the output is discarded."""
    _discard(sys.stdout)
    return StorageError(f"cannot write the output: {reason_of(error)}.", errno=error.errno)


def _discard(stream: TextIO) -> None:
    """Send the rest of a stream to /dev/null, or Python reports the error again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _harmless(line: str) -> str:
    """Escape the control characters of a line, whose names, ids and paths may come from others."""
    if line.isprintable():
        return line
    escapes = (c if c.isprintable() else json.dumps(c)[1:-1].replace("\x7f", "\\u007f") for c in line)
    return "".join(escapes)


def table(rows: Sequence[Sequence[str]], head: Sequence[str], left: Collection[str] = ()) -> None:
    """Print aligned columns: the first column and those in `left` to the left, the others to the right.

    On a narrow terminal, heads take several lines. If that is not enough, the remaining columns are printed
    below, next to the first one again. No word or number is broken.
    """
    columns = list(zip(head, *rows, strict=True))
    least = [max(map(len, [*name.split(), *cells]), default=0) for name, *cells in columns]
    widths = [max(map(len, column)) for column in columns]
    room = terminal_width() or sys.maxsize
    while 2 * len(widths) + sum(widths) > room and widths != least:
        widths[max(range(len(widths)), key=lambda i: widths[i] - least[i])] -= 1
    blocks = [[0]]
    for i in range(1, len(head)):
        if len(blocks[-1]) > 1 and sum(2 + widths[k] for k in [*blocks[-1], i]) > room:
            blocks.append([0])
        blocks[-1].append(i)
    heads = [
        textwrap.wrap(name, width, break_long_words=False) for name, width in zip(head, widths, strict=True)
    ]
    for place, block in enumerate(blocks):
        if place:
            text("")
        above = [*zip_longest(*(heads[i][::-1] for i in block), fillvalue="")][::-1]
        for line in [*above, *([row[i] for i in block] for row in rows)]:
            aligned = (
                cell.ljust(widths[i]) if i == 0 or head[i] in left else cell.rjust(widths[i])
                for cell, i in zip(line, block, strict=True)
            )
            text("  " + "  ".join(aligned).rstrip())


Cell = str | tuple[str, str] | Callable[[Any], str]
"""How to make a cell of a record: the dotted path of a text, a path and a format, or a function."""


def records(rows: Iterable[Any], columns: Mapping[str, Cell], left: Collection[str] = ()) -> None:
    """Print a table with a line for each record, whose columns are given by their heads."""
    lines = [[cell(row, how) for how in columns.values()] for row in rows]
    table(lines, list(columns), left)


def cell(row: Any, how: Cell) -> str:
    """One cell of a record; a dash if there is no value."""
    if callable(how):
        return how(row)
    path, form = (how, "") if isinstance(how, str) else how
    for part in path.split("."):
        row = None if row is None else row.get(part) if isinstance(row, dict) else getattr(row, part)
    return number(row, form)


def say(line: str, indent: str = "", width: int = WIDTH) -> None:
    """Print a sentence, wrapped to `width` or the width of the terminal, whichever is smaller.

    Leading spaces are kept. Lines after the first one begin with `indent`.
    """
    bare = line.lstrip(" ")
    wrapped = textwrap.wrap(
        plain(bare),
        min(width, terminal_width() or width),
        initial_indent=line[: len(line) - len(bare)],
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
    text(*wrapped)


def fitted(line: str, indent: str = "  ") -> None:
    """Print a line, wrapped only to the width of a terminal."""
    say(line, indent, sys.maxsize)


def short_id(gc_id: str) -> str:
    """An id for a table: the first 8 characters of a hash; any other id is unchanged."""
    return gc_id[:8] if re.fullmatch("[0-9a-f]{32}", gc_id) else gc_id


def excerpt(value: str, width: int) -> str:
    """The beginning of a text as one printable line, cut after a word, or inside a long word."""
    line = " ".join(plain(value).split())
    short = textwrap.shorten(line, max(width, 1), placeholder=" …")
    if short == line or (2 * len(short) >= width and short != "…"):
        return short
    # Chinese has no spaces and LaTeX few: whole words alone would leave next to nothing.
    return f"{line[: max(width - 2, 0)].rstrip()} …".lstrip()


def number(value: Any, form: str) -> str:
    """A formatted number, or a dash for None; the value's text, cut to a line, if the format does not fit."""
    if value is None:
        return "-"
    try:
        return format(value, form)
    except (ValueError, TypeError, OverflowError):  # metrics of a plan may be anything
        return str(value)[:WIDTH]


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things: `1 row`, `2,000 rows`."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def plain(value: str) -> str:
    """A data set's text made safe for a terminal: one line, no control characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(value.split()))


@contextmanager
def reporting(*, resumes: bool = False, verbose: bool = False) -> Iterator[None]:
    """Turn the package's exceptions into a sentence on stderr and an exit code; bugs keep their traceback.

    Args:
        resumes: whether the same command continues its work after Ctrl-C. Then SIGTERM and SIGUSR1 end it in
            the same way.
        verbose: also print each key of the identity that differs from a set's.
    """
    from gaincurate.core.process import Terminated, stoppable

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # prompts hold what a terminal may not have
    debugged = os.environ.get("GAINCURATE_DEBUG") == "1"
    try:
        with stoppable() if resumes else nullcontext():
            yield
    except GaincurateError as error:
        if debugged:
            raise
        note(f"error: {error}")
        for key, was, now in error.data.get("details", ()) if verbose else ():  # type: ignore[attr-defined]
            note(f"  {key} was {was!r} and is now {now!r}")
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        notice = isinstance(error, Terminated)
        again = f" Run the same command again to go on: {shlex.join(['gaincurate', *sys.argv[1:]])}"
        note(f"{f'ended by {error}' if notice else 'interrupted'}.{again if resumes else ''}")
        raise typer.Exit(Terminated.exit_code if notice else 130) from error
    except BrokenPipeError:  # `gaincurate show DIR | head`
        _discard(sys.stdout)
        raise typer.Exit(0) from None
    except Exception as error:
        refusal = refused_by_the_system(error)
        if refusal is None or debugged:
            raise
        note(f"error: {refusal}")
        raise typer.Exit(StorageError.exit_code) from error


def zero_vector_sentence(count: int) -> str:
    """A sentence on hidden states without a direction."""
    has, counts = "have", "they count as tokens and add"
    if count == 1:
        has, counts = "has", "it counts as a token and adds"
    return f"{counted(count, 'scored token')} {has} a zero vector as hidden state: {counts} nothing."


def length_sentence(rho: float | None) -> str:
    """A sentence on the rank correlation of `gc_angle` with question length."""
    if rho is None:
        return "gc_angle against question length: too few or equal rows for a rank correlation."
    if abs(rho) < 0.2:
        meaning = "length explains next to nothing of the order"
    else:
        order = "ordering by it is close to ordering by length"
        meaning = order if abs(rho) >= 0.8 else "length explains a part of the order"
        meaning += f" ({'shorter' if rho < 0 else 'longer'} questions score higher)"
    return f"gc_angle against question length: Spearman {rho:+.2f}; {meaning}."
