"""A small set, rolled out by a chat server of the tests, and what it has to come to."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import sets
from chat_server import ChatServer, answer_of
from gaincurate.core.artifact import IDENTITY, Artifact
from gaincurate.core.files import write_json
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.prompts import Completion, request_seed
from gaincurate.difficulty.rollout_set import KIND, ROLLOUTS, RolloutSet, write_shard


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
    made = []
    for i, sample in product(range(rows), range(samples)):
        drawn = request_seed(seed, f"id{i}", sample)
        right = drawn % 2 == 0
        made.append((f"id{i}", sample, answer_of(question(i)) if right else f"wrong {drawn}", float(right)))
    return made


def told(out: Path) -> list[tuple[str, int, str, float]]:
    return [(r["gc_id"], r["sample"], r["completion"], r["reward"]) for r in rows_of(out)]


def write_set(
    folder: Path,
    shards: list[dict[str, list[tuple[str, float | None]]]],
    *rejected: dict[str, Any],
    **identity: Any,
) -> Path:
    """A finished rollout set with these completions and rewards by prompt; its last shard has what was rejected."""
    folder.mkdir(parents=True)
    identity = {"format": 1, "kind": KIND} | identity
    write_json(folder / IDENTITY, identity)
    for index, prompts in enumerate(shards):
        judged = [
            (Completion(gc_id, k, text, "stop", k + 1, 5), reward, "why" if reward is None else None)
            for gc_id, completions in prompts.items()
            for k, (text, reward) in enumerate(completions)
        ]
        write_shard(folder, index, identity, judged, rejected if index == len(shards) - 1 else [])
    Artifact(folder, ROLLOUTS).finish(identity, len(shards))
    return folder
