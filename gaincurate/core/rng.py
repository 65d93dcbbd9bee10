"""Random draws that are the same on every machine and library version.

The bits are raw Philox output keyed by seed and round, and our own code turns them into uniforms: NumPy may
change how its distributions use their bits, and a plan must not change with it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

REFERENCES = 1 << 32
"""The stream that reference prompts are drawn from, apart from those of rounds and samples."""
_EXACT = 2.0**20  # log weights up to here hold the noise to 1e-10
_BRIDGE = 64.0  # Gumbel noise of 52 bits spans 41: over a wider gap it never reaches
_BLOCK = 1 << 19  # items at once: a few arrays of 4 MB, whatever the size of the set


def uniforms(seed: int, round_: int, stream: int, start: int, stop: int) -> Floats:
    """Numbers `start` to `stop` of a stream, `[stop - start]`, uniform on 2^52 points inside (0, 1).

    Args:
        seed: of the run, 0 to 2^64 - 1.
        round_: each round has numbers of its own.
        stream: keeps uses within a round apart.
        start: place of the first number, a multiple of 4.
        stop: place after the last number.
    """
    if start % 4:
        raise ValueError(f"start {start} is no multiple of 4")
    raw = _raw(seed, round_, stream, start, stop - start)
    # One bit less than a double has, so that the half is exact and 1 is never reached.
    numbers: Floats = ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return numbers


def _raw(seed: int, round_: int, stream: int, start: int, count: int) -> Keys:
    # As arrays: a list with a number past 2^63 in it would go through floating point.
    counter = np.array([start // 4, 0, round_, stream], np.uint64)
    generator = np.random.Philox(counter=counter, key=np.array([seed, 0], np.uint64))
    bits: Keys = generator.random_raw(count)
    return bits


def permutation(seed: int, round_: int, stream: int, count: int) -> Ints:
    """A random order of 0 to `count` - 1, `[count]`."""
    return between(keys_of(seed, round_, stream, count), 0, count)


def keys_of(seed: int, round_: int, stream: int, count: int) -> Keys:
    """A random key for each of 0 to `count` - 1, `[count]`, below 2^63; their order is a random order.

    Each number rides in the low bits of its key, so no two are equal.
    """
    low = np.uint64((1 << count.bit_length()) - 1)
    return _raw(seed, round_, stream, 0, count) >> np.uint64(1) & ~low | np.arange(count, dtype=np.uint64)


def between(keys: Keys, start: int, stop: int) -> Ints:
    """The numbers whose keys stand at places `start` to `stop` when sorted, `[stop - start]`.

    Changes `keys`, which are those of `keys_of`.
    """
    if start == stop:
        return np.zeros(0, np.int64)
    low = np.uint64((1 << len(keys).bit_length()) - 1)
    keys.partition((start, stop - 1))  # a part of a sort's work
    return (np.sort(keys[start:stop]) & low).astype(np.int64)


def draw(count: int, size: int, log_weights: Callable[[int, int], Floats], *, seed: int, round_: int) -> Ints:
    """`size` distinct of 0 to `count` - 1, as if drawn one after the other with these weights.

    Gumbel top-k: the largest of log weight plus Gumbel noise, in log space, so nothing underflows.

    Args:
        count: items; `size` at most.
        size: how many to draw.
        log_weights: of the items from `start` to `stop`, `[stop - start]`, finite, up to a constant.
        seed: of the run.
        round_: of the run.

    Returns:
        `[size]`, in drawn order.
    """
    ((items, _),) = draw_within(count, [size], log_weights, None, seed=seed, round_=round_)
    return items


def log_softmin(distance: Floats, temperature: float) -> Floats:
    """Log weights to draw by, -distance / temperature up to a constant: equal distances stay equally likely.

    A temperature next to nothing makes log weights beside which the draw's noise is lost in rounding. Then
    gaps between neighbouring distances that are wider than any noise are cut, which changes no draw.

    Args:
        distance: `[items]`, finite: how far each item is from what is best.
        temperature: over 0.

    Returns:
        `[items]`, the largest 0.
    """
    with np.errstate(over="ignore"):
        log_weights: Floats = -(distance - distance.min()) / temperature
        if log_weights.min() >= -_EXACT:
            return log_weights
        levels, places = np.unique(distance, return_inverse=True)
        gaps = np.minimum(np.diff(levels) / temperature, _BRIDGE)
    below: Floats = -np.concatenate([[0.0], np.cumsum(gaps)])
    return below[places]


def draw_within(
    count: int,
    sizes: list[int],
    log_weights: Callable[[int, int], Floats],
    kinds: Callable[[int, int], npt.NDArray[np.int8]] | None,
    *,
    seed: int,
    round_: int,
) -> list[tuple[Ints, Floats]]:
    """For each kind of item its `sizes[kind]` largest keys, or all it has: items and keys, best first.

    Args:
        count: items.
        sizes: at most so many of each kind.
        log_weights: see `draw`.
        kinds: the kind of each item from `start` to `stop`; None where all are of kind 0.
        seed: of the run.
        round_: of the run.
    """
    best: list[tuple[Ints, Floats]] = [(np.zeros(0, np.int64), np.zeros(0)) for _ in sizes]
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        keys = log_weights(start, stop) - np.log(-np.log(uniforms(seed, round_, 0, start, stop)))
        which = None if kinds is None else kinds(start, stop)
        for kind, size in enumerate(sizes):
            places = np.arange(stop - start) if which is None else np.flatnonzero(which == kind)
            items = np.concatenate([best[kind][0], places + start])
            item_keys = np.concatenate([best[kind][1], keys[places]])
            if len(items) > size:
                top = np.sort(largest(item_keys, size))
                items, item_keys = items[top], item_keys[top]
            best[kind] = (items, item_keys)
    ordered = []
    for items, item_keys in best:
        by_key = np.argsort(-item_keys, kind="stable")  # equal keys, where weights differ by 1e16, by number
        ordered.append((items[by_key], item_keys[by_key]))
    return ordered


def largest(keys: Floats, size: int) -> Ints:
    """Places of the `size` largest; of equal ones at the border the first."""
    if size == 0:
        return np.zeros(0, np.int64)
    border = np.partition(keys, len(keys) - size)[len(keys) - size]
    above = np.flatnonzero(keys > border)
    equal = np.flatnonzero(keys == border)[: size - len(above)]
    return np.concatenate([above, equal]).astype(np.int64)
