"""Freed memory is kept where the C library is glibc, and few products are, unless the environment says else."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

_COUNT = """
import resource
import torch
from gaincurate.scoring.worker import settle_memory
assert settle_memory()

def work():
    for _ in range(20):
        [torch.ones(6, 2**20) for _ in range(4)]  # of 24 MiB each

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def printed(program: str, **more: str) -> int:
    # Settings of the one who runs the tests would hide what is asked for here.
    theirs = ("MALLOC_", "GLIBC_", "LD_PRELOAD", "ONEDNN_", "LRU_")
    own = {k: v for k, v in os.environ.items() if not k.startswith(theirs)}
    command = [sys.executable, "-c", program]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=own | more).stdout)


_PRODUCTS = """
import torch
from torch import nn
from gaincurate.scoring.worker import settle_memory
from gaincurate.scoring.packed_prefill import lay_out, layers_to_lay_out
settle_memory()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 // 2**20

layer = nn.Linear(256, 1024)
lay_out(layers_to_lay_out(layer))
found = []
with torch.inference_mode():
    for rows in range(100, 700):
        layer(torch.ones(rows, 256))
        found.append(resident())
print(found[-1] - found[299])
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux")
def test_products_of_ever_new_sizes_do_not_add_up() -> None:
    """The second 300 of 600 numbers of rows take next to nothing. Freed memory goes back here, to be told apart."""
    assert printed(_PRODUCTS, MALLOC_TRIM_THRESHOLD_=str(2**17)) < 30


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc")
def test_memory_that_is_freed_and_asked_for_again_is_not_mapped_anew() -> None:
    pages = 20 * 4 * 6 * 2**20 * 4 // 4096  # in all of these tensors
    assert printed(_COUNT) < pages / 50
