"""Shard files, identity and manifest of a scored set (contract 1): takes tables, yields whole files.

A shard is the unit of work and of loss. It carries its identity, its rejected rows and a hash of its own
data, so each can be judged alone. Knows nothing of models, prompts or how a score was made.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from gaincurate.errors import OutputError, StorageError, reason_of
from gaincurate.files import digest_bytes, digest_file, reading, to_lines, write_atomic, write_json
from gaincurate.locks import WORK, work_folder
from gaincurate.schema import FORMAT

MANIFEST = "manifest.json"
IDENTITY = "identity.json"
REJECTED = "rejected.jsonl"
EXECUTION = "execution.jsonl"
COLUMNS = "columns"
_KEY = b"gaincurate"
_NO_HASH = "0" * 32

Json = dict[str, Any]


def shard_name(index: int) -> str:
    """`shard-00000.arrow`, ..."""
    return f"shard-{index:05d}.arrow"


def shard_count(rows: int, shard_rows: int) -> int:
    """How many shards `rows` source rows make."""
    return -(-rows // shard_rows)


def encode_shard(table: pa.Table, info: Mapping[str, Any]) -> bytes:
    """An Arrow IPC file of one uncompressed record batch, with `info` in the schema's metadata.

    The same table and info give the same bytes: `table` must own fresh buffers (see `take`), because
    bytes under nulls and behind the last bit are written as they lie in memory.
    """
    # The hash covers the file that holds zeros in its place, so the schema and the footer too.
    content = digest_bytes(_serialize(table, {**info, "content": _NO_HASH}))
    return _serialize(table, {**info, "content": content})


def _serialize(table: pa.Table, info: Mapping[str, Any]) -> bytes:
    text = json.dumps(info, sort_keys=True, ensure_ascii=False).encode()
    schema = table.schema.with_metadata({**(table.schema.metadata or {}), _KEY: text})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table.replace_schema_metadata(schema.metadata))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_info(path: Path) -> Json:
    """The `info` of a shard after checking the whole file against the hash inside it.

    Raises:
        OutputError: the file is damaged or no shard of ours.
        StorageError: it cannot be read.
    """
    with reading(path):
        data = path.read_bytes()
    try:
        schema = pa.ipc.open_file(data).schema
        info: Json = json.loads((schema.metadata or {})[_KEY])
        content = info["content"].encode()
    except (ValueError, LookupError, TypeError, AttributeError, pa.ArrowException, OSError) as error:
        raise _damaged(path, "it is cut short or no shard") from error  # Arrow says it in many ways
    if digest_bytes(data.replace(content, _NO_HASH.encode())) != info["content"]:
        raise _damaged(path, "its bytes do not match the hash in it")
    return info


def _damaged(path: Path, reason: str) -> OutputError:
    return OutputError(
        f"{path} is damaged: {reason}. Delete that file and run the same command again: only its rows "
        "are scored anew.",
        path=str(path),
    )


def open_table(path: Path) -> pa.Table:
    """A shard's rows, memory-mapped, without our metadata in the schema."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    metadata = {k: v for k, v in (table.schema.metadata or {}).items() if k != _KEY}
    return table.replace_schema_metadata(metadata or None)


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


def read_identity(out: Path) -> Json | None:
    """The identity that a folder was begun with, or None where none was begun.

    Raises:
        OutputError: the folder holds something else, or its identity is damaged.
        StorageError: it cannot be read.
    """
    path = out / IDENTITY
    with reading(path):
        if os.path.lexists(out) and not out.is_dir():
            raise OutputError(f"--out {out} is no folder; give the name of a folder.", path=str(out))
        if not path.exists():
            others = [p.name for p in out.iterdir() if not _ours_unfinished(p.name)] if out.exists() else []
            if others:
                raise OutputError(
                    f"--out {out} already holds {min(others)!r} and is no scored set; give a new or "
                    "empty folder.",
                    path=str(out),
                )
            return None
        text = path.read_bytes()
    try:
        identity: Json = json.loads(text)
        _ = identity["format"]
    except (ValueError, LookupError, TypeError) as error:
        raise OutputError(
            f"{path} is damaged, so what made the set there is not known; start over with --overwrite.",
            path=str(path),
        ) from error
    return identity


def _ours_unfinished(name: str) -> bool:
    """What a process killed before the identity was written, or while a set was deleted, leaves behind."""
    return name == WORK or (name.startswith(".") and name.endswith(".tmp"))


def refuse_other(out: Path, old: Json, new: Json) -> None:
    """Compare identities.

    Raises:
        OutputError: they differ; names the keys with both values.
    """
    changes = list(differing_keys(old, new))
    if changes:
        listed = "; ".join(f"{key} was {was!r} and is now {now!r}" for key, was, now in changes[:6])
        if [key for key, _, _ in changes] == ["segmentation.rendering"]:
            listed += (
                " (the chat template writes today's date, it seems: pin it, for Llama 3 with "
                '--template-kwargs \'{"date_string": "26 Jul 2024"}\')'
            )
        more = f"; and {len(changes) - 6} more" if len(changes) > 6 else ""
        raise OutputError(
            f"{out} holds scores of another run: {listed}{more}. Give another --out, repeat the "
            "first run's options, or start over with --overwrite.",
            path=str(out),
            keys=[key for key, _, _ in changes],
        )


def present_shards(out: Path, identity: Json, count: int) -> set[int]:
    """The shards that are already written, each checked against its hash and the identity.

    Raises:
        OutputError: a shard is damaged or belongs to another run.
    """
    found = set()
    for index in range(count):
        path = out / shard_name(index)
        if path.exists():
            refuse_other(path, read_info(path)["identity"], identity)
            found.add(index)
    return found


def write_manifest(out: Path, identity: Json, count: int) -> Json:
    """Gather the shards' facts, write `rejected.jsonl`, then the manifest.

    The same shards give the same bytes, whoever writes it.
    """
    shards, lines = [], []
    counts = dict.fromkeys(("rows", "truncated", "without_prefix", "zero_vectors"), 0)
    fused, prefill = False, set()
    for index in range(count):
        path = out / shard_name(index)
        info = read_info(path)
        lines += info["rejected"]
        shards.append(
            {
                "file": path.name,
                "rows": info["rows"],
                "bytes": path.stat().st_size,
                "hash": digest_file(path),
                **{key: info[key] for key in ("restarted_with_batch_tokens",) if key in info},
            }
        )
        for key in counts:
            counts[key] += info[key]
        fused |= info["norm_was_fused"]
        prefill.add(info["prefill"])
    manifest = {
        "format": FORMAT,
        "rows": counts["rows"],
        "rejected": len(lines),
        "truncated": counts["truncated"],
        "rows_without_prefix": counts["without_prefix"],
        "zero_vectors": counts["zero_vectors"],
        "norm_was_fused": fused,
        "prefill": "+".join(sorted(prefill)),
        "identity": identity,
        "shards": shards,
    }
    if lines:
        write_atomic(out / REJECTED, to_lines(lines))
    write_json(out / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> Json:
    """The manifest of a finished set.

    Raises:
        OutputError: no set, an unfinished one, or another format.
        StorageError: it cannot be read.
    """
    path = folder / MANIFEST
    with reading(path):
        if not path.exists():
            if (folder / IDENTITY).exists():
                raise OutputError(
                    f"{folder} is not finished: it has no {MANIFEST}. Run the same `gaincurate score` "
                    "command again to go on.",
                    path=str(folder),
                )
            raise OutputError(
                f"{folder} is no scored set: it has no {MANIFEST}. `gaincurate score DATA --model M "
                f"--out {folder}` makes one.",
                path=str(folder),
            )
        text = path.read_bytes()
    try:
        manifest: Json = json.loads(text)
        found = manifest["format"]
    except (ValueError, LookupError, TypeError) as error:
        raise OutputError(
            f"{path} is damaged. Delete that file and run the same `gaincurate score` command again: it is "
            "written anew from the shards, and no row is scored again.",
            path=str(path),
        ) from error
    if manifest.get("kind") is not None:  # other sets say what they are
        raise OutputError(
            f"{folder} is no scored set: it holds {manifest['kind']}. Give the folder that `gaincurate "
            "score` wrote.",
            path=str(folder),
        )
    if found != FORMAT:
        raise OutputError(
            f"{folder} has format {found}, this version reads {FORMAT}; use the gaincurate version "
            "that wrote it, or score again.",
            path=str(folder),
        )
    return manifest


def remove_set(out: Path) -> None:
    """Delete a scored set's own files, but for its identity, and nothing else (`--overwrite`).

    Raises:
        StorageError: a file cannot be deleted.
    """
    # The manifest goes first, and the identity stays until the next one replaces it: a kill in between
    # leaves what looks like an unfinished set and is one.
    paths = [out / MANIFEST, out / REJECTED, out / EXECUTION, work_folder(out) / "ids.bin"]
    try:
        for path in [*paths, *sorted(out.glob("shard-*.arrow"))]:
            path.unlink(missing_ok=True)
        if (out / COLUMNS).is_dir():
            shutil.rmtree(out / COLUMNS)
    except OSError as error:
        raise StorageError(
            f"cannot delete {error.filename}: {reason_of(error)}. Put that right and run the same command "
            "again.",
            path=str(error.filename),
            errno=error.errno,
        ) from error
