from __future__ import annotations

import numpy as np

from gaincurate.schedule.base import Options, Pool
from gaincurate.schedule.strategies.uniform import FileOrder, Uniform


def test_file_order_is_the_order_of_the_set() -> None:
    chosen = FileOrder(Pool(5, 2, 0), Options())
    # The third round takes the fourth row of the next pass before its third, which it has already.
    assert [chosen.draw(round_).tolist() for round_ in range(4)] == [[0, 1], [2, 3], [4, 0], [1, 2]]


def test_passes_differ_and_seeds_differ() -> None:
    def draws(seed: int) -> list[list[int]]:
        chosen = Uniform(Pool(50, 50, seed), Options())
        return [chosen.draw(round_).tolist() for round_ in range(2)]

    first, second = draws(0), draws(1)
    assert first == draws(0)
    assert first[0] != first[1]
    assert first[0] != second[0]


def test_every_place_is_equally_likely_to_come_first() -> None:
    counts = np.zeros(10)
    for seed in range(5000):
        counts[Uniform(Pool(10, 1, seed), Options()).draw(0)[0]] += 1
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # .999 quantile of chi-square with 9 degrees
