"""Reading a finished scored set (contract 1): whole columns, and rows by id or by place.

Rows stay in the memory-mapped files. A shard is checked against the manifest's hash when it is first opened,
and a column is validated when it is first used, because a schedule needs two columns of a set of many
gigabytes. A set in an object store is first copied into the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from gaincurate.core.arrow import open_ipc, refusing, write_ipc
from gaincurate.core.artifact import MANIFEST, Artifact, Json, Kind, broken, open_table, without_info
from gaincurate.core.files import digest_file, make_folder, reading
from gaincurate.core.options import near
from gaincurate.core.schema import FORMAT, ID, take
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import InputError, OutputError

COLUMNS = "columns"  # the folder of computed columns, beside the shards
_BROKEN = "`gaincurate score` did not write it so: get the set again from where it came, or score again."
_FEW = 64  # rows of a shard per taken row, above which validating only the taken rows is faster
_AGAIN = "delete that column's .arrow and .json file, and make it again if you need it"


def _totals(parts: Sequence[Json], rejected: int) -> Json:
    """The head of a scored set's manifest."""
    return {
        "rows": sum(part["rows"] for part in parts),
        "rejected": rejected,
        "truncated": sum(part["truncated"] for part in parts),
        "rows_without_prefix": sum(part["without_prefix"] for part in parts),
        "zero_vectors": sum(part["zero_vectors"] for part in parts),
        "norm_was_fused": any(part["norm_was_fused"] for part in parts),
        "prefill": "+".join(sorted({part["prefill"] for part in parts})),
    }


SCORES = Kind(
    name="scored set",
    holds="scores",
    format=FORMAT,
    command="gaincurate score",
    example="DATA --model M",
    totals=_totals,
    part_facts=("rows",),
    more_facts=("restarted_with_batch_tokens", "reused"),
    subfolders=(COLUMNS,),
    work="ids.bin",
    in_stores=True,
    hints={
        "segmentation.rendering": " (the chat template writes today's date, it seems: pin it, for Llama 3 "
        'with --template-kwargs \'{"date_string": "26 Jul 2024"}\')'
    },
)
"""The description of a scored set for `Artifact`."""


class ScoredSet:
    """A finished scored set, opened for reading.

    Args:
        folder: the directory that `gaincurate score` wrote, or its URL in an object store.
        verify: check each shard's hash when it is first opened (once per object).
        cache: where a set in an object store is copied to. Default: the cache of the process.

    Raises:
        OutputError: the folder is no finished set, or a file is missing or damaged.
        StorageError: the object store refused or cannot be reached.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True, cache: Path | None = None) -> None:
        self._artifact = Artifact(Path(folder), SCORES, cache)
        self._artifact.pull()
        self.place, self.folder = self._artifact.place, self._artifact.folder
        """The given place (a URL for a set in a store) and the folder of its files (then a local copy)."""
        self.manifest = self._artifact.read_manifest()
        self.manifest_hash = digest_file(self.folder / MANIFEST)  # names this set's exact content
        self._sizes = np.array([entry["rows"] for entry in self.manifest["shards"]], np.int64)
        self._verify = verify
        self._opened: dict[int, tuple[pa.Table, set[str]]] = {}
        with reading(self.folder):
            for entry in self.manifest["shards"]:
                path = self.folder / entry["file"]
                if not path.exists() or path.stat().st_size != entry["bytes"]:
                    raise self._artifact.mismatch(path)

    @property
    def identity(self) -> Json:
        """All that can change a value in this set."""
        return cast("Json", self.manifest["identity"])

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    def __repr__(self) -> str:
        names = ", ".join(self.schema.names)
        return f"ScoredSet({str(self.folder)!r}: {len(self):,} rows; {names})"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows as Python values, in source order; computed columns are joined."""
        for table in self.tables():
            for batch in table.to_batches():
                yield from batch.to_pylist()

    def __getitem__(self, place: int) -> dict[str, Any]:
        """The row at a place as Python values, from the end if it is negative; an IndexError beyond both."""
        if not -len(self) <= place < len(self):
            raise IndexError(f"{self.folder} has {len(self):,} rows; there is no row {place}")
        return dict(self.take([place % len(self)]).to_pylist()[0])

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """For any library that reads Arrow (`polars.from_arrow(scored)`, `pyarrow.table(scored)`)."""
        batches = (batch for table in self.tables() for batch in table.to_batches())
        return pa.RecordBatchReader.from_batches(self.schema, batches).__arrow_c_stream__(requested_schema)

    def to_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, `[rows]`, with these columns or all; shards stay memory-mapped."""
        return pa.concat_tables(self.tables(columns))

    @property
    def schema(self) -> pa.Schema:
        """Source columns, score columns, then computed columns."""
        return self._shard(0, []).schema

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return list(self.schema.names)

    def verify(self) -> None:
        """Check every shard now.

        Raises:
            OutputError: a file does not match the manifest.
        """
        for entry in self.manifest["shards"]:
            self._artifact.check(entry)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """One memory-mapped table per shard, in source order."""
        for index in range(len(self.manifest["shards"])):
            table = self._shard(index, columns)
            yield table if columns is None else table.select(list(columns))

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the whole set.

        Raises:
            InputError: no such column; lists those there are.
        """
        if name not in self.schema.names:
            raise InputError(
                f"{self.place} has no column {name!r}; it has {', '.join(self.schema.names)}"
                f"{near(name, self.schema.names)}.",
                column=name,
            )
        chunks = [table.column(name) for table in self.tables([name])]
        return pa.chunked_array([c for column in chunks for c in column.chunks], chunks[0].type)

    def rows(self, ids: Sequence[str]) -> pa.Table:
        """The rows with these ids, in the order asked for.

        Raises:
            InputError: an id that is not in the set.
        """
        return self.take(self._find(ids))

    def take(self, rows: npt.ArrayLike) -> pa.Table:
        """The rows at these places of the whole set, counted from 0 in source order; in the order asked for.

        Only the shards that hold them are opened.

        Raises:
            InputError: a place that the set does not have.
        """
        places = np.asarray(rows, np.int64)
        if len(places) and not 0 <= places.min() <= places.max() < len(self):
            wrong = places.min() if places.min() < 0 else places.max()
            raise InputError(f"{self.place} has {len(self):,} rows; there is no row {wrong}.")
        if not len(places):
            return pa.Table.from_batches([], self.schema)
        begins = np.cumsum(self._sizes) - self._sizes
        shards = np.searchsorted(begins, places, side="right") - 1  # the last that begins there: no empty one
        order = np.argsort(shards, kind="stable")
        distinct, starts = np.unique(shards[order], return_index=True)
        parts = []
        for shard, here in zip(distinct.tolist(), np.split(places[order], starts[1:]), strict=True):
            parts.append(self._take(shard, pa.array(here - begins[shard])))
        return take(pa.concat_tables(parts), pa.array(np.argsort(order, kind="stable")))

    def _find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """The places of the rows with these ids in the whole set, `[ids]`."""
        wanted, places, before = pa.array(ids, pa.string()), np.full(len(ids), -1), 0
        for index, rows in enumerate(self._sizes.tolist()):
            if places.min(initial=0) == 0:
                break  # later shards stay unopened
            here = pc.index_in(wanted, value_set=self._own(index, [ID]).column(ID).combine_chunks())
            here = here.fill_null(-1).to_numpy()
            places = np.where(here < 0, places, here + before)
            before += rows
        if absent := [ids[i] for i in np.flatnonzero(places < 0).tolist()]:
            more = f" (and {len(absent) - 1} more of those asked for)" if absent[1:] else ""
            raise InputError(f"{self.place} has no row with id {absent[0]!r}{more}.", ids=absent)
        return places

    def row(self, gc_id: str) -> dict[str, Any]:
        """One row by id, as Python values.

        Raises:
            InputError: an id that is not in the set.
        """
        return dict(self.rows([gc_id]).to_pylist()[0])

    def add_column(
        self, name: str, ids: Sequence[str], values: pa.Array, how: Json, *, folder: Path | None = None
    ) -> None:
        """Write a computed column beside the finished shards (contract 1b); other ids get null.

        Args:
            name: `gc_` and letters, digits or underscores, not yet in the set's shards.
            ids: the rows that have a value, each once.
            values: one value per id.
            how: its origin, written beside it with the hash of this set's manifest.
            folder: of its two files. Default: beside the shards, where every reader finds it.

        Raises:
            InputError: a name that is taken or ill-formed, a repeated or unknown id.
        """
        why = ""
        if self._artifact.mirror is not None and folder is None:
            why = f"{self.place}: computed columns are not written into an object store. Copy the set to a "
            why += "local folder, compute them there and copy them back."
        elif not (name.startswith("gc_") and name.isidentifier()):
            why = f"computed column {name!r}: the name must be gc_ and letters, digits or underscores."
        elif name in self._own(0, []).schema.names:
            why = f"column {name!r} is part of the shards, which are immutable."
        elif len(ids) != len(values) or len(set(ids)) != len(ids):
            why = f"computed column {name!r} needs one value for each id, each id once."
        if why:
            raise InputError(why)
        self._find(ids)  # refuses ids that are not here
        path = (folder or self.folder / COLUMNS) / f"{name}.arrow"
        make_folder(path.parent)
        write_ipc(path, pa.table({ID: pa.array(ids, pa.string()), "value": values}))
        # The description is written last: a column without one is ignored, one with another hash is refused.
        description = {"manifest": self.manifest_hash, "hash": digest_file(path), "how": how}
        write_sealed(path.with_suffix(".json"), description)
        self.__dict__.pop("_computed", None)  # read again when it is next used

    def computed_columns(self) -> dict[str, Json]:
        """Names and descriptions of the computed columns: the manifest's hash, their own, how made.

        Raises:
            OutputError: a description is damaged.
            StorageError: it cannot be read.
        """
        paths = sorted((self.folder / COLUMNS).glob("gc_*.json"))
        return {path.stem: read_sealed(path, _AGAIN) for path in paths}

    def _own(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The stored columns of a shard, memory-mapped; `columns`, or all, are validated on first use."""
        entry = self.manifest["shards"][index]
        path = self.folder / entry["file"]
        if index not in self._opened:
            if self._verify:
                self._artifact.check(entry)
            self._opened[index] = without_info(open_ipc(path, broken(path, _BROKEN))), set()
        table, validated = self._opened[index]
        names = set(table.column_names).intersection(table.column_names if columns is None else columns)
        if names := names - validated:
            with refusing(path, broken(path, _BROKEN)):
                table.select(sorted(names)).validate(full=True)
            validated |= names
        return table

    def _shard(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """A shard with its computed columns; of the stored columns, `columns` or all are validated."""
        table, before = self._own(index, columns), int(self._sizes[:index].sum())
        for name, column in self._computed.items():
            table = table.append_column(name, column.slice(before, len(table)))
        return table

    def _take(self, index: int, places: pa.Array) -> pa.Table:
        """Rows of a shard. If they are few, only their values are validated instead of whole columns."""
        if len(places) * _FEW >= self._sizes[index]:
            return take(self._shard(index), places)
        stored, path = self._own(index, []), self.folder / self.manifest["shards"][index]["file"]
        # A slice of nested or dictionary values refers to all children, so these are validated as columns.
        nested = [
            field.name for field in stored.schema if pt.is_nested(field.type) or pt.is_dictionary(field.type)
        ]
        flat = stored.drop_columns(nested)
        with refusing(path, broken(path, _BROKEN)):
            for place in places.to_pylist():
                flat.slice(place, 1).validate(full=True)
        return take(self._shard(index, nested), places)

    @cached_property
    def _computed(self) -> dict[str, pa.ChunkedArray]:
        """The computed columns, each in the order of the set's rows."""
        columns: dict[str, Any] = self.computed_columns()
        if columns:
            shards = (self._own(index, [ID]) for index in range(len(self._sizes)))
            ids = pa.chunked_array([table.column(ID).combine_chunks() for table in shards], pa.string())
            for name, how in columns.items():
                path = self.folder / COLUMNS / f"{name}.arrow"
                if how["manifest"] != self.manifest_hash:
                    why = f"was made for another set (its manifest hash differs); {_AGAIN}."
                    raise OutputError(f"{path} {why}", path=str(path))
                if not path.exists() or digest_file(path) != how["hash"]:
                    raise OutputError(f"{path} is missing or damaged; {_AGAIN}.", path=str(path))
                table = open_table(path, broken(path, f"{_AGAIN.capitalize()}."))
                places = pc.index_in(ids, value_set=table.column(ID).combine_chunks())
                columns[name] = take(table.select(["value"]), places).column(0)
        return columns


def open_scores(folder: str | Path, *, verify: bool = True, cache: Path | None = None) -> ScoredSet:
    """Open a finished scored set, local or in an object store; see `ScoredSet`."""
    return ScoredSet(folder, verify=verify, cache=cache)
