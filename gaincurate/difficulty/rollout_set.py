"""The rollout set: Arrow shards of completions and rewards, and what is read from them.

A directory with the guarantees of a scored set: an identity written first, shards that carry it and a hash
of their own, a manifest written last. Knows nothing of how a completion was made or judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gaincurate.difficulty.engine import Completion
from gaincurate.errors import InputError, OutputError, StorageError, reason_of
from gaincurate.files import digest_file, reading, to_lines, write_atomic, write_json
from gaincurate.locks import WORK, work_folder
from gaincurate.schema import ID
from gaincurate.shards import (
    EXECUTION,
    IDENTITY,
    MANIFEST,
    REJECTED,
    Json,
    differing_keys,
    encode_shard,
    open_table,
    read_info,
    shard_name,
)

FORMAT = 1
KIND = "rollouts"
BROKEN = "broken.jsonl"
SCHEMA = pa.schema(
    [
        pa.field(ID, pa.string()),
        pa.field("sample", pa.int32()),
        pa.field("completion", pa.string()),
        pa.field("reward", pa.float64()),
        pa.field("reason", pa.string()),
        pa.field("tokens", pa.int32()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("finish_reason", pa.string()),
        pa.field("logprobs", pa.list_(pa.float32())),
        pa.field("token_ids", pa.list_(pa.int32())),
    ]
)
_COUNTS = ("prompts", "rollouts", "unjudged", "tokens")

Judged = tuple[Completion, float | None, str | None]
"""A completion, its reward, and why it has none."""


def rollout_table(judged: Sequence[Judged]) -> pa.Table:
    """The rows of a shard."""
    done = [item[0] for item in judged]
    columns: list[Any] = [
        [c.gc_id for c in done],
        [c.sample for c in done],
        [c.text for c in done],
        [reward for _, reward, _ in judged],
        [reason for _, _, reason in judged],
        [c.tokens for c in done],
        [c.prompt_tokens for c in done],
        [c.finish_reason for c in done],
        [c.logprobs for c in done],
        [c.token_ids for c in done],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    return pa.table(arrays, schema=SCHEMA)


def write_shard(
    out: Path, index: int, identity: Json, judged: Sequence[Judged], rejected: Sequence[Json]
) -> None:
    """Write one shard whole."""
    info = {
        "format": FORMAT,
        "identity": identity,
        "shard": index,
        "prompts": len({item[0].gc_id for item in judged}),
        "rollouts": len(judged),
        "unjudged": sum(reward is None for _, reward, _ in judged),
        "tokens": sum(item[0].tokens or 0 for item in judged),
        "rejected": list(rejected),
    }
    write_atomic(out / shard_name(index), encode_shard(rollout_table(judged), info))


def present(out: Path, identity: Json, count: int) -> set[int]:
    """The shards that are there, each checked against its hash and the identity.

    Raises:
        OutputError: one is damaged or of another run.
    """
    found = set()
    for index in range(count):
        path = out / shard_name(index)
        if path.exists():
            refuse_other(path, read_info(path)["identity"], identity)
            found.add(index)
    return found


def write_manifest(out: Path, identity: Json, count: int) -> Json:
    """Gather the shards' facts, write `rejected.jsonl`, then the manifest."""
    shards, lines, sums = [], [], dict.fromkeys(_COUNTS, 0)
    for index in range(count):
        path = out / shard_name(index)
        info = read_info(path)
        lines += info["rejected"]
        facts = {key: info[key] for key in _COUNTS}
        sums = {key: sums[key] + facts[key] for key in _COUNTS}
        shards.append({"file": path.name, **facts, "bytes": path.stat().st_size, "hash": digest_file(path)})
    if lines:
        write_atomic(out / REJECTED, to_lines(lines))
    head = {"format": FORMAT, "kind": KIND, **sums, "rejected": len(lines)}
    manifest = {**head, "identity": identity, "shards": shards}
    write_json(out / MANIFEST, manifest)
    return manifest


def read_identity(out: Path, *, damaged: bool = False) -> Json | None:
    """The identity that a folder was begun with, or None where none was.

    Args:
        out: the folder.
        damaged: take a damaged identity for none.

    Raises:
        OutputError: the folder holds something else, or its identity is damaged.
        StorageError: it cannot be read.
    """
    path = out / IDENTITY
    with reading(path):
        if out.exists() and not out.is_dir():
            raise OutputError(f"--out {out} is no folder; give the name of a folder.", path=str(out))
        if not path.exists():
            ours = (WORK, BROKEN)
            others = [p.name for p in out.iterdir()] if out.exists() else []
            others = [name for name in others if name not in ours and not _temporary(name)]
            if others:
                raise OutputError(
                    f"--out {out} already holds {min(others)!r} and is no rollout set; give a new or empty "
                    "folder.",
                    path=str(out),
                )
            return None
        text = path.read_bytes()
    try:
        identity: Json = json.loads(text)
        kind = identity.get("kind")
    except (ValueError, AttributeError) as error:
        if damaged:
            return None
        raise OutputError(
            f"{path} is damaged, so what made the rollouts there is not known; start over with --overwrite.",
            path=str(path),
        ) from error
    if kind != KIND:
        raise OutputError(f"--out {out} is no rollout set; give a new or empty folder.", path=str(out))
    return identity


def _temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def refuse_other(path: Path, old: Json, new: Json) -> None:
    """Compare identities.

    Raises:
        OutputError: they differ; names the keys with both values.
    """
    changes = list(differing_keys(old, new))
    if changes:
        listed = "; ".join(f"{key} was {was!r} and is now {now!r}" for key, was, now in changes[:6])
        more = f"; and {len(changes) - 6} more" if len(changes) > 6 else ""
        raise OutputError(
            f"{path} holds rollouts of another run: {listed}{more}. Give another --out, repeat the first "
            "run's options, or start over with --overwrite.",
            path=str(path),
            keys=[key for key, _, _ in changes],
        )


def remove_rollouts(out: Path) -> None:
    """Delete a rollout set's own files, but for its identity, and nothing else (`--overwrite`).

    Raises:
        StorageError: a file cannot be deleted.
    """
    # The manifest goes first: a kill in between leaves what looks like an unfinished set and is one.
    names = (MANIFEST, REJECTED, EXECUTION)
    try:
        for path in [*(out / name for name in names), *sorted(out.glob("shard-*.arrow"))]:
            path.unlink(missing_ok=True)
        for path in work_folder(out).glob("*.jsonl"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot delete {error.filename}: {reason_of(error)}. Put that right and run the same command "
            "again.",
            path=str(error.filename),
        ) from error


class RolloutSet:
    """A finished rollout set, opened for reading; every shard is checked against its hash.

    Raises:
        OutputError: the folder is no finished rollout set, or a file is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        with reading(path):
            text = path.read_bytes() if path.exists() else None
        if text is None:
            begun = (self.folder / IDENTITY).exists()
            raise OutputError(
                f"{folder} is not finished: it has no {MANIFEST}. Run the same `gaincurate difficulty "
                "rollout` command again to go on."
                if begun
                else f"{folder} is no rollout set: it has no {MANIFEST}. `gaincurate difficulty rollout` "
                "makes one.",
                path=str(folder),
            )
        try:
            self.manifest: Json = json.loads(text)
            kind, form = self.manifest.get("kind"), self.manifest.get("format")
        except (ValueError, AttributeError) as error:
            raise OutputError(f"{path} is damaged; delete it and run the command again.") from error
        if kind != KIND or form != FORMAT:
            raise OutputError(f"{folder} is no rollout set of format {FORMAT}.", path=str(folder))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """One memory-mapped table per shard.

        Raises:
            OutputError: a file is missing or does not match the manifest.
        """
        for entry in self.manifest["shards"]:
            path = self.folder / entry["file"]
            if not path.exists() or digest_file(path) != entry["hash"]:
                raise OutputError(
                    f"{path} is missing or damaged. Delete it and run the same `gaincurate difficulty "
                    "rollout` command again: only its prompts get new rollouts.",
                    path=str(path),
                )
            table = open_table(path)
            yield table if columns is None else table.select(list(columns))


def pass_rates(folder: str | Path, *, success: float | None = None) -> pa.Table:
    """What each prompt's rollouts came to: `gc_id`, `wins`, `losses` (float64), `samples` (int64).

    A reward counts as that much of a win. `samples` are those that were judged; a prompt with none of them is
    there with 0.

    Args:
        folder: a finished rollout set.
        success: the reward from which on a rollout is a win, and a loss below.

    Raises:
        OutputError: no finished rollout set.
        InputError: `success` is not from 0 to 1.
    """
    if success is not None and not 0 < success <= 1:
        raise InputError(f"success {success}: expected a reward above 0 and up to 1.")
    found: list[pa.Table] = []
    for table in RolloutSet(folder).tables([ID, "reward"]):
        # Rows of a prompt stand together, and a prompt is in one shard only.
        rewards = table.column("reward").to_numpy(zero_copy_only=False).astype(np.float64)
        ids = table.column(ID).combine_chunks().dictionary_encode()
        places, judged = ids.indices.to_numpy(), ~np.isnan(rewards)
        value = rewards if success is None else np.where(judged, rewards >= success, np.nan)
        count = len(ids.dictionary)
        wins = np.bincount(places[judged], value[judged], count)
        samples = np.bincount(places[judged], minlength=count)
        columns = [ids.dictionary, pa.array(wins), pa.array(samples - wins), pa.array(samples)]
        found.append(pa.table(columns, names=[ID, "wins", "losses", "samples"]))
    kinds = [pa.string(), pa.float64(), pa.float64(), pa.int64()]
    schema = pa.schema(list(zip((ID, "wins", "losses", "samples"), kinds, strict=True)))
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in found)])


def outcome_lines(folder: str | Path, round_: int) -> Iterator[Json]:
    """A schedule's outcome lines, one for each rollout; a rollout that was not judged has reward None."""
    for table in RolloutSet(folder).tables([ID, "sample", "reward", "tokens"]):
        for row in table.to_pylist():
            line = {ID: row[ID], "reward": row["reward"], "round": round_, "sample": row["sample"]}
            yield line if row["tokens"] is None else {**line, "tokens": row["tokens"]}
