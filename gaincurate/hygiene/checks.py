"""All checks of a set's rows, for people (`search` and `finding`) and for filters (`leave_out`).

A filter drops rows check after check, so that no row is counted twice and no row goes because of a double
that is gone already.

Gold answers cannot be trusted where the verifier refuses them, or where equal questions have different ones.
Verifiers run in processes of their own, with limits, because a user's verifier may hang or end its process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.progress import Progress
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.prompts import Prompt, answer_column, read_prompts
from gaincurate.difficulty.verifier import VerifierConfig, VerifierPool, check_gold, gold_completion
from gaincurate.difficulty.verify_worker import GoldProblem, Job
from gaincurate.errors import InputError
from gaincurate.hygiene.contamination import EvalIndex, contaminated
from gaincurate.hygiene.duplicates import duplicates, near_duplicates, repeats
from gaincurate.hygiene.findings import CHECKS, CheckResult, Finding, Hit, Json
from gaincurate.hygiene.golds import unusable_gold
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.hygiene.rows import Mask, asked, ids

Tell = Callable[[str], None]
_TEXT = 300  # characters of a prompt in an example
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
        rows = np.flatnonzero(alive)
        pieces = [rows[begin : begin + _ROWS] for begin in range(0, len(rows), _ROWS)]
        broken = check_gold(scored, pieces, answer, pool, Progress())
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
    again = repeats(scored, alive, answer)
    pairs = [(row.place, row.head) for row in again if not row.same_answer]
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
    heads = {head: head for head in against} | {row.place: row.head for row in again if row.head in against}
    hits = []
    for row, head in sorted(heads.items()):
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
            job = Job(gold_completion(config, answered), gold.answer, gold.row)
        except GoldProblem:
            return False
        if (pool.submit(job).result().reward or 0.0) >= 1:
            return True
    return False


def search(
    scored: ScoredSet, options: HygieneOptions, *, dropping: bool = False, tell: Tell | None = None
) -> list[CheckResult]:
    """Every row that a check found.

    With `dropping`, a row that one check found is gone for those after it, so no row is found twice and none
    stays because its only double was dropped. Without, only near duplicates leave duplicates out.

    Args:
        scored: the set.
        options: what to look for.
        dropping: whether what is found is dropped.
        tell: called with each check's name before it begins.

    Raises:
        InputError: an option that does not go with the set, or a library that is not installed.
        SourceError: an evaluation set that cannot be read.
    """
    alive, results = np.ones(len(scored), bool), []
    for check in options.chosen():
        if tell is not None:
            tell(check)
        results.append(_made(check, scored, alive.copy(), options))
        if dropping or check == "duplicates":
            alive[[hit.place for hit in results[-1].hits]] = False
    return results


def finding(scored: ScoredSet, result: CheckResult, examples: int) -> Finding:
    """The summary of one check for a report."""
    hits = result.hits[:examples]
    rows = _texts(scored, [hit.place for hit in hits])
    others = iter(_texts(scored, [hit.other for hit in hits if hit.other is not None]))
    shown = []
    for hit, (gc_id, text) in zip(hits, rows, strict=True):
        beside = hit.reason
        if hit.other is not None:
            other, other_text = next(others)
            beside = f"{other} ({hit.reason}): {other_text}"
        elif "shared" in hit.facts:
            beside = f"{hit.reason}: {hit.facts['shared']}"
        shown.append({"gc_id": gc_id, "text": text, "with": beside})
    share = len(result.hits) / len(scored) if len(scored) else 0.0
    return Finding(result.check, len(result.hits), share, shown, result.note)


def _texts(scored: ScoredSet, places: Sequence[int]) -> list[tuple[str, str]]:
    if not places:
        return []
    table = scored.take(places)
    texts = [text.strip()[:_TEXT] for text in asked(scored, table)]
    return list(zip(table.column(ID).to_pylist(), texts, strict=True))


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Which rows stay, and what was found of the others; each of those once."""

    kept: Mask
    found: list[CheckResult]

    @property
    def counts(self) -> dict[str, int]:
        """Rows that each check took out."""
        return {check.check: len(check.hits) for check in self.found}

    def lines(self, scored: ScoredSet) -> Iterator[Json]:
        """One line for each row that is gone, in the order of the set; see `lines`."""
        return lines(scored, self.found)


def leave_out(scored: ScoredSet, options: HygieneOptions, *, tell: Tell | None = None) -> LeftOut:
    """Find the rows to drop, check after check.

    Raises:
        InputError, SourceError: see `search`; or no row would stay.
    """
    by_check = search(scored, options, dropping=True, tell=tell)
    stays = np.ones(len(scored), bool)
    for check in by_check:
        stays[[hit.place for hit in check.hits]] = False
    if len(scored) and not stays.any():
        counts = ", ".join(f"{check.check} {len(check.hits):,}" for check in by_check)
        raise InputError(f"every row of {scored.folder} would be dropped ({counts}); nothing is written.")
    return LeftOut(stays, by_check)


def lines(scored: ScoredSet, results: Sequence[CheckResult]) -> Iterator[Json]:
    """{"gc_id", "row", "check", "reason", ...} for each hit, by row; more keys are the check's own facts.

    `with` is the id of the row that it collides with, where there is one.
    """
    hits = sorted(
        (
            (hit.place, CHECKS.index(result.check), result.check, hit)
            for result in results
            for hit in result.hits
        ),
        key=lambda key: key[:2],
    )
    named = ids(scored, [place for place, *_ in hits])
    others = iter(ids(scored, [hit.other for *_, hit in hits if hit.other is not None]))
    for gc_id, (place, _, check, hit) in zip(named, hits, strict=True):
        line = {"gc_id": gc_id, "row": place, "check": check, "reason": hit.reason}
        yield line | ({"with": next(others)} if hit.other is not None else {}) | hit.facts


def _made(check: str, scored: ScoredSet, alive: Mask, options: HygieneOptions) -> CheckResult:
    """The result of one check."""
    judged = check in ("broken-gold", "conflicting-gold")
    answer = answer_column(scored, options.answer_column, needed=judged)
    if check == "overlong":
        return _overlong(scored, alive, options.max_prompt_tokens or 0)
    if check == "contaminated":
        index = EvalIndex(options.evals, options.eval_column, options.ngram)
        return contaminated(scored, alive, index, options.overlap)
    if check == "near-duplicates":
        return near_duplicates(scored, alive, options.near, answer)
    if check == "broken-gold" and answer is not None and options.verifier is not None:
        return broken_gold(scored, alive, answer, options.verifier)
    if check == "conflicting-gold" and answer is not None:
        return conflicting_gold(scored, alive, answer, options.verifier)
    if check in ("sentinel-gold", "word-gold"):
        return unusable_gold(check, scored, alive, answer)
    return duplicates(scored, alive, answer)


def _overlong(scored: ScoredSet, alive: Mask, limit: int) -> CheckResult:
    counts = scored.column("gc_prompt_tokens").to_numpy()
    hits = [
        Hit(place, f"{tokens:,} prompt tokens, more than {limit:,}", None, {"tokens": tokens})
        for place, tokens in enumerate(counts.tolist())
        if alive[place] and tokens > limit
    ]
    return CheckResult("overlong", hits, "tokens as scored: whole prompt, template and examples included")
