"""See that what a .gguf file says of its own size fits in it.

The library `gguf` believes the counts in its metadata and reads on after the end of the file, so that 60
bytes can take all memory. Only the metadata is walked through, some hundred thousand texts of a vocabulary.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from gaincurate.core.foreign import Malformed, open_regular

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number, by the type's number."""
_TEXT, _ARRAY = 8, 9
_LEAST_TENSOR = 24  # bytes of what says where a tensor is
_LEAST_VALUE = 13  # of a key with its value


def see_counts(path: Path) -> None:
    """Walk through the metadata.

    Raises:
        OSError: the file cannot be read.
        Malformed: a count is of more than the file has, or a type is none that is known.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _walk(data)
        except struct.error:
            raise Malformed("it ends inside its metadata") from None


def _walk(data: mmap.mmap) -> None:
    version, tensors, values = struct.unpack_from("<IQQ", data, 4)
    if version not in (2, 3):  # of other versions, and of other byte orders, the library says so
        return
    place = 24
    _see_room(data, place, values * _LEAST_VALUE + tensors * _LEAST_TENSOR)
    for _ in range(values):
        place = _after_text(data, place)
        (kind,) = struct.unpack_from("<I", data, place)
        place += 4
        if kind != _ARRAY:
            place = _after_text(data, place) if kind == _TEXT else place + _size(kind)
            continue
        inner, count = struct.unpack_from("<IQ", data, place)
        place += 12
        if inner == _TEXT:
            _see_room(data, place, count * 8)
            for _ in range(count):
                place = _after_text(data, place)
        else:
            _see_room(data, place, count * _size(inner))
            place += count * _size(inner)


def _after_text(data: mmap.mmap, place: int) -> int:
    (length,) = struct.unpack_from("<Q", data, place)
    _see_room(data, place + 8, length)
    return place + 8 + int(length)


def _size(kind: int) -> int:
    if kind not in _SIZES:  # arrays of arrays too, which no writer makes
        raise Malformed(f"a value in its metadata has type {kind}")
    return _SIZES[kind]


def _see_room(data: mmap.mmap, place: int, size: int) -> None:
    if size > len(data) - place:
        raise Malformed(f"it speaks of {size:,} bytes where {max(len(data) - place, 0):,} are left")
