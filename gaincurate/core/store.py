"""Object stores (s3://, gs://, az://): files are copied in before the work and out after it.

All work is on local files, because Arrow maps files into memory and a shard is read more than once. The
cache is never emptied, because only the user knows which copies are still needed.

A bucket has no rename, no append and no lock, so a file is put whole under its final name. That is safe
because two writers of the same file write the same bytes, and because each shard carries the identity of its
run: of two first starts with different options, one refuses the other's.

Credentials are in the environment and never in a URL, because URLs are written down and printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PosixPath
from typing import Any

from gaincurate.core import files
from gaincurate.core.foreign import json_value, read_bytes, without_secrets
from gaincurate.errors import InputError, SourceError, StorageError

SCHEMES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""The object stores, and where each finds credentials."""
CACHE = "GAINCURATE_CACHE"  # the environment variable with the folder for copies of object stores
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?:/(.*)|$)", re.DOTALL)
_BLOCK = 1 << 25  # bytes of a request for a part of a file
_REQUESTS = 8  # files that are fetched at a time
_SPECIAL = frozenset("*[")
_TIMES = {"timeout": timedelta(minutes=5), "connect_timeout": timedelta(seconds=10)}  # of one request
_PATIENT = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}
# The first request: a wrong name or address is said in seconds.
_QUICK = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
# What a store or the client library says (the first that matches), and what we say.
_REASONS = (
    ("NoSuchBucket|ContainerNotFound|specified bucket does not exist",
     "there is no bucket {bucket}. Make it, or correct the name"),
    ("InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|AuthenticationFailed"
     "|status code: 401|valid authentication",
     "the store does not accept the credentials. Renew or correct {variables}"),
    ("latest/api/token|169\\.254\\.|metadata\\.google|Account must be specified|MissingCredentials",
     "no credentials were found. Set {variables} (profiles in ~/.aws are not read)"),
    ("status code: 403|necessary privileges",
     "access is denied. The credentials need the rights to list, get, put and delete there"),
    ("redirect|AuthorizationHeaderMalformed|IllegalLocationConstraint",
     "the bucket is in another region. Set AWS_REGION"),
    ("status code: 5",
     "the store answers {status}, also after several tries"),
    ("error sending request|HTTP error|timed out|error trying to connect",
     "{endpoint} cannot be reached. Check the network and the address"),
)  # fmt: skip


class Remote(PosixPath):
    """A place in an object store as a path, so that options and joins are those of any other path.

    It prints as the URL that it is. No method that asks the file system means anything.
    """

    def __str__(self) -> str:
        scheme, _, rest = super().__str__().partition(":/")
        return f"{scheme}://{rest}"


def located(place: str | Path) -> Path:
    """A local path as it is, and the URL of an object store as `Remote`, also after `Path` cut its slashes.

    Raises `InputError` for a URL of another scheme, without a bucket, or with room for a secret.
    """
    match = _URL.fullmatch(str(place))
    if isinstance(place, Remote) or match is None:
        return place if isinstance(place, Path) else Path(place)
    scheme, rest = match[1].lower(), (match[2] or "").lstrip("/")
    if scheme not in SCHEMES:
        raise InputError(
            f"{scheme}://...: expected a local path, s3://, gs:// or az://. Copy the data to one of them."
        )
    bucket = rest.partition("/")[0]
    if "@" in bucket or "?" in rest or "#" in rest:
        raise InputError(
            f"{scheme}://...: a URL with a user name, a ? or a # is refused, because URLs are written down "
            f"and a secret may be in it. Give credentials in the environment ({SCHEMES[scheme]})."
        )
    if not bucket:
        raise InputError(f"{scheme}://: this URL names no bucket; expected {scheme}://BUCKET/FOLDER.")
    return Remote(f"{scheme}://{rest}")


def cache_folder() -> Path:
    """The folder of copies and locks of object stores."""
    if given := os.environ.get(CACHE):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gaincurate"
    except RuntimeError as error:
        raise InputError(f"this user has no home folder for copies; set {CACHE} to a folder.") from error


def use_cache(folder: Path | None) -> None:
    """Put copies into this folder from now on, also in child processes (`--cache`)."""
    if folder is not None:
        os.environ[CACHE] = str(folder.absolute())


class Bucket:
    """A folder in an object store, through the library obstore. Every method raises StorageError.

    Nothing is asked before a method is called.
    """

    def __init__(self, place: Remote) -> None:
        self._place = place

    @cached_property
    def _client(self) -> Any:
        """A patient client, after one quick request has shown that the bucket is there and may be listed."""
        with self._refusing("use", self._place):
            next(iter(_obstore().list(connect(self._place, _QUICK), chunk_size=1)), None)
            return connect(self._place, _PATIENT)

    def list(self) -> dict[str, str]:
        """All files below the folder, each with its version (entity tag and size)."""
        client = self._client
        with self._refusing("list", self._place):
            objects = [each for chunk in _obstore().list(client) for each in chunk]
        return {each["path"]: f"{each['e_tag']} {each['size']}" for each in objects}

    def download(self, name: str, path: Path, version: str) -> None:
        """Write a file to a local path, whole or not at all; a SourceError if its version differs."""
        client, (tag, _, size) = self._client, version.rpartition(" ")
        start, end = 0, int(size)
        matching = {} if tag == "None" else {"if_match": tag}
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.write_stream(path) as file, self._refusing("read", self._place / name):
            while start < end:  # each request is tried again by itself
                options = {"range": (start, min(start + _BLOCK, end)), **matching}
                start += file.write(_obstore().get(client, name, options=options).bytes().to_bytes())

    def fetch(self, folder: Path, versions: dict[str, str]) -> None:
        """Download files, each in the version that `list` gave, into a local folder."""
        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(lambda name: self.download(name, folder / name, versions[name]), versions))

    def put(self, name: str, data: bytes) -> str:
        """Write a file, whole or not at all; its version, as in `list`."""
        client = self._client
        with self._refusing("write", self._place / name):
            # In one request: of an upload in parts, a kill would leave parts that are paid for.
            return f"{_obstore().put(client, name, data, use_multipart=False)['e_tag']} {len(data)}"

    def delete(self, names: Collection[str]) -> None:
        """Delete files that are there."""
        client = self._client
        if names:
            with self._refusing("delete", self._place):
                _obstore().delete(client, sorted(names))

    @contextmanager
    def _refusing(self, what: str, path: Path) -> Iterator[None]:
        """Turn errors of the store or the network into a StorageError without secrets."""
        obstore = _obstore()
        try:
            yield
            return
        except (obstore.exceptions.BaseError, OSError) as error:
            if what == "read" and isinstance(
                error, (obstore.exceptions.PreconditionError, FileNotFoundError)
            ):
                raise SourceError(f"{path} changed while it was read. Run again.", path=str(path)) from None
            text = str(error).partition("\n\nDebug source")[0]
        status = re.search(r"status code: (\d+[\w ]*)", text)
        code = status[1].strip() if status else ""
        why = next((why for pattern, why in _REASONS if re.search(pattern, text)), "{reason}")
        why = why.format(
            bucket=self._place.parts[1],
            variables=SCHEMES[self._place.parts[0].removesuffix(":")],
            status=code,
            endpoint=scrubbed(os.environ.get("AWS_ENDPOINT_URL") or f"the store of {self._place}"),
            reason=scrubbed(" ".join(text.split()).rstrip("."))[:300],
        )
        sentence = f"cannot {what} {path}: {why}. Then run the same command again."
        refused = StorageError(sentence, path=str(path), status=code)
        if "no credentials" in why:
            refused.exit_code = 2  # another try ends in the same way
        raise refused from None  # a traceback would show what the library said


def scrubbed(text: str) -> str:
    """A text without possible secrets: user names and queries of URLs, values of the environment."""
    text = re.sub(r"//[^/\s@]*@", "//", text)
    return without_secrets(re.sub(r"\?\S+", "", text))


def connect(place: Remote, retries: dict[str, Any]) -> Any:
    """The library's client for a folder. Credentials and endpoint come from the environment."""
    # The library needs a flag for an endpoint without TLS (MinIO on the same machine).
    plain = any(os.environ.get(name, "").startswith("http://") for name in os.environ if "ENDPOINT" in name)
    options = _TIMES | {"allow_http": plain}
    return _obstore().store.from_url(str(place), retry_config=retries, client_options=options)


def _obstore() -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise InputError(
            "object stores (s3://, gs://, az://) need the package obstore: `pip install 'gaincurate[cloud]'`."
        ) from error
    return obstore


class Mirror:
    """The local copy of a folder in an object store: `pull` copies in, `put` copies out; see `Bucket`."""

    def __init__(self, place: Remote, cache: Path | None = None) -> None:
        self._bucket = Bucket(place)
        name = f"{place.name}-{files.digest_bytes(str(place).encode())[:16]}"
        self.folder = (cache or cache_folder()) / "sets" / name
        self._tags = self.folder.with_name(f"{name}.tags.json")

    def pull(self) -> None:
        """Fetch new and changed files from the store, and delete local files that the store does not have."""
        local = list(self.folder.rglob("[!.]*"))  # first: another process here may add files to both places
        there, here = self._bucket.list(), self._versions()
        files.make_folder(self.folder)
        for path in local:
            name = path.relative_to(self.folder).as_posix()
            if name not in there and path.is_file() and not name.startswith("."):
                path.unlink(missing_ok=True)
        self._bucket.fetch(self.folder, dict(there.items() - here.items()))
        files.write_json(self._tags, there)

    def put(self, name: str, data: bytes) -> None:
        """Write a file into the store, then into the local folder: the store has each local file."""
        version = self._bucket.put(name, data)
        files.make_folder((self.folder / name).parent)
        files.write_atomic(self.folder / name, data)
        files.write_json(self._tags, {**self._versions(), name: version})

    def delete(self, names: Collection[str]) -> None:
        """Delete files, and folders (names that end in a slash) with all in them, in the store."""
        there = self._bucket.list()
        self._bucket.delete(
            [name for name in there if name in names or f"{name.partition('/')[0]}/" in names]
        )

    def _versions(self) -> dict[str, str]:
        """The versions of the local files that are whole."""
        versions: dict[str, str] = {}
        with suppress(OSError, ValueError):
            for name, version in json_value(read_bytes(self._tags)).items():
                path = self.folder / name
                if path.exists() and path.stat().st_size == int(version.split()[-1]):
                    versions[name] = version
        return versions


def fetch_data(place: Remote, suffixes: tuple[str, ...]) -> str:
    """Copy the data files of a URL to the cache; returns the local file, folder or pattern.

    The URL is that of a file, a pattern with * or [, or a folder (of files with these suffixes, of
    `save_to_disk`, or a scored set). Raises `SourceError` if there is no such file, or it changes meanwhile.
    """
    parts = place.parts
    special = next((i for i, part in enumerate(parts) if i > 1 and set(part) & _SPECIAL), len(parts))
    folder, pattern = Remote(*parts[:special]), parts[special:]
    versions = Bucket(folder).list()
    names = list(versions)
    if pattern:
        deep = (name for name in names if name.count("/") + 1 == len(pattern))
        names = [name for name in deep if all(map(fnmatchcase, name.split("/"), pattern))]
    elif not {"dataset_dict.json", "state.json", "manifest.json"} & versions.keys():
        names = [name for name in names if "/" not in name and name.endswith(suffixes)]
        if not names and len(parts) > 2:
            folder, pattern = Remote(place.parent), (place.name,)
            versions = Bucket(folder).list()
            names = [name for name in versions if name == place.name]
    if not names:
        raise SourceError(
            f"{place}: there is no such data file; the endings read are {', '.join(suffixes)}.",
            data=str(place),
        )
    chosen = {name: versions[name] for name in sorted(names)}
    name = re.sub(r"[^\w.=-]+", "-", "-".join(place.parts[1:]))[-80:].strip("-.")
    copy = cache_folder() / "copies" / f"{name}-{files.digest_json([str(place), chosen])[:16]}"
    files.make_folder(copy)
    Bucket(folder).fetch(copy, {name: tag for name, tag in chosen.items() if not (copy / name).exists()})
    return str(copy.joinpath(*pattern))
