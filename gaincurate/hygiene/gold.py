"""Gold answers that cannot be trusted: the verifier refuses them, or equal questions have different ones.

Verifiers run in processes of their own, with limits, because a user's verifier may hang or end its process.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.progress import Progress
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.prompts import Prompt, parts, read_prompts
from gaincurate.difficulty.verifier import VerifierConfig, VerifierPool, check_gold, gold_completion
from gaincurate.difficulty.verify_worker import GoldProblem, Job
from gaincurate.hygiene.duplicates import first_of_each, records_of
from gaincurate.hygiene.findings import CheckResult, Hit
from gaincurate.hygiene.rows import Mask

_ROWS = 1024  # in memory at once while answers are verified


def broken_gold(scored: ScoredSet, alive: Mask, answer: str, config: VerifierConfig) -> CheckResult:
    """Rows whose own answer does not get a reward of 1.

    Args:
        scored: the set.
        alive: `[rows]`, which rows to look at.
        answer: the column with the gold answers.
        config: of the verifier.

    Raises:
        InputError: the verifier cannot be loaded.
    """
    with VerifierPool(config) as pool:
        broken = check_gold(scored, parts(np.flatnonzero(alive), _ROWS), answer, config, pool, Progress())
    places = pc.index_in(pa.array(list(broken), pa.string()), value_set=scored.column(ID).combine_chunks())
    hits = [Hit(place, reason) for place, reason in zip(places.to_pylist(), broken.values(), strict=True)]
    hits.sort(key=lambda hit: hit.place)
    return CheckResult("broken-gold", hits, f"verifier {config.verifier}, answers from {answer!r}")


def conflicting_gold(
    scored: ScoredSet, alive: Mask, answer: str, config: VerifierConfig | None
) -> CheckResult:
    """Rows that ask the same and have different answers: all of such a group, for who says which is right?

    Args:
        scored: the set.
        alive: `[rows]`, which rows to look at.
        answer: the column with the gold answers.
        config: of the verifier that says whether two answers are one; without it they must be written alike.

    Raises:
        InputError: the verifier cannot be loaded.
    """
    places, records = records_of(scored, alive, answer)
    first = first_of_each(records)
    differ = np.flatnonzero(records["answer"] != records["answer"][first])
    pairs = [(int(places[row]), int(places[first[row]])) for row in differ]
    prompts = _prompts(scored, pairs, answer)
    if config is not None:
        with VerifierPool(config) as pool:
            pairs = [
                (row, head) for row, head in pairs if not _equal(prompts[row], prompts[head], config, pool)
            ]
    against: dict[int, int] = {}
    for row, head in pairs:
        against.setdefault(head, row)
    others = dict(pairs)
    hits = []
    for row, head in zip(places.tolist(), places[first].tolist(), strict=True):
        if head in against:
            other = others.get(row, against[head])
            its_answer, other_answer = (prompts.get(place, prompts[head]).answer for place in (row, other))
            facts = {"answer": its_answer, "other_answer": other_answer}
            reason = f"the same question, answers {its_answer!r:.60} and {other_answer!r:.60}"
            hits.append(Hit(row, reason, other, facts))
    judge = f"judged by {config.verifier}" if config is not None else "compared as they are written"
    return CheckResult(
        "conflicting-gold", hits, f"{len(against):,} questions; answers from {answer!r}, {judge}"
    )


def _prompts(scored: ScoredSet, pairs: list[tuple[int, int]], answer: str) -> dict[int, Prompt]:
    places = np.unique(np.array(pairs, np.int64))
    return dict(zip(places.tolist(), read_prompts(scored, places, answer), strict=True))


def _equal(first: Prompt, second: Prompt, config: VerifierConfig, pool: VerifierPool) -> bool:
    """Whether either answer is right where the other is the gold one."""
    for answered, gold in ((first, second), (second, first)):
        try:
            job = Job(gold_completion(config, answered.answer), gold.answer, gold.row)
        except GoldProblem:
            return False
        if (pool.submit(job).result().reward or 0.0) >= 1:
            return True
    return False
