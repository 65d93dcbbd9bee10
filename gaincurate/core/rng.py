"""Random draws that are the same on every machine and library version.

The bits are raw Philox output keyed by seed and round. This module turns them into uniforms itself, because
NumPy may change how its distributions use the bits, and a plan must not change with NumPy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
Labels = npt.NDArray[np.int32]

# Streams apart from those of rounds and samples.
REFERENCES = 1 << 32  # of draws of reference prompts
PASSES = 1 << 33  # the first of those of passes over groups of prompts, one for each group
_EXACT = 2.0**20  # log weights up to here hold the noise to 1e-10
_BRIDGE = 64.0  # Gumbel noise of 52 bits spans 41: over a wider gap it never reaches
_BLOCK = 1 << 19  # items at once: a few arrays of 4 MB for a set of any size


def uniforms(seed: int, round_: int, stream: int, start: int, stop: int) -> Floats:
    """Numbers `start` to `stop` of a stream, `[stop - start]`, uniform on 2^52 points inside (0, 1).

    The seed is 0 to 2^64 - 1, a stream keeps uses within a round apart, and `start` is a multiple of 4.
    """
    if start % 4:
        raise ValueError(f"start {start} is no multiple of 4")
    raw = _raw(seed, round_, stream, start, stop - start) >> np.uint64(12)
    # One bit less than a double has, so that the half is exact and 1 is never reached.
    numbers: Floats = (raw.astype(np.float64) + 0.5) * 2.0**-52
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
    """A random key below 2^63 for each of 0 to `count` - 1, `[count]`; sorting by them gives a random order.

    The low bits of each key are the number itself, so no two keys are equal.
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


def log_softmin(distance: Floats, temperature: float) -> Floats:
    """Log weights to draw by, -distance / temperature up to a constant: equal distances stay equally likely.

    At a very small temperature the log weights are so large that rounding removes the noise of the draw. Then
    gaps between neighbouring distances that are wider than any noise are reduced, which changes no draw.

    Args:
        distance: `[items]`, finite, of each item from the target.
        temperature: positive.

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
    sizes: Ints, log_weights: Callable[[int, int], Floats], labels: Labels, *, seed: int, round_: int
) -> tuple[Ints, Floats]:
    """Distinct items, `sizes[g]` of each group g, as if drawn one after the other with these weights.

    Gumbel top-k: the largest of log weight plus Gumbel noise, in log space, so nothing underflows.

    Args:
        sizes: `[groups]`.
        log_weights: of the items from `start` to `stop`, `[stop - start]`, up to a constant; -inf for items
            that must not be drawn.
        labels: `[items]`, the group of each.
        seed: of the run.
        round_: of the run.

    Returns:
        Items and keys as of `largest_within`.
    """
    return largest_within(
        sizes, lambda start, stop: log_weights(start, stop) + _gumbel(seed, round_, start, stop), labels
    )


def gumbel_keys(log_weights: Floats, *, seed: int, round_: int) -> Floats:
    """Keys whose largest are those that `draw_within` draws with these weights, `[items]`."""
    keys = np.array(log_weights, np.float64)
    for start in range(0, len(keys), _BLOCK):
        block = keys[start : start + _BLOCK]
        block += _gumbel(seed, round_, start, start + len(block))
    return keys


def _gumbel(seed: int, round_: int, start: int, stop: int) -> Floats:
    """Gumbel noise of the items from `start` to `stop`, `[stop - start]`."""
    noise: Floats = -np.log(-np.log(uniforms(seed, round_, 0, start, stop)))
    return noise


def one_group(count: int) -> Labels:
    """Labels of items that are all of group 0, `[count]`; a read-only view of one value."""
    return np.broadcast_to(np.int32(0), (count,))


def largest(keys: Floats, size: int) -> Ints:
    """Places of the `size` largest keys, the largest first; of equal ones the first. None is NaN."""
    return largest_within(np.array([size]), lambda start, stop: keys[start:stop], one_group(len(keys)))[0]


def largest_within(sizes: Ints, keys: Callable[[int, int], Floats], labels: Labels) -> tuple[Ints, Floats]:
    """The `sizes[g]` largest of each group g, `[groups]`, or all that it has; of equal ones the first.

    `keys` gives those of the items from `start` to `stop`, `[stop - start]`, none NaN, and `labels` has the
    group of each item, `[items]`. Returns items and their keys, by group, the largest key first.
    """
    items, item_keys = np.zeros(0, np.int64), np.zeros(0)
    # An item whose key is not over its group's border cannot get in any more. In later blocks most are not,
    # so the work over a large set is this one comparison.
    border = np.where(sizes > 0, -np.inf, np.inf)
    is_open = sizes > 0
    for start in range(0, len(labels), _BLOCK):
        block_labels = labels[start : start + _BLOCK]
        block_keys = keys(start, start + len(block_labels))
        # A group that is not full takes any key, -inf too.
        places = np.flatnonzero((block_keys > border[block_labels]) | is_open[block_labels])
        items = np.concatenate([items, places + start])
        item_keys = np.concatenate([item_keys, block_keys[places]])
        item_labels = labels[items]
        by_key = np.lexsort((-item_keys, item_labels))  # stable: of equal keys the first item
        counts = np.bincount(item_labels, minlength=len(sizes))
        place = np.arange(len(by_key)) - np.repeat(np.cumsum(counts) - counts, counts)
        best = by_key[place < np.repeat(sizes, counts)]
        items, item_keys = items[best], item_keys[best]
        full = np.flatnonzero((counts >= sizes) & (sizes > 0))
        is_open[full] = False
        border[full] = item_keys[np.cumsum(np.minimum(counts, sizes))[full] - 1]
    return items, item_keys
