"""`gaincurate example`: a prompt set with answers, a reward function and a trainer to try everything on.

The rows are made here, of sums, equations and letters, so that the first commands need no download and no
other package. They are drawn with Python's `random()`, which gives the same numbers in every version.
"""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from gaincurate.cli import output
from gaincurate.cli.options import configured
from gaincurate.core.options import Option
from gaincurate.errors import InputError, storage_error

ROWS = 20
"""Per task and level."""
_NAMES = ("Ada", "Ben", "Chen", "Dora", "Emil", "Fatma")
_WORDS = (
    "apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbour", "island", "jacket",
    "kettle", "lantern", "meadow", "needle", "orchard", "pepper", "quarry", "rabbit", "saddle", "temple",
    "umbrella", "valley", "window", "yellow",
)  # fmt: skip
_COMMANDS = (
    "gaincurate score prompts.jsonl --model demo --out scored",
    "gaincurate report scored -o report.html",
    "gaincurate schedule start scored --run run --strategy gain-rl --sigma 0.1N --budget 32 --rounds 3",
    "gaincurate schedule run run -- python train.py --data {data} --round {round} --model {checkpoint} "
    "--outcomes {outcomes} --output {output}",
)


class _Draw:
    """Draws that are the same in every version of Python, because they use `random()` alone."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def number(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def of(self, names: tuple[str, ...]) -> str:
        return names[self.number(0, len(names) - 1)]


def _sum(draw: _Draw, level: int) -> tuple[str, str]:
    terms = [draw.number(2, 10**level - 1) for _ in range(2 * level)]
    return f"What is {' + '.join(map(str, terms))}? Answer with the number only.", str(sum(terms))


def _product(draw: _Draw, level: int) -> tuple[str, str]:
    one, other = draw.number(3, 10**level - 1), draw.number(11, 10**level + 9)
    return f"Multiply {one} by {other}. Answer with the product only.", str(one * other)


def _equation(draw: _Draw, level: int) -> tuple[str, str]:
    x, factor, offset = draw.number(2, 20 * level), draw.number(2, 9 * level), draw.number(1, 50 * level)
    return f"Find x such that {factor}x + {offset} = {factor * x + offset}. Answer with x only.", str(x)


def _story(draw: _Draw, level: int) -> tuple[str, str]:
    name, left = draw.of(_NAMES), draw.number(20, 90)
    text = f"{name} has {left} coins."
    for _ in range(level + 1):
        count = draw.number(2, 12)
        if draw.number(0, 1) or count > left:
            text, left = f"{text} A friend gives {name} {count} more.", left + count
        else:
            text, left = f"{text} {name} spends {count} of them.", left - count
    return f"{text} How many coins does {name} have in the end? Answer with the number only.", str(left)


def _reversal(draw: _Draw, level: int) -> tuple[str, str]:
    text = "".join(draw.of(_WORDS) for _ in range(level))
    return f"Write '{text}' backwards. Answer with the letters only.", text[::-1]


def _letters(draw: _Draw, level: int) -> tuple[str, str]:
    words = " ".join(draw.of(_WORDS) for _ in range(2 * level))
    letter = words[0]
    return f"How often is the letter {letter} in '{words}'? Answer with the number only.", str(
        words.count(letter)
    )


_TASKS: tuple[tuple[str, int, Callable[[_Draw, int], tuple[str, str]]], ...] = (
    ("sum", 3, _sum),
    ("product", 2, _product),
    ("equation", 2, _equation),
    ("story", 2, _story),
    ("reversal", 2, _reversal),
    ("letters", 1, _letters),
)
"""A task's name, its number of levels, and what makes a question and its answer."""


def example_rows() -> list[dict[str, str | int]]:
    """The prompt set: `question`, `answer`, `source` (the task), `level` (from 1). No question twice.

    One question of every task at level 1 comes first, then those of the next levels, so that a few rows of
    the beginning (`--limit`) are of all tasks.
    """
    rows: list[tuple[int, int, dict[str, str | int]]] = []
    questions: set[str] = set()
    for source, levels, make in _TASKS:
        for level in range(1, levels + 1):
            draw, turn = _Draw(f"{source} {level}"), 0
            while turn < ROWS:
                question, answer = make(draw, level)
                if question not in questions:
                    questions.add(question)
                    row: dict[str, str | int] = {"question": question, "answer": answer}
                    rows.append((turn, level, row | {"source": source, "level": level}))
                    turn += 1
    return [row for _, _, row in sorted(rows, key=lambda each: each[:2])]


@configured()
def example(
    folder: Annotated[
        Path, Option("Where to write it. Default: here.", metavar="FOLDER", argument=True)
    ] = Path("."),
) -> None:
    """Write a small prompt set with answers, a reward function and a TRL script to try everything on.

    prompts.jsonl has 240 questions of six tasks in up to three levels. reward.py judges completions. train.py
    trains one round with TRL, as `gaincurate schedule run` calls it. Files that are there with other content
    are not overwritten.

    Example: gaincurate example
    """
    with output.reporting():
        from gaincurate.core.files import write_atomic

        lines = [json.dumps(row) + "\n" for row in example_rows()]
        contents = {"prompts.jsonl": "".join(lines).encode()}
        for path in sorted((Path(__file__).parent / "example_files").glob("*.py")):
            contents[path.name] = path.read_bytes()
        try:
            for name, content in contents.items():
                if (folder / name).exists() and (folder / name).read_bytes() != content:
                    raise InputError(
                        f"{folder / name} is there with other content: give another folder, such as "
                        "`gaincurate example demo`."
                    )
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(Path(error.filename or folder), error) from error
        for name, content in contents.items():
            write_atomic(folder / name, content)
        output.text(
            f"{folder / 'prompts.jsonl'}: {len(lines)} questions with answers, of {len(_TASKS)} tasks"
        )
        output.text(f"{folder / 'reward.py'}: a reward function, for TRL and for --verifier reward:correct")
        output.text(f"{folder / 'train.py'}: trains one round with TRL")
        output.text("next:")
        if folder != Path("."):
            output.text(f"  cd {shlex.quote(str(folder))}")
        for command in _COMMANDS:
            output.text(f"  {command}")
