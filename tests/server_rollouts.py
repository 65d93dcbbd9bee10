"""A small set, rolled out by a chat server of the tests, and what it has to come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sets
from chat_server import ChatServer, answer_of
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.prompts import request_seed
from gaincurate.difficulty.rollout_set import RolloutSet


def question(i: int) -> str:
    return f"three times {i}?"


def scored(folder: Path, rows: int = 12) -> Path:
    """A finished set with an answer column."""
    more = [{"gc_prompt_tokens": 9, "answer": answer_of(question(i))} for i in range(rows)]
    shard = [sets.scored_row(f"id{i}", question(i)) | given for i, given in enumerate(more)]
    return sets.make_set(folder, [shard], answer="answer")


def config(folder: Path, server: ChatServer | str, **options: Any) -> RolloutConfig:
    if not (folder / "scored").exists():
        scored(folder / "scored")
    url = server if isinstance(server, str) else server.url
    given: dict[str, Any] = {"scored": folder / "scored", "out": folder / "out", "verifier": "exact"}
    given |= {"server": url, "samples": 4, "backoff": 0.0, "verify_workers": 1, "concurrency": 4}
    return RolloutConfig(**given | options)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for table in RolloutSet(out).tables() for row in table.to_pylist()]


def expected(rows: int = 12, samples: int = 4, seed: int = 0) -> list[tuple[str, int, str, float]]:
    found = []
    for i in range(rows):
        for sample in range(samples):
            drawn = request_seed(seed, f"id{i}", sample)
            text = answer_of(question(i)) if drawn % 2 == 0 else f"wrong {drawn}"
            found.append((f"id{i}", sample, text, float(drawn % 2 == 0)))
    return found


def told(out: Path) -> list[tuple[str, int, str, float]]:
    return [(r["gc_id"], r["sample"], r["completion"], r["reward"]) for r in rows_of(out)]
