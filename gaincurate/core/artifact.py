"""A folder that is expensive to make: an identity first, then parts, a manifest last. See `Kind`.

The identity holds everything that can change a value, so a folder is continued or refused, never mixed. A
part (a shard) carries the identity, its rejected rows and a hash of its own bytes: a run killed at any
instant continues from the complete parts and ends with the same bytes. The manifest marks the folder as
finished. It is made of the parts alone, so a lost manifest can be written again.

A folder in an object store is worked on in a local copy: `pull` copies it in, and each file that is written
here is copied out. Two machines that write the same shards do the work twice and write the same bytes.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gaincurate.core import files
from gaincurate.core.arrow import Refuse, ipc_schema, read_ipc
from gaincurate.core.foreign import json_value, read_bytes
from gaincurate.core.locks import WORK, Split, work_folder, writing
from gaincurate.core.store import Mirror, Remote, located
from gaincurate.errors import InputError, OutputError

MANIFEST = "manifest.json"
IDENTITY = "identity.json"
REJECTED = "rejected.jsonl"
EXECUTION = "execution.jsonl"
EXECUTIONS = "execution"  # in an object store, a folder with a file for each process in place of the lines
RUN = "run.json"  # identifies a run's folder, which is no artifact but may be given as one
_KEY = b"gaincurate"
_NO_HASH = "0" * 32
_LISTED = 6  # keys that a refusal names

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """How the uses of `Artifact` differ."""

    name: str  # of the folder, such as `scored set`
    holds: str  # such as `scores`; also `kind` in identity and manifest, but scored sets are older than that
    format: int  # of identity, parts and manifest
    command: str  # that makes one, for the next step in errors
    example: str  # arguments of that command
    totals: Callable[[Sequence[Json], int], Json]  # the manifest's head, of all parts and rejected rows
    part_facts: tuple[str, ...]  # that the manifest repeats of a part before its size and hash
    more_facts: tuple[str, ...] = ()  # that it repeats after them, where a part has them
    subfolders: tuple[str, ...] = ()  # deleted with it
    before: tuple[str, ...] = ()  # files that may be there before the identity is
    work: str = ""  # a glob of files in the work folder, deleted with it
    hints: Mapping[str, str] | None = None  # a clause for an identity that differs in this key alone
    in_stores: bool = False  # whether it may lie in an object store


class Artifact:
    """One such folder, to be written or read. Nothing is opened or checked before a method is called.

    Every method raises StorageError if the file system or the object store refuses. The folder is a local
    path or, for a kind with `in_stores`, the URL of an object store, whose local copy is in the `cache`.
    """

    def __init__(self, folder: Path, kind: Kind, cache: Path | None = None) -> None:
        self.place, self.kind = located(folder), kind  # as given; of a folder in an object store its URL
        if isinstance(self.place, Remote) and not kind.in_stores:
            raise InputError(f"{folder}: a {kind.name} lies in a local folder, not in an object store.")
        self.mirror = Mirror(self.place, cache) if isinstance(self.place, Remote) else None
        # With its files; of a store, the copy.
        self.folder = self.mirror.folder if self.mirror else self.place

    def pull(self) -> None:
        """Copy a folder in an object store in."""
        if self.mirror is not None:
            self.mirror.pull()
            if logs := [read_bytes(path) for path in sorted(self.folder.glob(f"{EXECUTIONS}/*"))]:
                files.write_atomic(self.folder / EXECUTION, b"".join(logs))

    def put(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        if self.mirror is not None:
            self.mirror.put(name, data)
        else:
            files.write_atomic(self.folder / name, data)

    def delete(self, names: Sequence[str]) -> None:
        """Delete the files and folders (names that end in a slash) that exist."""
        for name in names:
            path = self.folder / name
            with files.reading(path, "delete"):
                if not name.endswith("/"):
                    path.unlink(missing_ok=True)
                elif path.is_dir():
                    shutil.rmtree(path)
        if self.mirror is not None:
            self.mirror.delete(names)

    def names(self) -> set[str]:
        """The names of all files and folders in it; names of folders end in a slash."""
        with files.reading(self.folder):
            entries = os.scandir(self.folder) if self.folder.is_dir() else ()
            names = {
                entry.name + "/" * entry.is_dir() for entry in entries if not files.is_temporary(entry.name)
            }
        return names - {f"{WORK}/", f"{EXECUTIONS}/"}

    @property
    def begun(self) -> bool:
        """Whether it has an identity."""
        return (self.folder / IDENTITY).exists()

    @property
    def finished(self) -> bool:
        """Whether it has a manifest."""
        return (self.folder / MANIFEST).exists()

    @property
    def holds_results(self) -> bool:
        """Whether it has a part, or a remnant of a finished folder."""
        names = self.names()
        results = {MANIFEST, REJECTED, *(f"{name}/" for name in self.kind.subfolders)}
        return bool(names & results or fnmatch.filter(names, "shard-*.arrow"))

    def indexes(self, count: int) -> set[int]:
        """The indexes of the existing files among `count` parts; the files are not read."""
        names = self.names()
        return {index for index in range(count) if shard_name(index) in names}

    def part(self, index: int) -> Path:
        """The file of a part, counted from 0."""
        return self.folder / shard_name(index)

    @contextmanager
    def writing(self, split: Split | None = None) -> Iterator[None]:
        """Hold the right to write the parts of `split`, or all; a LockedError if another process has it.

        On exit without an identity, the work folder and new empty folders are removed; of a finished folder,
        the lock files. With several splits everything stays, because others may write there.
        """
        split = split or Split()
        new_folders = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        with writing(self.folder, split):
            try:
                yield
            finally:
                begun = self.begun or any((self.folder / name).exists() for name in self.kind.before)
                # With --shard others may be about to begin in the same folder.
                if split.count == 1 and (self.finished or not begun):
                    shutil.rmtree(work_folder(self.folder), ignore_errors=True)
                    with suppress(OSError):  # not empty, so not ours alone
                        for folder in new_folders:
                            folder.rmdir()

    def read_identity(self, *, damaged: bool = False) -> Json | None:
        """The identity in the folder; None for a new folder, and for a damaged identity if `damaged` is set.

        Raises `OutputError` if the folder holds something else, or the identity is damaged without `damaged`.
        """
        self.pull()
        out, name, path = self.place, self.kind.name, self.folder / IDENTITY
        with files.reading(path):
            if os.path.lexists(self.folder) and not self.folder.is_dir():
                raise OutputError(f"--out {out} is no folder; give the name of a folder.", path=str(out))
            if not path.exists():
                if others := {name.rstrip("/") for name in self.names()} - {*self.kind.before}:
                    raise OutputError(
                        f"--out {out} already holds {min(others)!r} and is no {name}; give a new or empty "
                        "folder.",
                        path=str(out),
                    )
                return None
        identity = self._facts(path)
        if identity is None and not damaged:
            raise OutputError(
                f"{path} is damaged, so what made the {self.kind.holds} there is not known; start over with "
                "--overwrite.",
                path=str(path),
            )
        return identity

    def _facts(self, path: Path) -> Json | None:
        """An identity or a manifest; None if it is damaged. An OutputError if it belongs to another kind."""
        try:
            with files.reading(path):
                facts: Json = json_value(read_bytes(path))
            holds = str(facts.get("kind", "scores"))
        except (ValueError, AttributeError):
            return None
        if holds != self.kind.holds:
            raise OutputError(
                f"{self.place} is no {self.kind.name}: it holds {holds}; give another folder.",
                path=str(self.place),
            )
        return facts if "format" in facts else None

    def refuse_other(self, old: Json, new: Json, path: Path | None = None) -> None:
        """Compare the identity of the folder, or of its part at `path`, with the new one.

        Raises:
            OutputError: they differ; names the keys with both values.
        """
        path = path or self.place
        if changes := list(files.differing_keys(old, new)):
            hint = (self.kind.hints or {}).get(changes[0][0], "") if len(changes) == 1 else ""
            raise OutputError(
                f"{path} holds {self.kind.holds} of another run: {in_words(changes)}{hint}. Give another "
                "--out, repeat the first run's options, or start over with --overwrite.",
                path=str(path),
                keys=[key for key, _, _ in changes],
            )

    def join(self, identity: Json, other: Json) -> None:
        """Refuse a worker that does not see the folder, or whose plan has another identity.

        Raises:
            InputError: the worker's machine does not have the folder, or the identities differ.
        """
        here = socket.gethostname()
        if self.mirror is None and not self.begun:
            raise InputError(
                f"{self.folder} is not on {here}, where a worker runs: --out and the data must be on a file "
                "system that all machines share, under the same path."
            )
        if changes := list(files.differing_keys(identity, other)):
            raise InputError(
                f"a worker on {here} would not give the same results: {in_words(changes)}. "
                "Have all workers on machines of one kind (--worker-label), with the same packages and files."
            )

    def begin(self, identity: Json) -> None:
        """Write the identity, which is all that can change a value; call `remove` first."""
        self.put(IDENTITY, files.json_bytes(identity))

    def write_part(self, index: int, identity: Json, table: pa.Table, facts: Json) -> None:
        """Write part `index`, from 0, whole; `table` owns fresh buffers, see `encode_shard`.

        The manifest is made of the facts: `rejected` (a list of lines) and those that `Kind` names.
        """
        info = {"format": self.kind.format, "identity": identity, "shard": index, **facts}
        self.put(shard_name(index), encode_shard(table, info))

    def present(self, identity: Json, count: int) -> set[int]:
        """The indexes of the written parts. An OutputError for a damaged part, or a part of another run."""
        indexes = self.indexes(count)
        for index in sorted(indexes):
            self._read_part(index, identity)
        return indexes

    def _read_part(self, index: int, identity: Json) -> tuple[Json, Json]:
        """A part's facts, its size and its hash, after the part was checked."""
        path = self.part(index)
        with files.reading(path):
            data = read_bytes(path)
        info = parse_info(data, path)
        self.refuse_other(info["identity"], identity, path)
        if info["shard"] != index:  # whole and of this run, so no hash shows it
            raise OutputError(
                f"{path} is {shard_name(info['shard'])} under another name. Delete it, or rename it, and "
                "repeat the command.",
                path=str(path),
            )
        return info, {"bytes": len(data), "hash": files.digest_bytes(data)}

    def reopen(self) -> None:
        """Delete the manifest, so that a finished folder that lost a part is completed again."""
        self.delete([MANIFEST])

    def log(self, record: Json, begun: float) -> None:
        """Append a record of a process that began at `begun`, in seconds since 1970, to `execution.jsonl`.

        In an object store, which cannot append, the record is a file of its own.
        """
        files.append_lines(self.folder / EXECUTION, [record])
        if self.mirror is not None:
            name = f"{EXECUTIONS}/{int(begun)}-{socket.gethostname()}-{os.getpid()}.json"
            self.mirror.put(name, files.to_lines([record]))

    def finish(self, identity: Json, count: int) -> Json:
        """Write `rejected.jsonl`, then the manifest: the same bytes for the same parts.

        Raises:
            OutputError: a part is damaged.
        """
        facts, parts, rejected = list[Json](), list[Json](), list[Json]()
        for index in range(count):
            info, entry = self._read_part(index, identity)
            rejected += info.pop("rejected")
            del info["identity"]  # large, and the same in each
            facts.append(info)
            entry = {"file": shard_name(index), **{key: info[key] for key in self.kind.part_facts}, **entry}
            parts.append(entry | {key: info[key] for key in self.kind.more_facts if key in info})
        totals = self.kind.totals(facts, len(rejected))
        manifest = {"format": self.kind.format, **totals, "identity": identity, "shards": parts}
        if rejected:
            self.put(REJECTED, files.to_lines(rejected))
        self.put(MANIFEST, files.json_bytes(manifest))
        return manifest

    def read_manifest(self) -> Json:
        """The manifest; an OutputError if the folder is absent, unfinished, or of another kind or format."""
        folder, kind, path = self.place, self.kind, self.folder / MANIFEST
        with files.reading(path):
            finished = path.exists()
        if not finished:
            if self.begun:
                why = f"not finished: it has no {MANIFEST}. Run the same `{kind.command}` command again to "
                why += "go on."
            elif (folder / RUN).exists():
                why = f"no {kind.name}: it is a run. `gaincurate schedule status {folder}` shows it, and "
                why += f"`gaincurate report SET --run {folder}` reports it with its set."
            elif self.folder.is_file():
                why = f"no {kind.name}: it is a file. `gaincurate score {folder} --model M --out scored` "
                why += "makes a set of it."
            else:
                what = f"has no {MANIFEST}" if self.folder.exists() else "does not exist"
                why = f"no {kind.name}: it {what}. `{kind.command} {kind.example} --out {folder}` makes one."
            raise OutputError(f"{folder} is {why}", path=str(folder))
        manifest = self._facts(path)
        if manifest is not None and manifest["format"] != kind.format:
            raise OutputError(
                f"{folder} has format {manifest['format']}, this version reads {kind.format}; use the "
                "gaincurate version that wrote it, or make it again.",
                path=str(folder),
            )
        try:
            # Whoever made the set wrote the names, and they are paths to read here.
            shards = enumerate((manifest or {})["shards"])
            whole = all(entry["file"] == shard_name(index) for index, entry in shards)
        except (LookupError, TypeError):
            whole = False
        if manifest is None or not whole:
            raise OutputError(
                f"{path} is damaged. Delete that file and run the same `{kind.command}` command again: it is "
                "written again from the shards, and nothing else is done again.",
                path=str(path),
            )
        return manifest

    def check(self, entry: Json) -> Path:
        """The file of a manifest's entry; an OutputError if it is missing or damaged."""
        path: Path = self.folder / entry["file"]
        if not path.exists() or files.digest_file(path) != entry["hash"]:
            raise self.mismatch(path)
        return path

    def mismatch(self, path: Path) -> OutputError:
        """The error for a part that does not match the manifest."""
        return OutputError(
            f"{path} does not match the manifest: it is missing, cut short or changed. Restore it, or delete "
            f"it and run the same `{self.kind.command}` command again.",
            path=str(path),
        )

    def remove(self) -> None:
        """Delete the files of the artifact except its identity, for `--overwrite`. Other files remain."""
        # The manifest is deleted first, and the identity stays until the next one replaces it: a kill in
        # between leaves an unfinished folder.
        self.delete([MANIFEST])
        parts = sorted(fnmatch.filter(self.names(), "shard-*.arrow"))
        folders = (f"{name}/" for name in (*self.kind.subfolders, EXECUTIONS))
        self.delete([REJECTED, EXECUTION, *parts, *folders])
        for path in work_folder(self.folder).glob(self.kind.work) if self.kind.work else ():
            path.unlink()


def in_words(changes: Sequence[tuple[str, Any, Any]]) -> str:
    """The differences of two identities, as `differing_keys` gives them."""
    listed = [f"{key} was {was!r} and is now {now!r}" for key, was, now in changes[:_LISTED]]
    return "; ".join([*listed, *([f"and {len(changes) - _LISTED} more"] if changes[_LISTED:] else [])])


def shard_name(index: int) -> str:
    """`shard-00000.arrow`, ..."""
    return f"shard-{index:05d}.arrow"


def encode_shard(table: pa.Table, info: Mapping[str, Any]) -> bytes:
    """An Arrow IPC file of one uncompressed record batch, with `info` in the schema's metadata.

    The same table and info give the same bytes: `table` must own fresh buffers (see `take`), because
    bytes under nulls and after the last bit are written as they lie in memory.
    """
    # The hash covers the file that holds zeros in its place, so the schema and the footer too.
    content = files.digest_bytes(_serialize(table, {**info, "content": _NO_HASH}))
    return _serialize(table, {**info, "content": content})


def _serialize(table: pa.Table, info: Mapping[str, Any]) -> bytes:
    text = json.dumps(info, sort_keys=True, ensure_ascii=False).encode()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: text})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def read_info(path: Path) -> Json:
    """The `info` of a shard's file; see `parse_info`.

    Raises:
        OutputError: the file is damaged or no shard of ours.
    """
    with files.reading(path):
        data = read_bytes(path)
    return parse_info(data, path)


def parse_info(data: bytes, path: Path) -> Json:
    """The `info` of a shard's bytes; an OutputError, about `path`, where they do not match the hash in it."""

    def damaged(reason: str) -> OutputError:
        again = "Delete that file and run the same command again: only its rows are made again."
        return OutputError(f"{path} is damaged: it {reason}. {again}", path=str(path))

    try:
        schema = ipc_schema(data, path, lambda why: damaged(f"is cut short or no shard ({why})"))
        info: Json = json_value((schema.metadata or {})[_KEY])
        content = info["content"].encode()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged("is cut short or no shard") from error
    if files.digest_bytes(data.replace(content, _NO_HASH.encode())) != info["content"]:
        raise damaged("does not match the hash in it")
    return info


def open_table(path: Path, refuse: Refuse | None = None) -> pa.Table:
    """The rows of an Arrow file of ours, memory-mapped and validated, without our metadata in the schema.

    `refuse` makes the exception for a broken file, by default an OutputError.
    """
    return without_info(read_ipc(path, refuse or broken(path)))


def broken(path: Path, advice: str = "Get it again from where it came, or make it again.") -> Refuse:
    """Makes the OutputError for a file of this package with broken content."""
    return lambda why: OutputError(f"{path} is broken: {why}. {advice}", path=str(path))


def without_info(table: pa.Table) -> pa.Table:
    """The same table without our metadata in the schema."""
    metadata = dict(table.schema.metadata or {})
    metadata.pop(_KEY, None)
    return table.replace_schema_metadata(metadata or None)
