"""The rollout set: Arrow shards of completions and rewards, and what is read from them.

A folder with the guarantees of a scored set, see `Artifact`. Rollouts are rows, not lists per prompt, so that
a prompt may have any number of them and a reader can take the columns that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.artifact import IDENTITY, MANIFEST, Artifact, Json, Kind, open_table
from gaincurate.core.files import remove_temporaries
from gaincurate.core.foreign import json_file
from gaincurate.core.progress import Progress
from gaincurate.core.schema import ID
from gaincurate.difficulty.prompts import Completion
from gaincurate.errors import InputError

KIND = "rollouts"
BROKEN = "broken.jsonl"
SCHEMA = pa.schema(
    {
        ID: pa.string(),
        "sample": pa.int32(),
        "completion": pa.string(),
        "reward": pa.float64(),
        "reason": pa.string(),
        "tokens": pa.int32(),
        "prompt_tokens": pa.int32(),
        "finish_reason": pa.string(),
        "logprobs": pa.list_(pa.float32()),
        "token_ids": pa.list_(pa.int32()),
    }
)
_MARKS = {"math": ("<answer>", "\\boxed{", "####"), "reasoning-gym": ("<answer>",), "exact": ("<answer>",)}
"""The marks that our verifiers search for in a completion before they use the text after its thoughts."""
_COUNTS = ("prompts", "rollouts", "unjudged", "tokens")

Judged = tuple[Completion, float | None, str | None]
"""A completion, its reward, and why it has none."""


def _totals(parts: Sequence[Json], rejected: int) -> Json:
    """The head of a rollout set's manifest."""
    counts = {name: sum(part[name] for part in parts) for name in _COUNTS}
    return {"kind": KIND, **counts, "rejected": rejected}


ROLLOUTS = Kind(
    name="rollout set",
    holds=KIND,
    format=1,
    command="gaincurate difficulty rollout",
    example="SCORED --model M",
    totals=_totals,
    part_facts=_COUNTS,
    before=(BROKEN,),
    work="*.jsonl",
)


def write_shard(
    out: Path, index: int, identity: Json, judged: Sequence[Judged], rejected: Sequence[Json]
) -> None:
    """Write one shard whole."""
    done, rewards, reasons = zip(*judged, strict=True) if judged else ((), (), ())
    given = {"completion": [each.text for each in done], "reward": rewards, "reason": reasons}
    arrays = [
        pa.array(given.get(field.name) or [getattr(each, field.name) for each in done], field.type)
        for field in SCHEMA
    ]
    write_table(out, index, identity, pa.table(arrays, schema=SCHEMA), rejected)


def write_table(out: Path, index: int, identity: Json, table: pa.Table, rejected: Sequence[Json]) -> None:
    """Write one shard whole; the table has the columns of `SCHEMA` and owns fresh buffers."""
    facts = {
        "prompts": len(table.column(ID).unique()),
        "rollouts": len(table),
        "unjudged": table.column("reward").null_count,
        "tokens": pc.sum(table.column("tokens")).as_py() or 0,
        "rejected": list(rejected),
    }
    Artifact(out, ROLLOUTS).write_part(index, identity, table, facts)


def written_shards(artifact: Artifact, identity: Json, count: int, *, overwrite: bool) -> set[int] | None:
    """The shards that an earlier run of the same identity wrote; None if the set is to be begun.

    Raises `OutputError` if the folder holds rollouts of another identity, or a damaged shard.
    """
    remove_temporaries(artifact.folder)
    begun = artifact.read_identity(damaged=overwrite)
    if overwrite and (artifact.finished or begun != identity):
        begun = None  # the same command again, after an interruption, goes on
    artifact.refuse_other(begun or identity, identity)
    return artifact.present(identity, count) if begun else None


def shards_to_make(
    artifact: Artifact,
    identity: Json,
    sizes: Sequence[int],
    written: set[int] | None,
    progress: Progress,
    **shown: str,
) -> Iterator[int]:
    """Begin the set, or open it again; yield the shards to make, and finish the set after the last of them.

    `written` is the result of `written_shards`. `progress` counts `sizes`, and shows the words in `shown`.
    """
    if written is None:
        artifact.remove()
        artifact.begin(identity)
    missing = [index for index in range(len(sizes)) if index not in (written or ())]
    if missing:
        artifact.reopen()
    progress.start(sum(sizes), sum(sizes) - sum(sizes[index] for index in missing), **shown)
    yield from missing
    if not artifact.finished:
        artifact.finish(identity, len(sizes))


def is_rollout_set(path: Path) -> bool:
    """Whether a folder is a rollout set, finished or not."""
    for name in (MANIFEST, IDENTITY):
        with suppress(OSError, ValueError, AttributeError):
            if json_file(path / name).get("kind") == KIND:
                return True
    return False


class RolloutSet:
    """A finished rollout set, opened for reading; every shard is checked against its hash.

    Raises `OutputError` for no finished rollout set, and if a file is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files = Artifact(self.folder, ROLLOUTS)
        self.manifest: Json = self._files.read_manifest()

    def shard(self, index: int) -> pa.Table:
        """A shard, memory-mapped. Raises `OutputError` if its file is missing or not as in the manifest."""
        return open_table(self._files.check(self.manifest["shards"][index]))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The shards, or some columns of them; raises as `shard` does."""
        for index in range(len(self.manifest["shards"])):
            table = self.shard(index)
            yield table if columns is None else table.select(list(columns))


def pass_rates(folder: str | Path, *, success: float | None = None) -> pa.Table:
    """Each prompt's wins and losses: `gc_id`, `wins`, `losses` (float64), `samples` (int64).

    A reward counts as that share of a win. `samples` is the number of judged rollouts, 0 for a prompt without
    any.

    Args:
        folder: a finished rollout set.
        success: a rollout with at least this reward is a win, any other a loss. Default: see above.

    Raises:
        OutputError: no finished rollout set.
        InputError: `success` is not from 0 to 1.
    """
    if success is not None and not 0 < success <= 1:
        raise InputError(f"success {success}: expected a reward above 0 and up to 1.")
    kinds = {"wins": pa.float64(), "losses": pa.float64(), "samples": pa.int64()}
    schema = pa.schema({ID: pa.string(), **kinds})
    tables = [schema.empty_table()]
    for table in RolloutSet(folder).tables([ID, "reward"]):  # a prompt is in one shard only
        rewards = table.column("reward").to_numpy(zero_copy_only=False).astype(np.float64)
        ids = table.column(ID).combine_chunks().dictionary_encode()  # in order of first appearance
        places, judged = ids.indices.to_numpy(), ~np.isnan(rewards)
        value = rewards if success is None else (rewards >= success).astype(np.float64)
        count = len(ids.dictionary)
        wins = np.bincount(places[judged], value[judged], count)
        samples = np.bincount(places[judged], minlength=count)
        columns = [ids.dictionary, wins, samples - wins, samples]
        tables.append(pa.table(columns, schema=schema))
    return pa.concat_tables(tables)


def unmarked(rollouts: RolloutSet) -> str | None:
    """A warning if no completion is right or has the marks of its verifier, else None."""
    marks = _MARKS.get(rollouts.manifest["identity"].get("verifier", {}).get("name"), ())
    for table in rollouts.tables(["completion", "reward"]):
        texts = table.column("completion")
        marked = any(pc.any(pc.match_substring(texts, mark)).as_py() for mark in marks)
        if marked or pc.max(table.column("reward")).as_py() == 1:
            return None
    if not marks or not rollouts.manifest["rollouts"]:
        return None
    return (
        f"no completion is right, and none has {' or '.join(marks)}: is the verifier right, does the prompt "
        "ask for this format, and is --max-tokens large enough?"
    )


def outcome_lines(folder: str | Path, round_: int) -> Iterator[Json]:
    """A schedule's outcome lines, one for each rollout; a rollout that was not judged has reward None."""
    for table in RolloutSet(folder).tables([ID, "sample", "reward", "tokens"]):
        for row in table.to_pylist():
            line = {ID: row[ID], "reward": row["reward"], "round": round_, "sample": row["sample"]}
            yield line if row["tokens"] is None else {**line, "tokens": row["tokens"]}
