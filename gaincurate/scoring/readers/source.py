"""Turns DATA (a file, glob, folder or Hub id) into one stream of record batches with one schema.

Several files are one source in the order of their names, so shards do not depend on how the data was split.

Folders of `save_to_disk` and data sets on the Hub are read through the library `datasets`. It memory-maps
cached files without checking their offsets, so the files are validated here first.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gaincurate.core.arrow import ipc_batches, one_line, validate
from gaincurate.core.artifact import MANIFEST, Artifact
from gaincurate.core.files import digest_files, digest_json
from gaincurate.core.scored_set import SCORES
from gaincurate.core.store import Remote, fetch_data, located
from gaincurate.errors import SourceError, storage_error
from gaincurate.scoring.readers.files import BATCH_ROWS, Reader, open_file, refused, unreadable_as

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet", ".arrow", ".csv", ".csv.gz")
_SPLITS = {"train", "test", "validation", "valid", "val", "dev", "eval"}
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?(@[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Source:
    """An opened data set."""

    name: str
    schema: pa.Schema
    rows: int  # after `--limit`
    fingerprint: str  # a hash of the files' bytes, or the fingerprint of `datasets` for a Hub set
    readers: tuple[Reader, ...]

    def batches(self, start: int = 0) -> Iterator[pa.RecordBatch]:
        """The rows from number `start` to the end or the limit, in order."""
        position, skip = start, start
        for reader in self.readers:
            for batch in reader.batches(self.schema, skip) if skip < reader.rows else ():
                if position >= self.rows:
                    return
                yield batch.slice(0, self.rows - position)
                position += batch.num_rows
            skip = max(0, skip - reader.rows)

    def first(self) -> pa.Table:
        """The first batch of rows."""
        return pa.Table.from_batches([next(self.batches())], self.schema)


class Cursor:
    """Reads row ranges of a source, in one pass if they ascend."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._position = source.rows  # at the end, so that the first range opens it
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows `start` to `stop` (exclusive) as one table; raises a SourceError if the source shrank."""
        if start < self._position:
            self._batches, self._rest, self._position = self._source.batches(start), None, start
        # Rows between two ranges are read and dropped: reopening a text file parses it from its start.
        parts = []
        while self._position < stop:
            batch = next(self._batches, None) if self._rest is None else self._rest
            if batch is None:
                raise SourceError(
                    f"{self._source.name} ended at row {self._position} of {self._source.rows}: it "
                    "changed while it was read. Run again.",
                    row=self._position,
                )
            count = min(batch.num_rows, stop - self._position)
            if (before := max(0, start - self._position)) < count:
                parts.append(batch.slice(before, count - before))
            self._rest = batch.slice(count) if count < batch.num_rows else None
            self._position += count
        return pa.Table.from_batches(parts, self._source.schema)


def open_source(data: str, *, split: str | None = None, limit: int | None = None) -> Source:
    """Open a file, a glob, a folder, a `save_to_disk` folder (all also in an object store) or a Hub id.

    Args:
        data: the path, the pattern, the URL, or `owner/name[:config][@revision]` on the Hub.
        split: the split of a Hub set or `save_to_disk` folder; in a folder, files with it in their name.
        limit: take the first rows only.

    Raises:
        SourceError: the data does not exist, is not readable or has no rows, or files differ in types.
        StorageError: the file system refused a read.
    """
    if not data:  # Path("") would be the working folder
        raise SourceError("DATA is an empty text; expected a file, a folder or a data set.")
    place, name = located(data), data
    try:
        if isinstance(place, Remote):
            name = fetch_data(place, SUFFIXES)
        path = Path(name)
        if path.is_dir():
            saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
        else:
            is_path = os.path.lexists(path) or name.endswith(SUFFIXES)
            saved = not is_path and bool(_HUB_ID.fullmatch(name))
        if saved:
            readers, fingerprint = _from_datasets(name, split)
        else:
            paths = _folder(path, split) if path.is_dir() else _named(name, split)
            readers, fingerprint = tuple(map(open_file, paths)), digest_files(paths)
    except OSError as error:
        raise storage_error(Path(error.filename or name), error, "read") from error
    rows = sum(reader.rows for reader in readers)
    if rows == 0:
        raise refused(data, " holds no rows.")
    return Source(data, _one_schema(data, readers), min(rows, limit or rows), fingerprint, readers)


def _named(data: str, split: str | None) -> list[Path]:
    """The files of a path or a pattern, in the order of their names."""
    path = Path(data)
    if path.is_file():
        paths = [path]
    elif any(c in data for c in "*?["):
        paths = sorted(Path(p) for p in glob.glob(data, recursive=True) if Path(p).is_file())
        if not paths:
            raise SourceError(f"no file matches {data!r}.", path=data)
    elif os.path.lexists(path):
        why = "is no regular file, nor a link to one. Data is read more than once: write it to a file"
        raise refused(data, f" {why}.")
    else:
        raise refused(data, " does not exist. A data set on the Hub is owner/name.")
    for path in paths:
        if not path.name.endswith(SUFFIXES):
            why = f"cannot tell the format from its name; the endings read are {', '.join(SUFFIXES)}"
            raise refused(path, f": {why}.")
        if not path.stat().st_size:
            raise refused(path, " is empty.")
    if split is not None:
        raise SourceError(
            f"--split {split} chooses within a folder or data set; {data} names its files. Leave it out."
        )
    return paths


def _folder(folder: Path, split: str | None) -> list[Path]:
    if (folder / MANIFEST).exists():  # a scored set: score its rows again
        return [folder / entry["file"] for entry in Artifact(folder, SCORES).read_manifest()["shards"]]
    paths = sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(SUFFIXES))
    listed = ", ".join(p.name for p in paths[:10])
    formats = {next(end for end in (".parquet", ".arrow", ".csv", ".json") if end in p.name) for p in paths}
    words = {p: re.split(r"[^a-zA-Z0-9]+", p.name) for p in paths}
    chosen = [p for p in paths if split is None or split in words[p]]
    # The first word in each name that is a split's.
    splits = {next((word for word in map(str.lower, words[p]) if word in _SPLITS), None) for p in paths}
    why = ""
    if not paths:
        why = f"holds no data file; the endings read are {', '.join(SUFFIXES)}"
    elif len(formats) > 1:
        why = f"holds files of several formats ({listed}), perhaps the same rows twice; give one format as a "
        why += "quoted glob, such as '*.parquet'"
    elif not chosen:
        why = f"has no file with the split {split!r} in its name: {listed}"
    elif split is None and len(splits - {None}) > 1:
        why = f"holds several splits ({listed}); choose one with --split"
    if why:
        raise refused(folder, f" {why}.")
    return chosen


def _one_schema(data: str, readers: tuple[Reader, ...]) -> pa.Schema:
    """The first part's schema, widened as later parts need it."""
    for names in (reader.schema.names for reader in readers):
        if len(set(names)) < len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise refused(data, f" has two columns named {repeated!r}; rename one.")
    schema = readers[0].schema
    for reader in readers[1:]:
        if reader.schema.equals(schema):
            continue
        try:
            schema = pa.unify_schemas([schema, reader.schema], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            why = f" does not fit the files before it: {one_line(error)}"
            raise refused(reader.path, f"{why}. Score them apart, or make their columns alike.") from error
    # A column that a part lacks is null there, so it is nullable.
    lacking = {name for name in schema.names for reader in readers if name not in reader.schema.names}
    fields = [field.with_nullable(True) if field.name in lacking else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _from_datasets(data: str, split: str | None) -> tuple[tuple[Reader, ...], str]:
    """The reader and fingerprint of a `save_to_disk` folder or Hub set `owner/name[:config][@revision]`."""
    try:
        import datasets
    except ImportError as error:
        raise SourceError(
            f"reading {data} needs the package datasets: `pip install datasets`, or give a .parquet, "
            ".jsonl, .arrow or .csv file."
        ) from error
    saved = Path(data).is_dir()
    name, _, revision = data.partition("@")
    name, _, config = name.partition(":")
    broken = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)
    loaded: Any
    try:
        if saved:
            what = "looks like a folder of `save_to_disk` and cannot be loaded as one"
            loaded = datasets.load_from_disk(data)
        else:
            what = "is no file or folder here, and as a data set on the Hub it cannot be loaded"
            loaded = datasets.load_dataset(name, config or None, revision=revision or None)
    except (*broken, datasets.exceptions.DatasetsError) as error:
        # Its own sentence names the cause: absent, private, damaged, made by a script.
        raise refused(data, f" {what}: {one_line(error)}") from error
    if isinstance(loaded, dict):
        if split is None and len(loaded) == 1:
            [split] = loaded
        elif split not in loaded:
            asked = f"no split {split!r}" if split else "several splits"
            raise refused(data, f" has {asked}; choose one with --split: {', '.join(loaded)}.")
        loaded = loaded[split]
    files = sorted({Path(entry["filename"]) for entry in loaded.cache_files})
    for path in files:  # the library maps these files without checks
        refuse = unreadable_as(path, "Arrow")
        for batch in ipc_batches(path, refuse)[1]:
            validate(batch, path, refuse)

    schema = loaded.features.arrow_schema

    def batches(_: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        for table in loaded.skip(skip).with_format("arrow").iter(BATCH_ROWS):
            yield from table.cast(schema).combine_chunks().to_batches()

    fingerprint = [loaded._fingerprint, digest_files(files)] if saved else [data, split, loaded._fingerprint]
    return (Reader(Path(data), schema, len(loaded), batches),), digest_json(fingerprint)
