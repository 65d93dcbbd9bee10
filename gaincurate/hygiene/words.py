"""Texts as they are compared: normalised, and as hashed words without a template.

Texts are normalised by NFC and not by NFKC, because NFKC turns 2³ into 23. Of LaTeX, only the spellings in
which copies of a question differ are unified. Formulas are not parsed.

A batch of texts is normalised and split at once in numpy, which takes a fifth of the time of a loop over
texts. So words are hashes of 64 bits, and a check that reports a match compares the texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from gaincurate.hygiene.rows import Ints, Mask

Hashes = npt.NDArray[np.uint64]
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
_COMMAND = re.compile(rf"\\({'|'.join(_SPELLINGS)})(?![a-z])")
_SIZES = re.compile(r"\\(?:left|right|bigg?[lrm]?)\s*(?:(\.)|(?=[()\[\]{}|\\/<>]))")
# Lookbehinds stand after the sign that they look behind, because a search for that sign is fast.
_BRACKETS = re.compile(r"\\(?<!\\\\)[()\[\]]")
_SPACES = re.compile(r"\\(?<!\\\\)(?:(!)|[,;:\s])")
_ARGUMENT = r"\s*(?:(\d)|\{([^{}\0]*)\})"  # of one text: a NUL ends it
_FRACTION = re.compile(rf"\\frac{_ARGUMENT}{_ARGUMENT}")
_LONGEST = 64  # words of a template at one end
_SHORTEST = 4  # fewer words at an end are no template
_SHARE = 0.1  # of the rows have an end that is a template
# Chinese and Japanese have no spaces between words: a character counts as one.
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_SPACE, _SIGN, _CHARACTER, _LETTER, _DIGIT, _UNSEEN = range(6)
_KINDS = np.full(0x110000, _UNSEEN, np.uint8)  # of code points, as far as they have come
_BLOCK = 1 << 20  # characters that are hashed at once: each takes 40 bytes
ODD = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(ODD), -1, 1 << 64))


def normal(texts: Sequence[str]) -> list[str]:
    """Composed characters, no upper case, one space for any white space, and one spelling of LaTeX."""
    return [" ".join(text.split()) for text in _folded(texts).split("\0")] if texts else []


def _folded(texts: Sequence[str]) -> str:
    """All texts as one, folded, with unchanged white space and a NUL between each two."""
    folded = "\0".join(map(_lower, texts))
    return _one_spelling(folded) if "\\" in folded or "$" in folded else folded


def _lower(text: str) -> str:
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if text.isascii():  # the same, without a look at every character
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def _one_spelling(text: str) -> str:
    r"""LaTeX as `\frac{1}{2}`, `(`, `\le` and `$`, from any of their spellings."""
    text = _COMMAND.sub(lambda match: _SPELLINGS[match[1]], text)
    text = _SIZES.sub(lambda match: " " if match[1] else "", text)
    parts = text.split(r"\$")  # an escaped dollar is no border of a formula
    text = r"\$".join(part.replace("$$", "$").replace("$", " $ ") for part in parts)
    text = _SPACES.sub(lambda match: "" if match[1] else " ", _BRACKETS.sub(" $ ", text))
    return _FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)


def mixed(values: Hashes) -> Hashes:
    """A bijection of 64 bits in which each bit depends on many."""
    hashes: Hashes = values ^ (values >> np.uint64(31))
    hashes *= ODD
    hashes ^= hashes >> np.uint64(29)
    return hashes


class Runs:
    """Hashes of any runs of a sequence, each in constant time (Rabin and Karp).

    Args:
        values: the sequence, `[values]`.
    """

    def __init__(self, values: Hashes) -> None:
        self._sums = np.zeros(len(values) + 1, np.uint64)
        bits = len(values).bit_length()
        np.cumsum(values * _powers(ODD, bits)[: len(values)], out=self._sums[1:])
        self._inverses = _powers(_INVERSE, bits)

    def of(self, begins: Ints, ends: Ints) -> Hashes:
        """The hashes of the runs from each of `begins` to before each of `ends`."""
        return mixed((self._sums[ends] - self._sums[begins]) * self._inverses[begins])


@lru_cache(8)
def _powers(base: np.uint64, bits: int) -> Hashes:
    """The first `2 ** bits` powers of a base, from the first one on."""
    powers: Hashes = np.multiply.accumulate(np.full(1 << bits, base))
    return powers


def among(values: Hashes, some: Hashes) -> Mask:
    """Whether each of `values` is in the sorted array `some`, `[values]`."""
    if not len(some):
        return np.zeros(len(values), bool)
    here: Mask = some[np.minimum(np.searchsorted(some, values), len(some) - 1)] == values
    return here


class Words:
    """Texts as runs of letters and digits, normalised and hashed.

    Args:
        texts: one of each row.
        signs: whether each sign is a word by itself (`x+1` and `x-1` differ), or is left out.

    Attributes:
        starts: where each row's words start, and the end, `[rows + 1]`.
        hashes: of all words, the same in every process, `[words]`.
        runs: of `hashes`.
        whole: a hash of all words of each row, `[rows]`.
        numbers: which words have a digit, `[words]`.
    """

    def __init__(self, texts: Sequence[str], *, signs: bool = False) -> None:
        self._text = "".join([_folded(texts), "\0" * bool(texts)])
        encoding, kind = ("ascii", "u1") if self._text.isascii() else ("utf-32-le", "<u4")
        points = np.frombuffer(self._text.encode(encoding, "surrogatepass"), kind)
        kinds = _kinds(points)
        letters, alone = kinds >= _LETTER, (kinds == _CHARACTER) | (signs & (kinds == _SIGN))
        changes = np.diff(letters, prepend=False, append=False)
        self._begins = np.flatnonzero(changes[:-1] & letters | alone)
        self._ends = np.flatnonzero(changes[1:] & letters | alone) + 1
        self.starts = np.searchsorted(self._begins, np.append(0, np.flatnonzero(points == 0)))
        self.hashes = np.zeros(len(self._begins), np.uint64)
        borders = np.searchsorted(self._begins, np.arange(0, len(points) + _BLOCK, _BLOCK))
        for first, last in pairwise(borders):
            begins, ends = self._begins[first:last], self._ends[first:last]
            if len(begins):
                runs = Runs(points[begins[0] : ends[-1]].astype(np.uint64))
                self.hashes[first:last] = runs.of(begins - begins[0], ends - begins[0])
        self.runs = Runs(self.hashes)
        self.whole = self.runs.of(self.starts[:-1], self.starts[1:])
        self.numbers: Mask = np.maximum.reduceat(kinds, self._begins) == _DIGIT  # the highest kind

    def __len__(self) -> int:
        return len(self.starts) - 1

    def between(self, begin: int, end: int) -> str:
        """The words from `begin` to before `end`, with a space between each two."""
        places = zip(self._begins[begin:end].tolist(), self._ends[begin:end].tolist(), strict=True)
        return " ".join(self._text[first:last] for first, last in places)


def _kinds(points: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.uint8]:
    """The kind of each character; an underscore separates as a space does."""
    kinds: npt.NDArray[np.uint8] = _KINDS.take(points)
    for point in np.unique(points[kinds == _UNSEEN]).tolist():
        letter = chr(point)
        if _CJK.match(letter):
            kind = _CHARACTER
        elif letter.isalnum():
            kind = _DIGIT if letter.isnumeric() else _LETTER
        else:
            kind = _SPACE if letter.isspace() or letter in "_\0" else _SIGN
        _KINDS[point] = kind
        kinds[points == point] = kind
    return kinds


class Template:
    """Instructions: words with which so many prompts begin or end that they are no part of the question.

    It has four words or more, and at least a tenth of the rows and `least` rows begin or end with it. It is
    not removed from a prompt that has no other words.

    Args:
        rows: a sample.
        least: rows with an end of that kind.
    """

    def __init__(self, rows: Words, least: float = 20) -> None:
        self._common = [_common(rows, max(least, _SHARE * len(rows)), back=back) for back in (False, True)]

    def without(self, rows: Words) -> tuple[Ints, Ints]:
        """Where each row's words begin and end without its template, both `[rows]`."""
        begins, ends = rows.starts[:-1], rows.starts[1:]
        front, back = (_depths(rows, self._common[back], back=back) for back in (False, True))
        rest = front + back < ends - begins
        return begins + front * rest, ends - back * rest


def _ends(rows: Words, chosen: Ints, depth: int, *, back: bool) -> tuple[Ints, Hashes]:
    """The chosen rows of at least `depth` words, and a hash of the first or last `depth` words of each."""
    chosen = chosen[rows.starts[chosen + 1] - rows.starts[chosen] >= depth]
    begins = rows.starts[chosen + 1] - depth if back else rows.starts[chosen]
    return chosen, rows.runs.of(begins, begins + depth)


def _common(rows: Words, least: float, *, back: bool) -> Hashes:
    """The hashes of all ends that at least `least` rows share, sorted."""
    common, chosen = list[Hashes](), np.arange(len(rows))
    for depth in range(1, _LONGEST + 1):
        chosen, hashes = _ends(rows, chosen, depth, back=back)
        values, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        chosen = chosen[(counts >= least)[inverse]]  # only these can have a longer one
        if not len(chosen):
            break
        common.append(values[counts >= least])
    return np.sort(np.concatenate(common)) if len(common) >= _SHORTEST else np.zeros(0, np.uint64)


def _depths(rows: Words, common: Hashes, *, back: bool) -> Ints:
    """The number of template words at that end of each row, `[rows]`."""
    depths, chosen, depth = np.zeros(len(rows), np.int64), np.arange(len(rows)), 0
    while len(chosen) and len(common):
        depth += 1
        chosen, hashes = _ends(rows, chosen, depth, back=back)
        chosen = chosen[among(hashes, common)]
        depths[chosen] = depth
    depths[depths < _SHORTEST] = 0
    return depths
