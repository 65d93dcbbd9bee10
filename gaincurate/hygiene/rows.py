"""A set's prompts as messages, in batches, and their texts as they are compared.

Texts are normalised by NFC and not by NFKC, because NFKC makes the exponent of 2³ a digit, 23. Of LaTeX
only those spellings are made one in which copies of a question differ. No formula is understood.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gaincurate.core.columns import is_text
from gaincurate.core.prompts import Message, prompts_of
from gaincurate.core.schema import ID, take
from gaincurate.core.scored_set import ScoredSet

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
BATCH = 4096
SAMPLE = 2000
# Chinese and Japanese have no spaces between words: a character counts as one.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_TOKEN = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+|[^\w\s]")
_ASCII_WORD, _ASCII_TOKEN = re.compile("[a-z0-9]+"), re.compile(r"[a-z0-9]+|[^a-z0-9_\s]")
"""The same of lower-case ASCII, in half the time."""
_COMMAND = re.compile(r"\\([a-z]+)")
_SPELLINGS = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac"),
    **dict.fromkeys(("dbinom", "tbinom"), r"\binom"),
    **dict.fromkeys(("leq", "leqslant"), r"\le"),
    **dict.fromkeys(("geq", "geqslant"), r"\ge"),
    "neq": r"\ne",
    "rightarrow": r"\to",
    **dict.fromkeys(("ldots", "cdots", "dotsc", "dotsb"), r"\dots"),
    **dict.fromkeys(("mathrm", "textrm", "mbox"), r"\text"),
    **dict.fromkeys(("displaystyle", "textstyle", "quad", "qquad"), " "),
}
_SIZES = re.compile(r"\\(?:left|right|bigg?[lrm]?)\s*(?:(\.)|(?=[()\[\]{}|\\/<>]))")
_FORMULA = re.compile(r"(?<!\\)(?:\$\$?|\\[()\[\]])")
_SPACES = re.compile(r"(?<!\\)\\(?:(!)|[,;: ])")
_ARGUMENT = r"\s*(?:(\d)|\{([^{}]*)\})"
_FRACTION = re.compile(rf"\\frac{_ARGUMENT}{_ARGUMENT}")
_LONGEST = 64  # words of a template at one end
_SHORTEST = 4  # fewer words at an end are no template
_SHARE = 0.1  # of the rows have an end that is a template


def prompts(scored: ScoredSet, alive: Mask) -> Iterator[tuple[Ints, list[list[Message]]]]:
    """Places of rows in the set, and each one's own messages; a batch at a time, in source order.

    Args:
        scored: the set.
        alive: `[rows]`, which rows.
    """
    for places, table in batches(scored, alive):
        yield places, read(scored, table)


def batches(scored: ScoredSet, alive: Mask) -> Iterator[tuple[Ints, pa.Table]]:
    """The same as tables, with all columns of the set."""
    begin = 0
    for shard in scored.tables():
        for offset in range(0, shard.num_rows, BATCH):
            table = shard.slice(offset, BATCH)
            chosen = np.flatnonzero(alive[begin : begin + table.num_rows])
            if len(chosen) == table.num_rows:
                yield begin + chosen, table
            elif len(chosen):
                yield begin + chosen, take(table, pa.array(chosen))
            begin += table.num_rows


def read(scored: ScoredSet, table: pa.Table) -> list[list[Message]]:
    """The messages of a table's rows.

    Raises:
        OutputError: a row has none, so the set is not what its identity says.
    """
    source = scored.identity["source"]
    name, chat_text = (
        source["prompt_column"],
        source.get("chat_text") or source["prompt_column"] == "messages",
    )
    if name in table.column_names and is_text(table.schema.field(name).type) and not chat_text:
        return [[{"role": "user", "content": text}] for text in table.column(name).to_pylist()]
    return prompts_of(table, scored.identity, bare=True)


def sample(scored: ScoredSet, alive: Mask) -> list[list[Message]]:
    """At most 2,000 prompts, evenly spaced."""
    there = np.flatnonzero(alive)
    places = there[np.unique(np.linspace(0, len(there) - 1, min(SAMPLE, len(there))).astype(np.int64))]
    return read(scored, scored.take(places)) if len(places) else []


def ids(scored: ScoredSet, places: Sequence[int]) -> list[str]:
    """The ids of rows."""
    column = scored.column(ID).combine_chunks()
    values: list[str] = column.take(pa.array(places, pa.int64())).to_pylist()
    return values


def normal(text: str) -> str:
    """Composed characters, no upper case, one space for any white space, and one spelling of LaTeX."""
    return " ".join(_folded(text).split())


def _folded(text: str) -> str:
    """The same with white space as it is."""
    if text.isascii():  # the same, without a look at every character
        folded = text.lower()
    else:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    if "\\" in folded or "$" in folded:
        folded = _one_spelling(folded)
    return folded


def _one_spelling(text: str) -> str:
    r"""LaTeX as `\frac{1}{2}`, `(`, `\le` and `$`, whichever of their spellings it has."""
    text = _COMMAND.sub(lambda match: _SPELLINGS.get(match[1], match[0]), text)
    text = _SIZES.sub(lambda match: " " if match[1] else "", text)
    text = _SPACES.sub(lambda match: "" if match[1] else " ", _FORMULA.sub(" $ ", text))
    return _FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)


def words(text: str) -> list[str]:
    """Runs of letters and digits, normalised; signs are left out."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(_folded(text))


def tokens(text: str) -> list[str]:
    """Words, and each sign by itself: `x+1` and `x-1` differ."""
    return (_ASCII_TOKEN if text.isascii() else _TOKEN).findall(_folded(text))


def asked(messages: Sequence[Message]) -> str:
    """What a prompt asks: all its messages but the system's, one below the other."""
    if len(messages) == 1 and messages[0]["role"] == "user":  # most are
        return messages[0]["content"] or ""
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
        front = _depth(row, self._begins) if self._begins else 0
        back = _depth(row[::-1], self._ends) if self._ends else 0
        return row[front : len(row) - back] if front + back < len(row) else row


def _common(rows: Sequence[Sequence[str]], least: float) -> set[tuple[str, ...]]:
    """Every beginning that enough rows have."""
    common: set[tuple[str, ...]] = set()
    for depth in range(1, _LONGEST + 1):
        # A beginning is common only if the shorter one is.
        rows = [
            row for row in rows if len(row) >= depth and (depth == 1 or tuple(row[: depth - 1]) in common)
        ]
        counts = Counter(tuple(row[:depth]) for row in rows)
        fresh = {begin for begin, count in counts.items() if count >= least}
        if not fresh:
            break
        common |= fresh
    return common if depth > _SHORTEST else set()


def _depth(row: Sequence[str], common: set[tuple[str, ...]]) -> int:
    depth = 0
    while depth < len(row) and tuple(row[: depth + 1]) in common:
        depth += 1
    return depth if depth >= _SHORTEST else 0
