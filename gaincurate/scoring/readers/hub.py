"""Rows of `save_to_disk` folders and of data sets on the Hub, through the library `datasets`.

The library maps cached files and believes their offsets, so they are validated here before it reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gaincurate.core.arrow import ipc_batches, validate
from gaincurate.core.files import digest_files, digest_json
from gaincurate.errors import SourceError
from gaincurate.scoring.readers.common import BATCH_ROWS, Reader, unreadable_as

if TYPE_CHECKING:
    import datasets

_PATIENCE = 10.0  # seconds for the Hub to answer, as its library waits


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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} looks like a folder of `save_to_disk` and cannot be loaded as one: "
            f"{' '.join(str(error).split())[:300]}",
            path=str(path),
        ) from error
    dataset = _choose(loaded, str(path), split)
    files = sorted({Path(entry["filename"]) for entry in dataset.cache_files})
    fingerprint = digest_json([dataset._fingerprint, digest_files(files)])
    return (_dataset_reader(dataset),), fingerprint


def _hub_answers(name: str) -> bool:
    """Whether the Hub can be reached, found out with one request that is not repeated."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi(endpoint=datasets.config.HF_ENDPOINT).dataset_info(name, timeout=_PATIENCE)
    except (HfHubHTTPError, ValueError):  # it said no, or will: `datasets` says why
        return True
    except Exception:  # of the HTTP library, and which one that is changes with huggingface_hub
        return False
    return True


@contextmanager
def _offline_if_unreachable(name: str) -> Iterator[None]:
    """For a name that is more likely a mistyped file: no half minute of tries where there is no network."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    # An `owner/name` is meant for the Hub: a network that fails for a moment is worth all tries.
    if "/" not in name and not before and not _hub_answers(name):
        datasets.config.HF_HUB_OFFLINE = True  # what was loaded earlier is still found in the cache
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def from_hub(data: str, split: str | None) -> tuple[tuple[Reader, ...], str]:
    """A data set on the Hub, `owner/name[:config][@revision]`, and its fingerprint."""
    name, _, revision = data.partition("@")
    name, _, config = name.partition(":")
    datasets = _import_datasets(data)
    try:
        with _offline_if_unreachable(name):
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
