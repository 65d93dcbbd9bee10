"""Texts as they are compared: takes messages, yields normalised texts, words and tokens.

NFC and no NFKC, because NFKC makes the exponent of 2³ a digit, 23. Knows nothing of sets.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from gaincurate.scoring.columns import Message

# Chinese and Japanese have no spaces between words: a character counts as one.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_TOKEN = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+|[^\w\s]")
_LONGEST = 64  # words of a template at one end
_SHORTEST = 4  # fewer words at an end are no template
_SHARE = 0.1  # of the rows have an end that is a template


def normal(text: str) -> str:
    """Composed characters, no upper case, one space for any white space."""
    if text.isascii():  # the same, without a look at every character
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFD", text).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def words(text: str) -> list[str]:
    """Runs of letters and digits, normalised; signs are left out."""
    return _WORD.findall(normal(text))


def tokens(text: str) -> list[str]:
    """Words, and each sign by itself: `x+1` and `x-1` differ."""
    return _TOKEN.findall(normal(text))


def asked(messages: Sequence[Message]) -> str:
    """What a prompt asks: all its messages but the system's, one below the other."""
    return "\n".join(m["content"] or "" for m in messages if m["role"] != "system")


class Template:
    """Words with which so many prompts begin or end that they are instructions and no question.

    An end counts that at least a tenth of the rows have, and `least` rows, of four words or more. Nothing is
    taken off a prompt that would be empty without it.

    Args:
        rows: words (or tokens) of each row of a sample.
        least: rows with an end of that kind.
    """

    def __init__(self, rows: Sequence[Sequence[str]], least: float = 20) -> None:
        least = max(least, _SHARE * len(rows))
        self._begins = _common(rows, least)
        self._ends = _common([row[::-1] for row in rows], least)

    def strip(self, row: list[str]) -> list[str]:
        """The row without what it has of a template at its beginning and its end."""
        front = _depth(row, self._begins)
        back = _depth(row[::-1], self._ends)
        return row[front : len(row) - back] if front + back < len(row) else row


def _common(rows: Sequence[Sequence[str]], least: float) -> set[tuple[str, ...]]:
    """Every beginning that enough rows have."""
    found: set[tuple[str, ...]] = set()
    for depth in range(1, _LONGEST + 1):
        # A beginning is common only if the shorter one is.
        rows = [row for row in rows if len(row) >= depth and (depth == 1 or tuple(row[: depth - 1]) in found)]
        counts = Counter(tuple(row[:depth]) for row in rows)
        fresh = {begin for begin, count in counts.items() if count >= least}
        if not fresh:
            break
        found |= fresh
    return found


def _depth(row: Sequence[str], common: set[tuple[str, ...]]) -> int:
    depth = 0
    while depth < len(row) and tuple(row[: depth + 1]) in common:
        depth += 1
    return depth if depth >= _SHORTEST else 0
