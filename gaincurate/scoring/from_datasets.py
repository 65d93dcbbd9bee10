"""Reading through the `datasets` library: `save_to_disk` folders and Hub ids, and nothing else.

The library is imported when one of the two is read, never before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gaincurate.errors import SourceError
from gaincurate.files import digest_files, digest_json
from gaincurate.scoring.parts import BATCH_ROWS, Reader

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True, slots=True)
class _DatasetReader:
    """A `datasets.Dataset`, read through its Arrow table and index mapping."""

    dataset: datasets.Dataset
    schema: pa.Schema
    rows: int

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        """See `formats.Reader`."""
        rest = self.dataset.skip(skip).with_format("arrow")
        for table in rest.iter(BATCH_ROWS):
            yield from table.cast(schema).combine_chunks().to_batches()


def _dataset_reader(dataset: datasets.Dataset) -> _DatasetReader:
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


def _choose(found: Any, data: str, split: str | None) -> Any:
    """One split of a `datasets.DatasetDict`; a plain `Dataset` is returned as it is."""
    if not isinstance(found, dict):
        return found
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        asked = f"no split {split!r}" if split else "several splits"
        raise SourceError(f"{data} has {asked}; choose one with --split: {', '.join(found)}.", data=data)
    return found[split]


def saved_to_disk(path: Path, split: str | None) -> tuple[tuple[Reader, ...], str]:
    """A folder that `save_to_disk` made, and its fingerprint."""
    datasets = _import_datasets(str(path))
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} looks like a folder of `save_to_disk` and cannot be loaded as one: "
            f"{' '.join(str(error).split())[:300]}",
            path=str(path),
        ) from error
    dataset = _choose(found, str(path), split)
    files = sorted({Path(entry["filename"]) for entry in dataset.cache_files})
    fingerprint = digest_json([dataset._fingerprint, digest_files(files)])
    return (_dataset_reader(dataset),), fingerprint


def from_hub(data: str, split: str | None) -> tuple[tuple[Reader, ...], str]:
    """A data set on the Hub, `owner/name[:config][@revision]`, and its fingerprint."""
    name, _, revision = data.partition("@")
    name, _, config = name.partition(":")
    datasets = _import_datasets(data)
    try:
        found = datasets.load_dataset(name, config or None, revision=revision or None)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # Every way in which `datasets` says that a set is absent, private, gated, offline, damaged, made
        # by a script or has several configurations is one of these; its own sentence names the cause.
        raise SourceError(
            f"{data} is no file or folder here, and as a data set on the Hub it cannot be loaded: "
            f"{' '.join(str(error).split())[:300]}",
            data=data,
        ) from error
    dataset = _choose(found, data, split)
    return (_dataset_reader(dataset),), digest_json([data, split, dataset._fingerprint])
