"""Atomic files and content hashes: takes bytes and paths, yields files that are whole or absent.

Knows nothing of shards, scores or Arrow.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from gaincurate.errors import read_error, storage_error

_BLOCK = 1 << 22


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a refusal of the file system into a sentence about `path`.

    Raises:
        StorageError: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise read_error(path, error) from error


def digest_bytes(data: bytes | memoryview) -> str:
    """BLAKE2b-128 of `data`, lower-case hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_json(value: Any) -> str:
    """BLAKE2b-128 of the compact JSON of `value` with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return digest_bytes(text.encode())


def digest_file(path: Path) -> str:
    """BLAKE2b-128 of a file's bytes, read in blocks.

    Raises:
        StorageError: it cannot be read.
    """
    state = hashlib.blake2b(digest_size=16)
    with reading(path), path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def digest_files(paths: Iterable[Path]) -> str:
    """One hash for several files, by content and order and not by name; hashed in parallel."""
    with ThreadPoolExecutor() as pool:
        return digest_json(list(pool.map(digest_file, paths)))


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write `data` so that `path` is either as before or complete, also after a crash.

    Raises:
        StorageError: the file system refused; the temporary file is removed.
    """
    with write_stream(path) as file:
        file.write(data)


@contextmanager
def write_stream(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which becomes `path` at the end, whole; on an error nothing does.

    Raises:
        StorageError: the file system refused; the temporary file is removed.
    """
    # The process id keeps two writers of one name apart: locks prevent that, a wrong lock must not corrupt.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with a final newline, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def append_line(path: Path, value: object) -> None:
    """Append one line of JSON; see `append_lines`."""
    append_lines(path, [value])


def append_lines(path: Path, values: Iterable[object]) -> None:
    """Append lines of JSON in one write, behind a line break where a killed writer left a piece.

    Raises:
        StorageError: the file system refused.
    """
    try:
        with path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode())
    except OSError as error:
        raise storage_error(path, error) from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left behind in `folder`; call it only while holding the lock."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
