"""Freed memory is kept where the C library is glibc; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from typing import Any

import pytest

from gaincurate.scoring import allocator

_COUNT = """
import resource, sys
import torch
from gaincurate.scoring.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()

def work():
    for _ in range(20):
        [torch.ones(6, 2**20) for _ in range(4)]  # of 24 MiB each

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    # Settings of the one who runs the tests would hide what is asked for here.
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    command = [sys.executable, "-c", _COUNT, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=own).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc")
def test_memory_that_is_freed_and_asked_for_again_is_not_mapped_anew() -> None:
    pages = 20 * 4 * 6 * 2**20 * 4 // 4096  # in all of these tensors
    assert faults("kept") < pages / 50


@pytest.mark.parametrize("where", ["darwin", "musl"])
def test_another_c_library_is_left_alone(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(name: Any) -> Any:
        assert where == "musl", "nothing to look for there"
        return object()

    monkeypatch.setattr(sys, "platform", "darwin" if where == "darwin" else "linux")
    monkeypatch.setattr(ctypes, "CDLL", opened)
    assert allocator.keep_freed_memory() is False
