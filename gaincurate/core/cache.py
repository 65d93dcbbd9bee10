"""Local copies of what lies in object stores, because Arrow maps files and a shard is read more than once.

A copy is a folder that never changes: a finished set is named by its manifest's hash and data by their ETags.
So a copy of another version is another folder, and what two processes fetch at once is the same. Nothing is
deleted here: only the user knows which copies are still needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from gaincurate.core.artifact import EXECUTION, EXECUTIONS, IDENTITY, MANIFEST, REJECTED, Artifact, Kind
from gaincurate.core.files import digest_bytes, digest_file, digest_json, make_folder, write_atomic
from gaincurate.core.store import Bucket, Remote, Store, cache_folder, open_store
from gaincurate.errors import SourceError

_REQUESTS = 8  # files that are fetched at a time


def local_copy(place: Remote, kind: Kind, cache: Path | None = None, *, verify: bool = True) -> Path:
    """A finished set as a local folder. A shard that is there already is not fetched again.

    Args:
        place: where the set lies.
        kind: what it is.
        cache: where copies are kept. Default: the cache of the process.
        verify: check shards that are there against the manifest; one that is damaged is fetched again.

    Raises:
        OutputError: there is no finished set, or a shard is not what the manifest says.
        StorageError: the store or the file system refused.
    """
    artifact = Artifact(place, kind)
    manifest, data = artifact.manifest_and_bytes()
    entries = {entry["file"]: entry for entry in manifest["shards"]}
    copy = _copy_of(place, digest_bytes(data), cache)
    store = artifact.store

    def fetch(name: str) -> None:
        path, entry = copy / name, entries[name]
        whole = path.exists() and path.stat().st_size == entry["bytes"]
        if whole and (not verify or digest_file(path) == entry["hash"]):
            return
        shard = store.get(name)
        if shard is None or digest_bytes(shard) != entry["hash"]:
            raise artifact.mismatch(place / name)
        write_atomic(path, shard)

    _each(fetch, entries)
    if not (copy / MANIFEST).exists():
        for name in (IDENTITY, REJECTED):
            if (content := store.get(name)) is not None:
                write_atomic(copy / name, content)
        logs = [store.get(f"{EXECUTIONS}/{name}") or b"" for name in sorted(store.list(EXECUTIONS))]
        write_atomic(copy / EXECUTION, (store.get(EXECUTION) or b"") + b"".join(logs))
        write_atomic(copy / MANIFEST, data)  # the last one: a copy with a manifest has all of this
    for folder in kind.own:
        _mirror(store, folder, copy / folder)
    return copy


def _mirror(store: Store, folder: str, goal: Path) -> None:
    """A folder of small files beside a set, which may change: they are fetched each time."""
    names = store.list(folder)
    if not names and not goal.exists():
        return
    goal.mkdir(exist_ok=True)
    for name in sorted(names, key=lambda name: name.endswith(".json")):  # a column before its description
        write_atomic(goal / name, store.get(f"{folder}/{name}") or b"")
    for path in goal.iterdir():
        if path.name not in names:
            path.unlink()


def fetch_data(place: Remote, suffixes: tuple[str, ...]) -> Path:
    """The data files that a URL names, in a local folder with the names that they have there.

    Args:
        place: a file, or a folder (of files, or of `save_to_disk`).
        suffixes: how the names of data files end.

    Returns:
        The local file, or the folder.

    Raises:
        SourceError: nothing is there, or it changed meanwhile.
        StorageError: the store or the file system refused.
    """
    names = _data_files(open_store(place), suffixes)
    if names:
        return _fetched(place, place, names)
    folder = Remote(place.parent)
    if len(place.parts) > 2:
        names = {name: tag for name, tag in open_store(folder).list().items() if name == place.name}
    if not names:
        raise SourceError(
            f"{place}: there is no data file; the endings read are {', '.join(suffixes)}.", data=str(place)
        )
    return _fetched(place, folder, names) / place.name


def is_pattern(place: Remote) -> bool:
    """Whether a name below the bucket has a * or a [ in it."""
    return any(set(part) & set("*[") for part in place.parts[2:])


def fetch_matching(place: Remote) -> list[Path]:
    """Local copies of the files that a pattern with * or [ in names matches, in the order of their names.

    Raises:
        SourceError: no file matches, or one changed meanwhile.
        StorageError: the store or the file system refused.
    """
    parts = place.parts
    special = next(i for i, part in enumerate(parts) if i > 1 and set(part) & set("*["))
    folder = Remote(*parts[:special])
    names = _matching(open_store(folder), parts[special:])
    if not names:
        raise SourceError(f"no file matches '{place}'.", data=str(place))
    copy = _fetched(place, folder, names)
    return sorted(copy / name for name in names)


def _fetched(place: Remote, folder: Remote, names: dict[str, str | None]) -> Path:
    """The local folder with the files of a remote one that have these names and ETags."""
    bucket = Bucket(folder)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        sizes = dict(zip(sorted(names), pool.map(bucket.size, sorted(names)), strict=True))
    # A store without ETags says nothing of a change but the sizes.
    version = digest_json([[name, names[name], size] for name, size in sizes.items()])
    copy = _copy_of(place, version)

    def fetch(name: str) -> None:
        if not (copy / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            bucket.download(name, copy / name, names[name])

    _each(fetch, names)
    return copy


def _data_files(store: Store, suffixes: tuple[str, ...]) -> dict[str, str | None]:
    names = store.list()
    if "dataset_dict.json" in names or "state.json" in names:
        return _below(store)
    return {name: tag for name, tag in names.items() if name.endswith(suffixes)}


def _below(store: Store, folder: str = "") -> dict[str, str | None]:
    """All files in a folder and in those inside it."""
    files: dict[str, str | None] = {}
    for name, tag in store.list(folder).items():
        files |= _below(store, folder + name) if name.endswith("/") else {folder + name: tag}
    return files


def _matching(store: Store, patterns: tuple[str, ...], folder: str = "") -> dict[str, str | None]:
    """The files whose path matches, part by part."""
    files: dict[str, str | None] = {}
    for name, tag in store.list(folder).items():
        if fnmatchcase(name.rstrip("/"), patterns[0]):
            if len(patterns) == 1 and not name.endswith("/"):
                files[folder + name] = tag
            elif len(patterns) > 1 and name.endswith("/"):
                files |= _matching(store, patterns[1:], folder + name)
    return files


def _each(work: Callable[[str], None], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for _ in pool.map(work, names):
            pass


def _copy_of(place: Remote, version: str, cache: Path | None = None) -> Path:
    """The folder of a copy, which is made where it is not there yet."""
    name = re.sub(r"[^\w.=-]+", "-", "-".join(place.parts[1:]))[-80:].strip("-.")
    copy = (cache or cache_folder()) / "copies" / f"{name}-{digest_json([str(place), version])[:16]}"
    make_folder(copy)
    return copy
