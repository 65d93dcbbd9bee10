"""Scored sets with source columns of any kind, as exports begin with; without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

import sets
from gaincurate.core.schema import Score, scored_table
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.rounds import start
from gaincurate.schedule.run import Run

SYSTEM = "Think first."
SHOTS = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]


def make_set(
    folder: Path,
    rows: list[dict[str, Any]] | pa.Table,
    *,
    prompt: str = "question",
    answer: str | None = "answer",
    tools: str | None = None,
    chat_text: bool = False,
    segmentation: dict[str, Any] | None = None,
    shards: int = 2,
) -> Path:
    """A finished set of these source rows with ids `id0000`, ... and angles that fall from row to row."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    count = table.num_rows
    source = {"fingerprint": "f", "rows": count, "prompt_column": prompt, "answer_column": answer}
    source |= ({"tools_column": tools} if tools else {}) | ({"chat_text": True} if chat_text else {})
    identity = {**sets.IDENTITY_OF_SETS, "source": source, "segmentation": segmentation or {}}
    size, tables = -(-count // shards), []
    for index in range(shards):
        part = table.slice(index * size, size)
        places = range(index * size, index * size + part.num_rows)
        scores = {k: Score(9, 2, 5, 1 - place / 100, 0.5, None, None) for k, place in enumerate(places)}
        tables.append(scored_table(part, [f"id{place:04d}" for place in places], scores))
    return sets.write_set(folder, tables, identity)


def begin(folder: Path, *, segmentation: dict[str, Any] | None = None, rows: int = 12, **options: Any) -> Run:
    """A run over such a set, four prompts a round at random, in `folder/run`."""
    if not (folder / "set").exists():
        make_set(folder / "set", sums(rows), segmentation=segmentation)
    given: dict[str, Any] = {"strategy": "uniform", "budget": 4, "rounds": 2, "seed": 3} | options
    return start(ScheduleConfig(scored=folder / "set", run=folder / "run", **given))


def sums(count: int = 6) -> list[dict[str, Any]]:
    """Rows with a text question, an answer and a number."""
    return [{"question": f"What is {k} plus {k}?", "answer": str(2 * k), "level": k} for k in range(count)]


def full(question: str) -> list[dict[str, str]]:
    """The messages of a question with `SYSTEM` and `SHOTS` put in."""
    return [{"role": "system", "content": SYSTEM}, *SHOTS, {"role": "user", "content": question}]
