from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gaincurate_kernels.reference import gainrl_as_published, quadratic


def by_hand(hidden: torch.Tensor) -> tuple[float, float]:
    """The released script's two terms, with numpy and explicit index sets."""
    rows = hidden.double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    length = len(rows)
    kept = [[float(a @ b) if j <= i + 1 else 0.0 for j, b in enumerate(rows)] for i, a in enumerate(rows)]
    first = kept[110 : max(length - 6, 0)]
    cut = first[110 : max(len(first) - 6, 0)]

    def mean(block: list[list[float]]) -> float:
        values = [value for row in block for value in row]
        return math.fsum(values) / len(values) if values else math.nan

    return mean(cut), mean(first[:110])


def states(length: int, width: int = 8) -> torch.Tensor:
    return torch.randn(length, width, generator=torch.Generator().manual_seed(length)) + 0.3


@pytest.mark.parametrize("length", [233, 240, 301])
def test_it_equals_the_script_recomputed_cell_by_cell(length: int) -> None:
    intra, inter = by_hand(states(length))
    assert gainrl_as_published(states(length)) == pytest.approx(intra + 8 * inter, abs=1e-5)
    assert gainrl_as_published(states(length), weight=1) == pytest.approx(intra + inter, abs=1e-6)


def test_prompts_of_up_to_232_tokens_give_nan_and_longer_ones_a_number() -> None:
    found = {length: gainrl_as_published(states(length)) for length in (*range(1, 260, 9), 231, 232, 233)}
    assert {length for length, value in found.items() if math.isnan(value)} == {n for n in found if n <= 232}


@pytest.mark.parametrize(("length", "expected"), [(300, 0.56), (1000, 0.17)])
def test_its_second_term_falls_with_length_where_all_vectors_are_equal(length: int, expected: float) -> None:
    equal = torch.ones(length, 4)
    second = gainrl_as_published(equal, weight=1) - gainrl_as_published(equal, weight=0)
    assert second == pytest.approx(expected, abs=0.005)
    assert quadratic(equal, 110, length - 6)[:2] == pytest.approx((1, 1), abs=1e-12)
