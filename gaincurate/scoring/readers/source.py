"""DATA as a user names it (file, glob, folder, Hub id) to one stream of record batches with one schema.

Several files are one source in the order of their names, so shards do not depend on how the data was split.

Folders of `save_to_disk` and data sets on the Hub are read through the library `datasets`. It maps cached
files and believes their offsets, so they are validated here before it reads them.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gaincurate.core.arrow import ipc_batches, validate
from gaincurate.core.artifact import MANIFEST, Artifact
from gaincurate.core.cache import fetch_data, fetch_matching, is_pattern, local_copy
from gaincurate.core.files import digest_files, digest_json
from gaincurate.core.foreign import DEEPEST
from gaincurate.core.scored_set import SCORES
from gaincurate.core.store import Remote, located
from gaincurate.errors import SourceError, read_error
from gaincurate.scoring.readers.common import BATCH_ROWS, Reader, unreadable_as
from gaincurate.scoring.readers.files import open_file

if TYPE_CHECKING:
    import datasets

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet", ".arrow", ".csv", ".csv.gz")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?(@[\w.-]+)?")


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

    def first(self) -> pa.Table:
        """Some first rows."""
        return pa.Table.from_batches([next(self.batches())], self.schema)


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
    """Open a file, a glob, a folder, a `save_to_disk` folder (all also in an object store) or a Hub id.

    Args:
        data: the path, the pattern, the URL, or `owner/name[:config][@revision]` on the Hub.
        split: the split of a Hub set or `save_to_disk` folder; in a folder, files with it in their name.
        limit: take the first rows only.

    Raises:
        SourceError: nothing there, nothing readable, no rows, or types that differ between files.
        StorageError: the file system does not let us read it.
    """
    try:
        readers, fingerprint = _open(data, split)
    except OSError as error:
        raise read_error(Path(error.filename or data), error) from error
    rows = sum(reader.rows for reader in readers)
    if rows == 0:
        raise SourceError(f"{data} holds no rows.", data=data)
    if limit is not None:
        rows = min(rows, limit)
    return Source(data, _one_schema(data, readers), rows, fingerprint, readers)


def _open(data: str, split: str | None) -> tuple[tuple[Reader, ...], str]:
    if not data:  # it would be the working folder
        raise SourceError("the data is an empty text; expected a file, a folder or a data set.")
    place = located(data)
    paths: list[Path] | None
    if isinstance(place, Remote) and is_pattern(place):
        if split is not None:
            raise _names_files(data, split)
        paths = _readable(fetch_matching(place))
    else:
        if isinstance(place, Remote):
            data = str(_copied(place))
        path = Path(data)
        if path.is_dir() and (path / "dataset_dict.json").exists() | (path / "state.json").exists():
            return saved_to_disk(path, split)
        paths = _files(data, split)
        if paths is None:
            return from_hub(data, split)
    return tuple(open_file(p) for p in paths), digest_files(paths)


def _copied(place: Remote) -> Path:
    """The local copy of data, or of a scored set, in an object store."""
    if place.parts[2:] and Artifact(place, SCORES).finished:
        return local_copy(place, SCORES)
    return fetch_data(place, SUFFIXES)


def _files(data: str, split: str | None) -> list[Path] | None:
    """The files that `data` names, in the order they are read; None where it names no path."""
    path = Path(data)
    if path.is_dir():
        return _folder(path, split)
    if split is not None and (path.is_file() or any(c in data for c in "*?[")):
        raise _names_files(data, split)
    if path.is_file():
        paths = [path]
    elif any(c in data for c in "*?["):
        paths = sorted(Path(p) for p in glob.glob(data, recursive=True) if Path(p).is_file())
        if not paths:
            raise SourceError(f"no file matches {data!r}.", data=data)
    elif os.path.lexists(path):
        raise SourceError(
            f"{data} is no regular file, nor a link to one. Data is read more than once: write it to a file.",
            data=data,
        )
    elif _HUB_ID.fullmatch(data) and not data.endswith(SUFFIXES):
        return None
    else:
        raise SourceError(f"{data} does not exist. A data set on the Hub is owner/name.", data=data)
    return _readable(paths)


def _names_files(data: str, split: str) -> SourceError:
    return SourceError(
        f"--split {split} chooses within a folder or data set; {data} names its files. Leave it out.",
        data=data,
    )


def _readable(paths: list[Path]) -> list[Path]:
    """Files that were named, one by one or by a pattern, if each can be told by its name and has content."""
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
    for field in schema:
        level = [field.type]
        for _ in range(DEEPEST):
            level = [kind.field(i).type for kind in level for i in range(kind.num_fields)]
            if not level:
                break
        if level:  # Arrow cannot write a file of such a column
            raise SourceError(
                f"{data}: in column {field.name!r} lists or objects stand more than {DEEPEST - 1} deep "
                "inside each other. Write it as a text, or leave it out.",
                data=data,
                column=field.name,
            )
    lacking = {name for name in schema.names for reader in readers if name not in reader.schema.names}
    fields = [field.with_nullable(True) if field.name in lacking else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


@dataclass(frozen=True, slots=True)
class _DatasetReader:
    """A `datasets.Dataset`, read through its Arrow table and index mapping."""

    dataset: datasets.Dataset
    schema: pa.Schema
    rows: int

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        """See `Reader`."""
        rest = self.dataset.skip(skip).with_format("arrow")
        for table in rest.iter(BATCH_ROWS):
            yield from table.cast(schema).combine_chunks().to_batches()


def _dataset_reader(dataset: datasets.Dataset) -> _DatasetReader:
    # The library maps these files and believes them.
    for path in sorted({Path(entry["filename"]) for entry in dataset.cache_files}):
        refuse = unreadable_as(path, "Arrow")
        for batch in ipc_batches(path, refuse)[1]:
            validate(batch, path, refuse)
    return _DatasetReader(dataset, dataset.features.arrow_schema, len(dataset))


def _import_datasets(data: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SourceError(
            f"reading {data} needs the package datasets: `pip install datasets`, or give a .parquet, "
            ".jsonl, .arrow or .csv file.",
            data=data,
        ) from error
    return datasets


def _choose(loaded: Any, data: str, split: str | None) -> Any:
    """One split of a `datasets.DatasetDict`; a plain `Dataset` is returned as it is."""
    if not isinstance(loaded, dict):
        return loaded
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if split not in loaded:
        asked = f"no split {split!r}" if split else "several splits"
        raise SourceError(f"{data} has {asked}; choose one with --split: {', '.join(loaded)}.", data=data)
    return loaded[split]


def saved_to_disk(path: Path, split: str | None) -> tuple[tuple[Reader, ...], str]:
    """A folder that `save_to_disk` made, and its fingerprint."""
    datasets = _import_datasets(str(path))
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise SourceError(
            f"{path} looks like a folder of `save_to_disk` and cannot be loaded as one: "
            f"{' '.join(str(error).split())[:300]}",
            path=str(path),
        ) from error
    dataset = _choose(loaded, str(path), split)
    files = sorted({Path(entry["filename"]) for entry in dataset.cache_files})
    fingerprint = digest_json([dataset._fingerprint, digest_files(files)])
    return (_dataset_reader(dataset),), fingerprint


def from_hub(data: str, split: str | None) -> tuple[tuple[Reader, ...], str]:
    """A data set on the Hub, `owner/name[:config][@revision]`, and its fingerprint."""
    name, _, revision = data.partition("@")
    name, _, config = name.partition(":")
    datasets = _import_datasets(data)
    try:
        loaded = datasets.load_dataset(name, config or None, revision=revision or None)
    except ConnectionError as error:
        why = " (HF_HUB_OFFLINE is set)" if datasets.config.HF_HUB_OFFLINE else ""
        raise SourceError(
            f"there is no file or folder {data} here, and the Hugging Face Hub, where it could be a data "
            f"set, cannot be reached{why}; check the name, or the network.",
            data=data,
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # Every way in which `datasets` says that a set is absent, private, gated, damaged, made by a script
        # or has several configurations is one of these; its own sentence names the cause.
        raise SourceError(
            f"{data} is no file or folder here, and as a data set on the Hub it cannot be loaded: "
            f"{' '.join(str(error).split())[:300]}",
            data=data,
        ) from error
    dataset = _choose(loaded, data, split)
    return (_dataset_reader(dataset),), digest_json([data, split, dataset._fingerprint])
