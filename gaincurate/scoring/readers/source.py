"""DATA as a user names it (file, glob, folder, Hub id) to one stream of record batches with one schema.

Several files are one source in the order of their names, so shards do not depend on how the data was split.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from gaincurate.core.artifact import MANIFEST, Artifact
from gaincurate.core.files import digest_files
from gaincurate.core.scored_set import SCORES
from gaincurate.errors import SourceError
from gaincurate.scoring.readers.common import Reader, unreadable
from gaincurate.scoring.readers.files import open_file
from gaincurate.scoring.readers.hub import from_hub, saved_to_disk

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet", ".arrow", ".csv", ".csv.gz")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?(@[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Source:
    """An opened data set.

    `fingerprint` is a hash of the content (of the files' bytes, or what `datasets` says of a Hub set),
    `rows` the number after `--limit`.
    """

    name: str
    schema: pa.Schema
    rows: int
    fingerprint: str
    readers: tuple[Reader, ...]

    def batches(self, start: int = 0) -> Iterator[pa.RecordBatch]:
        """The rows from number `start` to the end (or the limit), in order."""
        position, skip = start, start
        for reader in self.readers:
            if skip >= reader.rows:
                skip -= reader.rows
                continue
            for batch in reader.batches(self.schema, skip):
                if position >= self.rows:
                    return
                yield batch.slice(0, self.rows - position)
                position += batch.num_rows
            skip = 0


class Cursor:
    """Reads row ranges of a source, in one pass as long as they ascend."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._position = source.rows  # at the end, so that the first range opens it
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows `start` to `stop` (exclusive) as one table.

        Raises:
            SourceError: the source has fewer rows than when it was opened.
        """
        if start < self._position:
            self._batches, self._rest, self._position = self._source.batches(start), None, start
        # Rows between two ranges are read over: to open a text file again is to parse it from its top.
        for _ in self._advance(start):
            pass
        return pa.Table.from_batches(list(self._advance(stop)), self._source.schema)

    def _advance(self, stop: int) -> Iterator[pa.RecordBatch]:
        while self._position < stop:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            if batch is None:
                raise SourceError(
                    f"{self._source.name} ended at row {self._position} of {self._source.rows}: it "
                    "changed while it was read. Run again.",
                    row=self._position,
                )
            part = batch.slice(0, stop - self._position)
            self._rest = batch.slice(part.num_rows) if part.num_rows < batch.num_rows else None
            self._position += part.num_rows
            yield part


def open_source(data: str, *, split: str | None = None, limit: int | None = None) -> Source:
    """Open a file, a glob, a folder, a `save_to_disk` folder or a Hub id.

    Args:
        data: the path, the pattern, or `owner/name[:config][@revision]` on the Hub.
        split: the split of a Hub set or `save_to_disk` folder; in a folder, files with it in their name.
        limit: take the first rows only.

    Raises:
        SourceError: nothing there, nothing readable, no rows, or types that differ between files.
        StorageError: the file system does not let us read it.
    """
    try:
        readers, fingerprint = _open(data, split)
    except OSError as error:
        raise unreadable(error.filename or data, error) from error
    rows = sum(reader.rows for reader in readers)
    if rows == 0:
        raise SourceError(f"{data} holds no rows.", data=data)
    if limit is not None:
        rows = min(rows, limit)
    return Source(data, _one_schema(data, readers), rows, fingerprint, readers)


def _open(data: str, split: str | None) -> tuple[tuple[Reader, ...], str]:
    path = Path(data)
    if path.is_dir() and (path / "dataset_dict.json").exists() | (path / "state.json").exists():
        return saved_to_disk(path, split)
    paths = _files(data, split)
    if paths is None:
        return from_hub(data, split)
    return tuple(open_file(p) for p in paths), digest_files(paths)


def _files(data: str, split: str | None) -> list[Path] | None:
    """The files that `data` names, in the order they are read; None where it names no path."""
    path = Path(data)
    if path.is_dir():
        return _folder(path, split)
    if split is not None and (path.is_file() or any(c in data for c in "*?[")):
        raise SourceError(
            f"--split {split} chooses within a folder or data set; {data} names its files. Leave it out.",
            data=data,
        )
    if path.is_file():
        paths = [path]
    elif any(c in data for c in "*?["):
        paths = sorted(Path(p) for p in glob.glob(data, recursive=True) if Path(p).is_file())
        if not paths:
            raise SourceError(f"no file matches {data!r}.", data=data)
    elif _HUB_ID.fullmatch(data) and not data.endswith(SUFFIXES):
        return None
    else:
        raise SourceError(f"{data} does not exist.", data=data)
    for p in paths:
        if not p.name.endswith(SUFFIXES):
            raise SourceError(
                f"{p}: cannot tell the format from its name; the endings read are {', '.join(SUFFIXES)}.",
                path=str(p),
            )
        with p.open("rb") as file:
            if not file.read(1):
                raise SourceError(f"{p} is empty.", path=str(p))
    return paths


def _folder(folder: Path, split: str | None) -> list[Path]:
    if (folder / MANIFEST).exists():  # a scored set: score its rows again
        return [folder / entry["file"] for entry in Artifact(folder, SCORES).read_manifest()["shards"]]
    paths = sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(SUFFIXES))
    if not paths:
        raise SourceError(
            f"{folder} holds no data file; the endings read are {', '.join(SUFFIXES)}.",
            path=str(folder),
        )
    splits = {p: _split_of(p) for p in paths}
    formats = {next(end for end in (".parquet", ".arrow", ".csv", ".json") if end in p.name) for p in paths}
    if len(formats) > 1:
        raise SourceError(
            f"{folder} holds files of several formats ({', '.join(p.name for p in paths[:10])}), "
            "perhaps the same rows twice; give one format as a quoted glob, such as '*.parquet'.",
            path=str(folder),
        )
    if split is not None:
        chosen = [p for p in paths if split in re.split(r"[^a-zA-Z0-9]+", p.name)]
        if not chosen:
            raise SourceError(
                f"no file in {folder} has the split {split!r} in its name: "
                f"{', '.join(p.name for p in paths[:10])}.",
                path=str(folder),
            )
        return chosen
    if len(set(splits.values()) - {None}) > 1:
        raise SourceError(
            f"{folder} holds several splits ({', '.join(p.name for p in paths[:10])}); choose one "
            "with --split.",
            path=str(folder),
        )
    return paths


def _split_of(path: Path) -> str | None:
    words = re.split(r"[^a-z0-9]+", path.name.lower())
    names = {"train", "test", "validation", "valid", "val", "dev", "eval"}
    return next((word for word in words if word in names), None)


def _one_schema(data: str, readers: tuple[Reader, ...]) -> pa.Schema:
    """The first part's schema, widened where later parts need it."""
    for names in (reader.schema.names for reader in readers):
        if len(set(names)) < len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise SourceError(f"{data} has two columns named {repeated!r}; rename one.", data=data)
    schema = readers[0].schema
    for reader in readers[1:]:
        if reader.schema.equals(schema):
            continue
        try:
            schema = pa.unify_schemas([schema, reader.schema], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            where = getattr(reader, "path", data)
            raise SourceError(
                f"{where} does not fit the files before it: {' '.join(str(error).split())}. Score "
                "them apart, or make their columns alike.",
                path=str(where),
            ) from error
    # A column that a part lacks is null there, whatever the others say.
    lacking = {name for name in schema.names for reader in readers if name not in reader.schema.names}
    fields = [field.with_nullable(True) if field.name in lacking else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)
