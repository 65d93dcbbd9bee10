"""Gold answers that are no answers: sentinels such as `proof` or `N/A`, and words where values are expected.

A word may be a sentinel in one set and an answer in another, so the other rows decide: `unknown` is a label
beside `yes` and `no`, and no answer among numbers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache
from typing import Any, Literal

from gaincurate.core.prompts import column_values
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.answers import accepted, choice_of, is_words
from gaincurate.hygiene.findings import CheckResult, Hit
from gaincurate.hygiene.rows import Mask, batches

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
_SPACES = re.compile(r"[\s_]+")
_WRAPPED = re.compile(r"\\(?:text|mbox|mathrm|boxed)\{([^{}]*)\}")
Kind = Literal["sentinel", "doubtful", "value", "word", "label"]
"""Labels are words such as `yes`, choices, and texts in LaTeX."""
_WORDS = 0.1
"""The share of words up to which values are expected; a single word in any set."""


def unusable_gold(check: str, scored: ScoredSet, alive: Mask, answer: str | None) -> CheckResult:
    """Rows whose gold is no answer.

    Args:
        check: "sentinel-gold" (null, empty or a sentinel), or "word-gold" (a word or a phrase where nine of
            ten golds are values).
        scored: the set.
        alive: `[rows]`, which rows to look at.
        answer: the column with the gold answers, where there is one.
    """
    by_kind, values_expected = _by_kind(scored, alive, answer)
    among_values: Kind = "word" if check == "word-gold" else "doubtful"
    hits = by_kind["sentinel"] if check == "sentinel-gold" else []
    hits = [*hits, *(by_kind[among_values] if values_expected else [])]
    return CheckResult(check, sorted(hits, key=lambda hit: hit.place))


def _by_kind(scored: ScoredSet, alive: Mask, answer: str | None) -> tuple[dict[Kind, list[Hit]], bool]:
    """Golds that may be no answers by kind, in the order of the set, and whether most golds are values."""
    by_kind, values = defaultdict[Kind, list[Hit]](list), 0
    for places, table in batches(scored, alive) if answer is not None else ():
        for place, gold in zip(places.tolist(), column_values(table, answer or ""), strict=True):
            texts = [text for item in accepted(gold) if (text := _text(item))]
            kind = _kind(tuple(texts)) if texts else "sentinel"
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
    words = len(by_kind["word"])
    return by_kind, values > 1 and words <= max(1, _WORDS * (values + words))


@lru_cache(1 << 16)  # most sets have few distinct golds
def _kind(texts: tuple[str, ...]) -> Kind:
    """The kind of a row's gold answers, any of which is right. If their kinds differ, the first counts."""
    names, text = {_name(text) for text in texts}, texts[0]
    if names <= ALWAYS:
        return "sentinel"
    if names <= ALWAYS | AMONG_VALUES:
        return "doubtful"
    if _name(text) in _LABELS:
        return "label"
    if is_words(text):
        return "label" if "\\" in text else "word"
    return "value" if choice_of(text) is None else "label"


def _text(gold: Any) -> str:
    """A gold as text, empty for null and NaN."""
    return "" if gold is None or gold != gold else str(gold).strip()


def _name(text: str) -> str:
    """A gold as it is looked up among sentinels: lower case, single spaces, no brackets or final stop."""
    bare = _SPACES.sub(" ", _WRAPPED.sub(r"\1", text)).casefold().strip(" $*`\"'()[]{}<>")
    return bare if set(bare) <= {".", "?"} else bare.rstrip(" .!")
