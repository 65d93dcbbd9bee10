from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.schedule.base import Options, Pool
from gaincurate.schedule.strategies.uniform import FileOrder, Uniform


@given(st.integers(1, 30), st.data(), st.integers(0, 5), st.sampled_from([Uniform, FileOrder]))
def test_each_round_is_distinct_and_each_pass_has_everything_once(
    rows: int, data: st.DataObject, seed: int, kind: type[Uniform]
) -> None:
    budget = data.draw(st.integers(1, rows))
    chosen = kind(Pool(rows, budget, seed), Options())
    drawn: list[int] = []
    for round_ in range(12):
        ranks = chosen.draw(round_).tolist()
        assert len(set(ranks)) == budget
        drawn += ranks
        # A state restored in another object goes on alike.
        again = kind(Pool(rows, budget, seed), Options())
        again.load_state_dict(json.loads(json.dumps(chosen.state_dict())))
        chosen = again
    whole = len(drawn) // rows
    assert np.bincount(drawn[: whole * rows], minlength=rows).tolist() == [whole] * rows


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
