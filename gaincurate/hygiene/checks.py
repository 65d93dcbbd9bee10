"""All checks of a set's rows, for people (`search` and `summarized`) and for filters (`leave_out`).

A filter drops rows check after check, so no row is counted twice, and no row is dropped as the duplicate of a
row that was dropped before.

Gold answers are not reliable if the verifier rejects them, or if equal questions have different ones.
Verifiers run in processes of their own, with limits, because a user's verifier may hang or end its process.
Other golds are no answers: sentinels such as `proof` or `N/A`, and words where values are expected. A word
may be a sentinel in one set and an answer in another, so the other rows decide: `unknown` is a label beside
`yes` and `no`, and no answer among numbers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.progress import Progress
from gaincurate.core.prompts import column_values
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.answers import accepted, choice_of, is_words
from gaincurate.difficulty.config import VerifierConfig
from gaincurate.difficulty.prompts import Prompt, answer_column, read_prompts
from gaincurate.difficulty.verifier import VerifierPool, check_gold, gold_completion
from gaincurate.difficulty.verify_worker import GoldProblem, Job
from gaincurate.errors import InputError
from gaincurate.hygiene.contamination import EvalIndex, contaminated
from gaincurate.hygiene.duplicates import Keys, duplicates, near_duplicates, repeats
from gaincurate.hygiene.options import CHECKS, HygieneOptions
from gaincurate.hygiene.rows import CheckResult, CheckSummary, Hit, Json, Mask, asked, batches, ids

Tell = Callable[[str], None]
_TEXT = 300  # characters of a prompt in an example
_ROWS = 1024  # in memory at once while answers are verified
ALWAYS = frozenset([
    "n/a", "#n/a", "n.a", "nan", "null", "notfound", "not found", "no answer", "answer not found",
    "no answer found", "not given", "not available", "not applicable", "not provided", "no ground truth",
    "placeholder", "tbd", "todo", "?", "??", "-", "--", "...", "\u2013", "\u2014",
])  # fmt: skip
"""Golds that are no answer in any set."""
AMONG_VALUES = frozenset([
    "proof", "proved", "proven", "prove", "qed", "q.e.d", "na", "none", "nil", "unknown", "missing", "error",
    "invalid", "failed", "omitted", "unavailable", "unsolved", "answer", "solution", "see solution",
    "see above",
])  # fmt: skip
"""Golds that are no answer where most golds are values."""
_LABELS = frozenset(["yes", "no", "true", "false", "even", "odd", "infinity", "undefined"])
_DIGITS = str.maketrans("123456789", "000000000")
_WRAPPED = re.compile(r"\\(?:text|mbox|mathrm|boxed)\{([^{}]*)\}")
Kind = Literal["sentinel", "doubtful", "value", "word", "label"]
"""Labels are words such as `yes`, choices, and texts in LaTeX."""
_WORDS = 0.1
"""The share of words up to which values are expected; a single word in any set."""


def search(
    scored: ScoredSet, options: HygieneOptions, *, dropping: bool = False, tell: Tell = lambda check: None
) -> list[CheckResult]:
    """Run the checks and return the rows that each of them flags.

    With `dropping`, a check ignores rows that an earlier check flagged. No row is flagged twice, and none is
    a duplicate of a row that is dropped. Without, only the check for near duplicates ignores duplicates.

    Args:
        scored: the set.
        options: the checks and their settings.
        dropping: whether the flagged rows are dropped.
        tell: called with each check's name before it begins.

    Raises:
        InputError: an option that does not go with the set, or a library that is not installed.
        SourceError: an evaluation set that cannot be read.
    """
    alive, results = np.ones(len(scored), bool), []
    of_golds: dict[str, CheckResult] = {}
    chosen = options.chosen()

    @cache  # one pass for all checks that compare questions
    def keys() -> Keys:
        return Keys(scored, alive, options.near if "near-duplicates" in chosen else 0)

    for check in chosen:
        tell(check)
        judged = check in ("broken-gold", "conflicting-gold")
        answer = answer_column(scored, options.answer_column, needed=judged)
        if check == "overlong":
            result = _overlong(scored, alive, options.max_prompt_tokens or 0)
        elif check in ("sentinel-gold", "word-gold"):
            # One pass for both, because rows with a sentinel do not count in the other check.
            of_golds = of_golds or unusable_golds(scored, alive, answer)
            result = of_golds[check]
        elif check == "broken-gold" and answer is not None and options.verifier is not None:
            result = broken_gold(scored, alive, answer, options.verifier)
        elif check == "conflicting-gold" and answer is not None:
            result = conflicting_gold(keys(), alive, answer, options.verifier)
        elif check == "contaminated":
            index = EvalIndex(options.evals, options.eval_column, options.ngram)
            result = contaminated(scored, alive, index, options.overlap)
        elif check == "near-duplicates":
            result = near_duplicates(keys(), alive, answer)
        else:
            result = duplicates(keys(), alive, answer)
        results.append(result)
        if dropping or check == "duplicates":
            alive[[hit.place for hit in result.hits]] = False
    return results


def summarized(scored: ScoredSet, result: CheckResult, examples: int) -> CheckSummary:
    """The summary of a check for a report, with at most `examples` rows."""
    hits, rows = result.hits[:examples], list[Json]()
    places = [place for hit in hits for place in (hit.place, hit.other) if place is not None]
    table = scored.take(places)
    beginnings = (text.strip()[:_TEXT] for text in asked(scored, table))
    texts = dict(zip(places, zip(table.column(ID).to_pylist(), beginnings, strict=True), strict=True))
    for hit in hits:
        gc_id, text = texts[hit.place]
        beside = hit.reason
        if hit.other is not None:
            other, other_text = texts[hit.other]
            beside = f"{other} ({hit.reason}): {other_text}"
        elif "shared" in hit.facts:
            beside = f"{hit.reason}: {hit.facts['shared']}"
        rows.append({"gc_id": gc_id, "text": text, "with": beside})
    share = len(result.hits) / len(scored) if len(scored) else 0.0
    return CheckSummary(result.check, len(result.hits), share, rows, result.note)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A mask of the remaining rows, `[rows]`, and the results of the checks; each dropped row is in one."""

    remaining: Mask
    results: list[CheckResult]

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows that each check dropped."""
        return {check.check: len(check.hits) for check in self.results}


def leave_out(scored: ScoredSet, options: HygieneOptions) -> LeftOut:
    """Find the rows to drop, check after check.

    Raises:
        InputError, SourceError: see `search`; or no row would stay.
    """
    stays = np.ones(len(scored), bool)
    left_out = LeftOut(stays, search(scored, options, dropping=True))
    stays[[hit.place for check in left_out.results for hit in check.hits]] = False
    if len(scored) and not stays.any():
        counts = ", ".join(f"{check} {count:,}" for check, count in left_out.counts.items())
        raise InputError(f"every row of {scored.folder} would be dropped ({counts}); nothing is written.")
    return left_out


def lines(scored: ScoredSet, results: Sequence[CheckResult]) -> Iterator[Json]:
    """{"gc_id", "row", "check", "reason", ...} for each hit, by row; more keys are the check's own facts.

    `with` is the id of the row that it collides with, where there is one.
    """
    hits = [(hit, result.check) for result in results for hit in result.hits]
    hits.sort(key=lambda each: (each[0].place, CHECKS.index(each[1])))
    named = ids(scored, [hit.place for hit, _ in hits])
    others = iter(ids(scored, [hit.other for hit, _ in hits if hit.other is not None]))
    for gc_id, (hit, check) in zip(named, hits, strict=True):
        line = {"gc_id": gc_id, "row": hit.place, "check": check, "reason": hit.reason}
        yield line | ({"with": next(others)} if hit.other is not None else {}) | hit.facts


def _overlong(scored: ScoredSet, alive: Mask, limit: int) -> CheckResult:
    counts = scored.column("gc_prompt_tokens").to_numpy()
    places = np.flatnonzero(alive & (counts > limit))
    hits = [
        Hit(place, f"{tokens:,} prompt tokens, more than {limit:,}", None, {"tokens": tokens})
        for place, tokens in zip(places.tolist(), counts[places].tolist(), strict=True)
    ]
    return CheckResult("overlong", hits, "tokens as scored: whole prompt, template and examples included")


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


def conflicting_gold(keys: Keys, alive: Mask, answer: str, config: VerifierConfig | None) -> CheckResult:
    """All rows of groups that ask the same and have different answers, because any of them may be right.

    Args:
        keys: of these rows at least.
        alive: `[rows]`, which rows to look at.
        answer: the column with the gold answers.
        config: of the verifier that compares answers; without it, differently written answers differ.

    Raises:
        InputError: the verifier cannot be loaded.
    """
    again = repeats(keys, alive, answer)
    pairs = [(row.place, row.head) for row in again if not row.same_answer]
    places = np.unique(np.array(pairs, np.int64))
    read = zip(places.tolist(), read_prompts(keys.scored, places, answer), strict=True)
    prompts: dict[int, Prompt] = dict(read)
    if config is not None:
        with VerifierPool(config) as pool:
            equal = {pair for pair in pairs if _equal(prompts[pair[0]], prompts[pair[1]], config, pool)}
        pairs = [pair for pair in pairs if pair not in equal]
    against = {head: row for row, head in reversed(pairs)}  # the first row of each group
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
    note = f"{len(against):,} questions; answers from {answer!r}, {judge}"
    return CheckResult("conflicting-gold", hits, note)


def _equal(first: Prompt, second: Prompt, config: VerifierConfig, pool: VerifierPool) -> bool:
    """Whether the verifier accepts either answer with the other as the gold one."""
    for answered, gold in ((first, second), (second, first)):
        try:
            job = Job(gold_completion(config, answered), gold.answer, gold.row)
        except GoldProblem:
            return False
        if (pool.submit(job).result().reward or 0.0) >= 1:
            return True
    return False


def unusable_golds(scored: ScoredSet, alive: Mask, answer: str | None) -> dict[str, CheckResult]:
    """Rows whose gold is no answer, for the checks "sentinel-gold" and "word-gold".

    The first finds null, empty golds and sentinels, the second words and phrases if nine of ten golds are
    values.

    Args:
        scored: the set.
        alive: `[rows]`, which rows to look at.
        answer: the column with the gold answers, where there is one.
    """
    by_kind, values = defaultdict[Kind, list[Hit]](list), 0
    for places, table in batches(scored, alive) if answer is not None else ():
        for place, gold in zip(places.tolist(), column_values(table, answer or ""), strict=True):
            items = (item for item in accepted(gold) if item is not None and item == item)
            texts = [text for item in items if (text := str(item).strip())]
            kind = _kind(tuple(text.translate(_DIGITS) for text in texts)) if texts else "sentinel"
            values += kind == "value"
            if kind in ("value", "label"):
                continue
            reason, facts = "the gold answer is null or empty", {}
            if texts:
                shown = texts[0] if len(texts[0]) <= 60 else texts[0][:60] + "..."
                facts, reason = {"answer": shown}, f"the gold answer is {shown!r}, which is no answer"
                if kind == "word":
                    reason = f"the gold answer is the text {shown!r}, where most golds are values"
            by_kind[kind].append(Hit(place, reason, None, facts))
    sentinels, words = by_kind["sentinel"], by_kind["word"]
    if values > 1 and len(words) <= max(1, _WORDS * (values + len(words))):
        sentinels = sorted([*sentinels, *by_kind["doubtful"]], key=lambda hit: hit.place)
    else:
        words = []
    hits = {"sentinel-gold": sentinels, "word-gold": words}
    return {check: CheckResult(check, of_check) for check, of_check in hits.items()}


@lru_cache(1 << 16)  # of golds that differ in digits only, one is judged
def _kind(texts: tuple[str, ...]) -> Kind:
    """The kind of a row's accepted gold answers; if their kinds differ, that of the first."""
    names, text = [_name(text) for text in texts], texts[0]
    if ALWAYS.issuperset(names):
        return "sentinel"
    if (ALWAYS | AMONG_VALUES).issuperset(names):
        return "doubtful"
    if names[0] in _LABELS:
        return "label"
    if is_words(text):
        return "label" if "\\" in text else "word"
    return "value" if choice_of(text) is None else "label"


def _name(text: str) -> str:
    """A gold in the form of the sentinels: lower case, single spaces, no brackets or final stop."""
    words = _WRAPPED.sub(r"\1", text).replace("_", " ").split()
    bare = " ".join(words).casefold().strip(" $*`\"'()[]{}<>")
    return bare if set(bare) <= {".", "?"} else bare.rstrip(" .!")
