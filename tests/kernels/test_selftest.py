from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from gaincurate_kernels import Concentration, UnitSums, angle_concentration, segment_unit_sums, selftest


def test_every_check_passes_on_the_cpu() -> None:
    checks = selftest.run("cpu")
    kinds = [a + b for a in ("float32", "bfloat16", "float16") for b in ("", " with a fused norm")]
    expected = [*(f"torch: random vectors, {kind}" for kind in kinds), "torch: 4,096 equal vectors"]
    assert [check.check for check in checks] == expected
    assert all(check.ok for check in checks), checks
    assert all(check.detail.startswith("largest error ") for check in checks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_check_passes_on_the_gpu_with_every_backend() -> None:
    assert selftest.backends("cuda:0") == ["torch", "triton"]
    for backend in selftest.backends("cuda:0"):
        assert all(check.ok for check in selftest.run("cuda:0", backend))


def test_a_wrong_sum_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(*arguments: Any, **options: Any) -> UnitSums:
        found = segment_unit_sums(*arguments, **options)
        return replace(found, sums=found.sums.bfloat16().float())

    monkeypatch.setattr(selftest, "segment_unit_sums", rounded)
    assert not any(check.ok for check in selftest.run("cpu"))


def test_a_number_where_there_is_none_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never_nan(*arguments: Any, **options: Any) -> Concentration:
        found = angle_concentration(*arguments, **options)
        return replace(found, inter=found.inter.nan_to_num(0.0))

    monkeypatch.setattr(selftest, "angle_concentration", never_nan)
    random, equal = selftest.run("cpu")[:6], selftest.run("cpu")[6]
    assert [check.detail for check in random] == ["largest error inf"] * 6
    assert equal.ok
