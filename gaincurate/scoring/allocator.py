"""What libraries do with memory: settles it for the rest of the process; call it before the first product.

A forward on a CPU frees and asks for the same megabytes thousands of times. glibc hands them back to the
system in between, which gives them out again page by page and zeroed: 6 to 9 % of the processor time of
scoring with the demo model. And oneDNN keeps what it compiled for each number of rows, of which nearly every
batch has another: 1.4 GB after 300 of them. Knows nothing of tensors.
"""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST = 32 * 2**20  # that may come from the heap at all; larger ones still go back at once
_KEPT = 256 * 2**20  # free at the heap's end before that is cut
_OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_PRODUCTS = "128"  # a batch of 1,024 tokens has 44 lengths at most, of two products each, and the layers' own


def settle_memory() -> bool:
    """Let the process keep what it frees, and oneDNN few products. What the environment says goes first.

    Returns:
        Whether freed memory is kept: the C library is glibc, and nothing else was asked of it.
    """
    for name in _CACHES:
        os.environ.setdefault(name, _PRODUCTS)
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _OWN):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_MMAP_THRESHOLD, _LARGEST) and library.mallopt(_TRIM_THRESHOLD, _KEPT))
