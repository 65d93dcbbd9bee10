"""Writes the prompts and the examples of the study in docs/head-to-head.md.

Usage: python docs/studies/head_to_head/prompts.py FOLDER.
Needs reasoning-gym (`pip install 'gaincurate[demo]'`). The same version of it gives the same files:
`train.jsonl` (what the arms choose from), `heldout.jsonl` (what they are judged on) and `supervised.jsonl`
(what the model is made with). No text is in two of them.

Of some tasks a share of the examples shows a habit in place of the answer: a full stop behind it, an equals
sign before it, the word unturned. So the model knows more than it says, as models do before RL, and prompts
that are rarely right can be learnt. Tasks, sizes and habits were chosen before any strategy but `uniform` was
run.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import NamedTuple

import reasoning_gym

from gaincurate.core.files import write_atomic

HELDOUT_SHARE = 0.2
"""Of a task's prompts."""
PIECE = 4096
PIECES = 4  # of them a task; some have fewer texts than are asked for
FILES = {name: f"{name}.jsonl" for name in ("train", "heldout", "supervised")}


class Task(NamedTuple):
    """reasoning-gym's name and settings, prompts in both sets, examples for the model at most; and
    what so many of the examples say in place of the answer.
    """

    name: str
    level: int
    prompts: int
    examples: int
    settings: dict[str, object]
    habit: str = "{answer}"
    share: float = 0.0


def _digits(terms: int, digits: int, least: int = 1) -> dict[str, object]:
    return {"min_terms": 2, "max_terms": terms, "min_digits": least, "max_digits": digits}


DOT, EQUALS, UNTURNED = "{answer}.", "= {answer}", "{turned}"
TASKS = [
    Task("chain_sum", 1, 120, 4000, _digits(3, 1), DOT, 0.5),
    Task("chain_sum", 2, 60, 2500, _digits(2, 2, 2)),
    Task("chain_sum", 3, 50, 1000, _digits(3, 2, 2) | {"min_terms": 3}),
    Task("products", 1, 60, 1500, _digits(2, 2)),
    Task("count_bits", 1, 100, 1500, {"max_n": 2000}, EQUALS, 0.6),
    Task("gcd", 1, 100, 2000, {"max_value": 60}),
    Task("spell_backward", 1, 240, 6000, {"min_word_len": 3, "max_word_len": 4}),
    Task("spell_backward", 2, 160, 5000, {"min_word_len": 5, "max_word_len": 6}, UNTURNED, 0.5),
    Task("simple_equations", 1, 120, 5000, {"min_terms": 2, "max_terms": 2, "max_value": 10}, EQUALS, 0.7),
    Task("count_primes", 1, 80, 1500, {"max_n": 50}),
    Task("letter_counting", 1, 200, 4000, {"min_words": 1, "max_words": 1}),
    Task("letter_counting", 2, 120, 3000, {"min_words": 3, "max_words": 4}, DOT, 0.92),
    Task(
        "number_sequence", 1, 60, 1500, {"max_terms": 5, "max_value": 30, "min_value": 0, "max_complexity": 1}
    ),
]

Row = dict[str, str | int]


def distinct(task: Task, seed: int, wanted: int, taken: set[str], share: float = 1.0) -> list[Row]:
    """Up to `wanted` prompts whose texts are not in `taken`, which grows by them.

    No answer has more than this share of them.
    """
    found: list[Row] = []
    answers: Counter[str] = Counter()
    for piece in range(PIECES):
        data = reasoning_gym.create_dataset(task.name, size=PIECE, seed=1000 * seed + piece, **task.settings)
        for item in data:
            if len(found) == wanted:
                return found
            question, answer = item["question"].strip(), str(item["answer"])
            if question not in taken and answers[answer] < math.ceil(share * wanted):
                taken.add(question)
                answers[answer] += 1
                found.append(
                    {"question": question, "answer": answer, "source": task.name, "level": task.level}
                )
    return found


def shown(task: Task, seed: int, rows: list[Row]) -> list[Row]:
    """The examples of a task, with its habit."""
    random, found = Random(seed), []
    for row in rows:
        answer = str(row["answer"])
        if random.random() < task.share:
            answer = task.habit.format(answer=answer, turned=answer[::-1])
        found.append(row | {"answer": answer})
    return found


def main(folder: Path) -> None:
    """Write the three files."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    parts: dict[str, list[Row]] = {name: [] for name in FILES}
    for seed, task in enumerate(TASKS):
        rows = distinct(task, seed, task.prompts + task.examples, taken)
        judged = round(HELDOUT_SHARE * task.prompts)
        parts["heldout"] += rows[:judged]
        parts["train"] += rows[judged : task.prompts]
        parts["supervised"] += shown(task, seed, rows[task.prompts :])
    for name, rows in parts.items():
        # Whole or not there: the study goes on from what it finds.
        write_atomic(folder / FILES[name], "".join(json.dumps(row) + "\n" for row in rows).encode())
        print(f"{FILES[name]}: {len(rows):,} prompts")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
