"""What the C library does with freed memory: settles it for the process, yields whether it could.

A forward on a CPU frees and asks for the same megabytes thousands of times. glibc hands them back to the
system in between, which gives them out again page by page and zeroed: 6 to 9 % of the processor time of
scoring with the demo model. Knows nothing of tensors.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST = 32 * 2**20  # that may come from the heap at all; larger ones still go back at once
_KEPT = 512 * 2**20  # free at the heap's end before it is cut


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, up to 512 MiB of it. False where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_MMAP_THRESHOLD, _LARGEST) and library.mallopt(_TRIM_THRESHOLD, _KEPT))
