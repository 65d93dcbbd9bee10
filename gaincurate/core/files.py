"""Files that are whole or absent, content hashes, and lines of JSON.

Every file that something else relies on is written beside its place, synced and renamed. Lines of JSON are
the one kind that grows: a reader leaves out a last line without a line break, because its writer is still at
it or was killed, and the next `append_lines` begins a new line.

Every function raises StorageError where the file system refuses.
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
    """Whether a name in a path has more than the 255 bytes of a file system: to look at it is an OSError."""
    return any(len(os.fsencode(part)) > 255 for part in path.parts)


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it is in, unless it is there."""
    with reading(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write `data` so that `path` is either as before or complete, also after a crash."""
    with write_stream(path) as file:
        file.write(data)


@contextmanager
def write_stream(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which becomes `path` at the end, whole; on an error nothing does.

    A device or a pipe at `path` is refused: who may do anything would make a file of /dev/null.
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
        descriptor = os.open(path.parent, os.O_RDONLY)  # the new name is to be durable too
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
    """Write lines of JSON where a person asked for them, also more than fit into memory; returns how many."""
    make_folder(path.parent)
    count = 0
    with write_stream(path) as file:
        for value in values:
            file.write(to_lines([value]))
            count += 1
    return count


def append_lines(path: Path, values: Iterable[object]) -> None:
    """Append lines of JSON in one write, after a line break where a killed writer left a piece."""
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
    """Remove the unfinished last line that a killed writer left; returns whether the file has any lines."""
    with reading(path, "write"):
        data = read_bytes(path) if path.exists() else b""
        end = data.rfind(b"\n") + 1
        if end < len(data):
            os.truncate(path, end)
    return end > 0


def json_lines(source: Path | bytes, since: int = 0) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The objects of a file of JSON lines, each with the number of its line, from 1.

    An object is None where the line holds no JSON object: only the caller knows whether that is an error, and
    what to say of it. Blank lines, and a last line without a line break, are left out, and lines that end
    within the first `since` bytes.
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
    """The objects of a log, none where there is no log. Damaged lines are left out: no work needs one."""
    return [entry for _, entry in json_lines(path) if entry is not None] if path.exists() else []


def is_temporary(name: str) -> bool:
    """The temporary files that a killed writer leaves beside its file."""
    return name.startswith(".") and name.endswith(".tmp")


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left in `folder`. Call it only while holding the lock."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def differing_keys(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two identities differ: dotted key, old value, new value (None for a key that is not there)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            name = f"{path}.{key}" if path else key
            if key in old and key in new:
                yield from differing_keys(old[key], new[key], name)
            else:
                yield name, old.get(key), new.get(key)
    elif old != new:
        yield path, old, new
