from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import kernel_speed as bench
from gaincurate_kernels import angle_concentration
from gaincurate_kernels.reference import quadratic

SHAPE = bench.Shape(96, 48, 32, torch.float32)


def states() -> torch.Tensor:
    return torch.randn(96, 48, generator=torch.Generator().manual_seed(0)) + 0.3


@pytest.mark.parametrize("way", ["linear", "matrix in float32", "matrix in bfloat16"])
def test_what_we_are_compared_with_computes_the_same(way: str) -> None:
    dtype = torch.bfloat16 if "bfloat16" in way else torch.float32
    intra, inter = bench.linear(states(), 32) if way == "linear" else bench.pairwise(states(), 32, dtype)
    for row in range(3):
        expected = quadratic(states()[32 * row : 32 * row + 32], 8, 32)
        found = (float(intra[row]), float(inter[row]))
        assert found == pytest.approx(expected[:2], abs=1e-6 if dtype == torch.float32 else 5e-3)


def test_the_bounds_are_questions_then_prefixes_of_a_quarter() -> None:
    assert bench.bounds_of(SHAPE).tolist() == [[8, 32], [40, 64], [72, 96], [0, 8], [32, 40], [64, 72]]
    assert SHAPE.bytes == 96 * 48 * 4


def test_a_result_that_is_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bench.check(states(), SHAPE)
    with pytest.raises(bench.WrongResult, match=r"^off by nan|^off by inf"):
        bench.check(states().fill_(torch.inf), SHAPE)

    def late(*sums: Any) -> Any:
        found = angle_concentration(*sums)
        found.inter[-1] += 1e-5
        return found

    monkeypatch.setattr(bench, "angle_concentration", late)
    with pytest.raises(bench.WrongResult, match=r"off by 1\.0e-05 at 96 x 48, more than 2e-06"):
        bench.check(states(), SHAPE)


def test_every_buffer_is_read_in_turn() -> None:
    seen = []
    bench.seconds(
        lambda hidden: seen.append(int(hidden[0, 0])), [torch.full((1, 1), i) for i in range(12)], "cpu"
    )
    assert seen == [0, *range(12)]
