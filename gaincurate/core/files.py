"""Files that are whole or absent, content hashes, and lines of JSON.

Files are written under a temporary name, synced and renamed. Only files of JSON lines grow: a reader skips a
last line without a line break, because its writer is not finished or was killed, and the next `append_lines`
begins a new line.

Every function raises StorageError if the file system refuses.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from gaincurate.core.foreign import json_value, lines_of, not_regular, open_regular, read_bytes
from gaincurate.errors import storage_error


@contextmanager
def reading(path: Path, what: str = "read") -> Iterator[None]:
    """Turn an OSError into a StorageError, a sentence about `path`; `what` is the verb in it."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error, what) from error


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="gaincurate-") as name:
        yield Path(name)


def digest_bytes(data: bytes | memoryview) -> str:
    """BLAKE2b-128 of `data`, lower-case hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_json(value: Any) -> str:
    """BLAKE2b-128 of the compact JSON of `value` with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return digest_bytes(text.encode())


def digest_file(path: Path) -> str:
    """BLAKE2b-128 of a file's bytes, read in blocks."""
    with reading(path), open_regular(path) as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()


def digest_files(paths: Iterable[Path]) -> str:
    """One hash for several files, by content and order and not by name; hashed in parallel."""
    with ThreadPoolExecutor() as pool:
        return digest_json(list(pool.map(digest_file, paths)))


def too_long(path: Path) -> bool:
    """Whether a name in a path has more than 255 bytes, so that any access to it raises OSError."""
    return any(len(os.fsencode(part)) > 255 for part in path.parts)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents if they do not exist."""
    with reading(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write `data` so that `path` is unchanged or complete, also after a crash."""
    with write_stream(path) as file:
        file.write(data)


@contextmanager
def write_stream(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that becomes `path` at the end; on an error `path` does not change.

    A device or a pipe at `path` is refused, because root could replace /dev/null by a file.
    """
    with reading(path, "write"):
        if not path.name:  # `.` and `/` name no file
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        # The process id keeps two writers of one name apart, where a lock failed to.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        if path.exists() and not path.is_file() and not path.is_dir():
            raise not_regular(path)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        descriptor = os.open(path.parent, os.O_RDONLY)  # makes the new name durable
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with a final newline, atomically."""
    write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Indented JSON with a final newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def to_lines(values: Iterable[object]) -> bytes:
    """Lines of JSON, one per value."""
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def write_lines(path: Path, values: Iterable[object]) -> int:
    """Write any number of values as JSON lines, in a new folder if need be; returns their number."""
    make_folder(path.parent)
    count = 0
    with write_stream(path) as file:
        for value in values:
            file.write(to_lines([value]))
            count += 1
    return count


def append_lines(path: Path, values: Iterable[object]) -> None:
    """Append JSON lines in one write; if the last line is unfinished, a line break is put before them."""
    with reading(path, "write"):
        if path.is_fifo():
            raise not_regular(path)
        with path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(to_lines(values))


def drop_half_line(path: Path) -> bool:
    """Remove an unfinished last line; returns whether the file has any complete lines."""
    with reading(path, "write"):
        data = read_bytes(path) if path.exists() else b""
        end = data.rfind(b"\n") + 1
        if end < len(data):
            os.truncate(path, end)
    return end > 0


def json_lines(source: Path | bytes, since: int = 0) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The objects of a file of JSON lines, each with the number of its line, from 1.

    A line that is no JSON object gives None, which only some callers treat as an error. Blank lines, a last
    line without a line break, and lines that end within the first `since` bytes are skipped.
    """
    path = Path() if isinstance(source, bytes) else source
    with reading(path), io.BytesIO(source) if isinstance(source, bytes) else open_regular(path) as file:
        place = 0
        for number, (line, size) in enumerate(lines_of(file), 1):
            place += size
            if place <= since or (line is not None and not (line.endswith(b"\n") and line.strip())):
                continue
            value = None
            with suppress(ValueError):
                value = None if line is None else json_value(line, surrogates=True)
            yield number, value if isinstance(value, dict) else None


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a log; damaged lines are skipped, and a missing file has none."""
    return [entry for _, entry in json_lines(path) if entry is not None] if path.exists() else []


def is_temporary(name: str) -> bool:
    """Whether it is the name of a temporary file that a killed writer may leave."""
    return name.startswith(".") and name.endswith(".tmp")


def remove_temporaries(folder: Path) -> None:
    """Delete temporary files of killed writers in `folder`. Call it only while you hold the lock."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def differing_keys(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The differences of two identities: dotted key, old value, new value (None for a missing key)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            name = f"{path}.{key}" if path else key
            if key in old and key in new:
                yield from differing_keys(old[key], new[key], name)
            else:
                yield name, old.get(key), new.get(key)
    elif old != new:
        yield path, old, new
