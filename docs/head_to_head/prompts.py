"""Writes the prompts and the examples of the study in docs/head-to-head.md.

Usage: python docs/head_to_head/prompts.py FOLDER. Needs reasoning-gym (`pip install 'gaincurate[demo]'`). The
same version of it gives the same files: `train.jsonl` (what the arms choose from), `heldout.jsonl` (what they
are judged on) and `supervised.jsonl` (what the model is made with). No text is in two of them.

Tasks and sizes were chosen before any strategy was run, so that the model's pass rates spread.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import reasoning_gym

SIZES = {"heldout": 20, "train": 90}
"""Prompts of each row of `TASKS`."""
PIECE = 4096
PIECES = 4  # of them a task; some have fewer texts than are asked for
FILES = {name: f"{name}.jsonl" for name in ("train", "heldout", "supervised")}


class Task(NamedTuple):
    """reasoning-gym's name and settings, and how many examples the model is shown at most."""

    name: str
    level: int
    examples: int
    settings: dict[str, object]


def _digits(terms: int, digits: int, least: int = 1) -> dict[str, object]:
    return {"min_terms": 2, "max_terms": terms, "min_digits": least, "max_digits": digits}


TASKS = [
    Task("chain_sum", 1, 4000, _digits(3, 1)),
    Task("chain_sum", 2, 8000, _digits(2, 2, 2)),
    Task("chain_sum", 3, 4000, _digits(3, 2, 2) | {"min_terms": 3}),
    Task("products", 1, 6000, _digits(2, 2)),
    Task("count_bits", 1, 4000, {"max_n": 2000}),
    Task("gcd", 1, 3000, {"max_value": 60}),
    Task("spell_backward", 1, 6000, {"min_word_len": 3, "max_word_len": 4}),
    Task("spell_backward", 2, 4000, {"min_word_len": 5, "max_word_len": 6}),
    Task("simple_equations", 1, 6000, {"min_terms": 2, "max_terms": 2, "max_value": 10}),
    Task("count_primes", 1, 4000, {"max_n": 50}),
    Task("letter_counting", 1, 4000, {"min_words": 1, "max_words": 2}),
    Task("letter_counting", 2, 3000, {"min_words": 3, "max_words": 4}),
    Task("number_sequence", 1, 4000, {"max_terms": 5, "max_value": 30, "min_value": 0, "max_complexity": 1}),
]

Row = dict[str, str | int]


def distinct(task: Task, seed: int, wanted: int, taken: set[str]) -> list[Row]:
    """Up to `wanted` prompts whose texts are not in `taken`, which grows by them."""
    found: list[Row] = []
    for piece in range(PIECES):
        data = reasoning_gym.create_dataset(task.name, size=PIECE, seed=1000 * seed + piece, **task.settings)
        for item in data:
            if len(found) == wanted:
                return found
            question = item["question"].strip()
            if question not in taken:
                taken.add(question)
                answer = str(item["answer"])
                found.append(
                    {"question": question, "answer": answer, "source": task.name, "level": task.level}
                )
    return found


def main(folder: Path) -> None:
    """Write the three files."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    parts: dict[str, list[Row]] = {name: [] for name in FILES}
    for seed, task in enumerate(TASKS):
        rows = distinct(task, seed, sum(SIZES.values()) + task.examples, taken)
        for name, size in SIZES.items():
            parts[name] += rows[:size]
            rows = rows[size:]
        parts["supervised"] += rows
    for name, rows in parts.items():
        (folder / FILES[name]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{FILES[name]}: {len(rows):,} prompts")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
