"""The gold answers first: takes prompts, yields those whose own answer does not get a reward of 1, and why.

A row whose own answer fails would give a pass rate of 0 to every model. What was found is kept beside the
set, so that it is found once. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from gaincurate.core.artifact import Json
from gaincurate.core.progress import Progress
from gaincurate.difficulty.prompts import Ints, Prompt, read_prompts
from gaincurate.difficulty.verify import VerifierConfig, VerifierPool, gold_completion
from gaincurate.difficulty.verify_worker import GoldProblem, Job
from gaincurate.files import digest_json, to_lines, write_json
from gaincurate.scored_set import ScoredSet

Broken = dict[str, str]
"""Ids of rows whose gold answer failed, and why; in the order of the prompts."""


def check_gold(
    scored: ScoredSet,
    pieces: Sequence[Ints | range],
    answer: str,
    config: VerifierConfig,
    pool: VerifierPool,
    progress: Progress,
) -> Broken:
    """Verify each row's own answer.

    Args:
        scored: the set.
        pieces: places of rows in it, cut into pieces that are held in memory one at a time.
        answer: the column with the answers.
        config: of the verifier.
        pool: its processes.
        progress: hears how far it is.
    """
    broken: Broken = {}
    progress.start(sum(map(len, pieces)), what="verifying gold")
    for places in pieces:
        prompts = read_prompts(scored, places, answer)
        usable = dict(_jobs(prompts, config, broken))
        for gc_id, verdict in zip(usable, pool.judge_all(usable.values()), strict=True):
            if verdict.reward is None:
                broken[gc_id] = verdict.reason or ""
            elif verdict.reward < 1:
                broken[gc_id] = f"the verifier gives the gold answer itself {verdict.reward:g}, not 1"
        progress.advance(len(prompts))
    return broken


def _jobs(prompts: Sequence[Prompt], config: VerifierConfig, broken: Broken) -> Iterator[tuple[str, Job]]:
    for prompt in prompts:
        try:
            completion = gold_completion(config, prompt.answer)
        except GoldProblem as problem:
            broken[prompt.gc_id] = str(problem)
            continue
        yield prompt.gc_id, Job(completion, prompt.answer, prompt.row)


def remembered(path: Path, what: Json) -> Broken | None:
    """What an earlier run found for the same rows and verifier, or None."""
    try:
        found = json.loads(path.read_bytes())
        broken: Broken = found["broken"]
    except (OSError, ValueError, LookupError, TypeError):
        return None  # it is found anew
    return broken if found.get("of") == digest_json(what) else None


def remember(path: Path, what: Json, broken: Broken) -> None:
    """Keep what was found.

    Raises:
        StorageError: the file system refused.
    """
    write_json(path, {"of": digest_json(what), "broken": broken})


def broken_lines(broken: Broken) -> bytes:
    """Lines of JSON, one for each row."""
    return to_lines({"gc_id": gc_id, "reason": reason} for gc_id, reason in broken.items())
