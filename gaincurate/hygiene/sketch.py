"""Likeness of token lists: takes tokens, yields triples, their Jaccard index, and MinHash sketches (rensa).

Knows nothing of sets or rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gaincurate.errors import InputError

if TYPE_CHECKING:
    from rensa import RMinHash, RMinHashLSH

RECALL = 0.999
_SHINGLE = 3
_HASHES, _SEED = 120, 42
_ODD = np.uint64(0x9E3779B97F4A7C15)


def shingles(row: list[str]) -> set[str]:
    """Each three tokens that follow one another; what is shorter is one by itself."""
    if len(row) <= _SHINGLE:
        return {" ".join(row)}
    return {" ".join(triple) for triple in zip(row, row[1:], row[2:], strict=False)}


def jaccard(first: set[str], second: set[str]) -> float:
    """What two sets share, of all that they hold."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


def bands(threshold: float) -> int:
    """The fewest bands of equal size with which a pair at the threshold is found `RECALL` of the time."""
    sizes = [size for size in range(_HASHES, 0, -1) if _HASHES % size == 0]
    found = (s for s in sizes if 1 - (1 - threshold**s) ** (_HASHES // s) >= RECALL)
    return _HASHES // next(found, 1)


class Sketches:
    """MinHash sketches of one threshold.

    Args:
        threshold: of the Jaccard index.

    Raises:
        InputError: a threshold out of range, or rensa is not installed.
    """

    def __init__(self, threshold: float) -> None:
        if not 0.3 <= threshold <= 1:
            raise InputError(f"--near {threshold:g}: the similarity is expected from 0.3 to 1.")
        try:
            import rensa
        except ImportError as error:
            raise InputError(
                "near duplicates need rensa: `pip install 'gaincurate[hygiene]'`, or leave them out."
            ) from error
        self._rensa: Any = rensa
        self._threshold, self.bands = threshold, bands(threshold)

    def of(self, sets: Iterable[set[str]]) -> list[RMinHash]:
        """One sketch for each set of shingles."""
        found: list[RMinHash] = self._rensa.RMinHash.from_token_sets(sets, _HASHES, _SEED)
        return found

    def index(self) -> RMinHashLSH:
        """An empty index: of the sketches in it, those that share a band with one that is asked for."""
        return self._rensa.RMinHashLSH(self._threshold, _HASHES, self.bands)

    def keys(self, sets: Iterable[set[str]]) -> npt.NDArray[np.uint64]:
        """`[sets, bands]`: equal where two sets share a band."""
        matrix = self._rensa.RMinHash.digest_matrix_from_token_sets(sets, _HASHES, _SEED)
        values = np.array(matrix.to_rows(), np.uint64).reshape(-1, self.bands, _HASHES // self.bands)
        found = np.zeros(values.shape[:2], np.uint64)
        for k in range(values.shape[2]):
            found = (found + values[:, :, k]) * _ODD
            found ^= found >> np.uint64(29)
        return found


def shared(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """`[rows]`: which rows share a band with any other; `keys` is `[rows, bands]`."""
    found = np.zeros(len(keys), bool)
    for band in keys.T:
        order = np.argsort(band)
        equal = band[order[1:]] == band[order[:-1]]
        found[order[1:][equal]] = found[order[:-1][equal]] = True
    return found
