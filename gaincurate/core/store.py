"""Where the files of an `Artifact` lie: a local folder, or a folder in an object store (s3://, gs://, az://).

Both are a `Store` of five verbs. A bucket has no rename, no append and no lock, so a file is put whole under
its final name. That is safe because two writers of the same file write the same bytes, and because each
shard carries the identity of its run: of two first starts with different options, one refuses the other's.

Credentials are in the environment and never in a URL, because URLs are written down and printed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from datetime import timedelta
from functools import cached_property, lru_cache
from pathlib import Path, PosixPath
from typing import Any, Protocol

from gaincurate.core.files import reading, write_atomic, write_stream
from gaincurate.core.foreign import LARGEST, read_bytes, without_secrets
from gaincurate.errors import InputError, SourceError, StorageError, reason_of

SCHEMES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""The object stores, and where each finds credentials."""
CACHE = "GAINCURATE_CACHE"
"""The environment variable with the folder for what was read from object stores."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?:/(.*)|$)", re.DOTALL)
_BLOCK = 1 << 25  # bytes of a request for a part of a file
_TIMES = {"timeout": timedelta(minutes=5), "connect_timeout": timedelta(seconds=10)}  # of one request
_PATIENT = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}
# The first request: a wrong name or address is said in seconds.
_QUICK = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=1),
        "base": 2,
    },
}
# What a store or the client library says (the first that matches), and what we say.
_REASONS = (
    ("NoSuchBucket|ContainerNotFound|specified bucket does not exist",
     "there is no bucket {bucket}. Make it, or correct the name"),
    ("RequestTimeTooSkewed|RequestExpired",
     "this machine's clock differs too much from the store's. Set the clock"),
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

    @property
    def scheme(self) -> str:
        """`s3`, `gs` or `az`."""
        return self.parts[0].removesuffix(":")

    @property
    def bucket(self) -> str:
        """The bucket's name, of Azure the container's."""
        return self.parts[1]


def located(place: str | Path) -> Path:
    """A local path as it is, and the URL of an object store as `Remote`, also after `Path` cut its slashes.

    Raises:
        InputError: a URL of another scheme, without a bucket, or with room for a secret.
    """
    match = _URL.fullmatch(str(place))
    if isinstance(place, Remote) or match is None or Path(f"{match[1]}:").exists():
        return Path(place) if isinstance(place, str) else place
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
    """Where copies and locks of what lies in object stores are kept."""
    if given := os.environ.get(CACHE):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gaincurate"
    except RuntimeError as error:
        raise InputError(f"this user has no home folder for copies; set {CACHE} to a folder.") from error


def use_cache(folder: Path | None) -> None:
    """Keep them in this folder from now on, in the processes that this one starts too (`--cache`)."""
    if folder is not None:
        os.environ[CACHE] = str(folder.absolute())


class Store(Protocol):
    """A folder's files by name; a name may be `FOLDER/FILE`. Every method raises StorageError."""

    def get(self, name: str) -> bytes | None:
        """A file's bytes, None where it is not there."""

    def put(self, name: str, data: bytes) -> str | None:
        """Write a file, whole or not at all. Returns what names this version of it, see `list`."""

    def list(self, folder: str = "") -> dict[str, str | None]:
        """The names in the folder, or in one inside it; those of folders end in a slash.

        With what changes when a file does (an ETag), None where the store has no such thing.
        """

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, and folders (names that end in a slash) with all in them, where they are there."""

    def size(self, name: str) -> int | None:
        """A file's bytes in number, None where it is not there."""


class Folder:
    """A local folder as a `Store`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> bytes | None:
        """See `Store`."""
        path = self._folder / name
        with reading(path):
            return read_bytes(path) if path.exists() else None

    def put(self, name: str, data: bytes) -> str | None:
        """See `Store`."""
        write_atomic(self._folder / name, data)
        return None

    def list(self, folder: str = "") -> dict[str, str | None]:
        """See `Store`."""
        path = self._folder / folder
        with reading(path):
            entries = os.scandir(path) if path.is_dir() else ()
            return {entry.name + "/" * entry.is_dir(): None for entry in entries}

    def delete(self, names: Iterable[str]) -> None:
        """See `Store`."""
        try:
            for name in names:
                path = self._folder / name
                if not name.endswith("/"):
                    path.unlink(missing_ok=True)
                elif path.is_dir():
                    shutil.rmtree(path)
        except OSError as error:
            raise StorageError(
                f"cannot delete {error.filename}: {reason_of(error)}. Put that right and run the same "
                "command again.",
                path=str(error.filename),
                errno=error.errno,
            ) from error

    def size(self, name: str) -> int | None:
        """See `Store`."""
        path = self._folder / name
        with reading(path):
            return path.stat().st_size if path.exists() else None


class Bucket:
    """A folder in an object store as a `Store`, through the library obstore.

    Args:
        place: where it is. Nothing is asked before a method is called.
    """

    def __init__(self, place: Remote) -> None:
        self._place = place

    @cached_property
    def _client(self) -> Any:
        """A patient client, after one quick request has shown that the bucket is there and may be listed."""
        obstore = _obstore()
        try:
            next(iter(obstore.list(connect(self._place, _QUICK), chunk_size=1)), None)
            return connect(self._place, _PATIENT)
        except (obstore.exceptions.BaseError, OSError) as error:
            raise self._refused("use", self._place, error) from None

    def get(self, name: str) -> bytes | None:
        """See `Store`."""
        obstore, client = _obstore(), self._client
        try:
            found = obstore.get(client, name)
            if found.meta["size"] > LARGEST:
                raise OSError(f"it has more than {LARGEST:,} bytes")
            data: bytes = found.bytes().to_bytes()
        except (obstore.exceptions.BaseError, OSError) as error:
            if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
                return None
            raise self._refused("read", self._place / name, error) from None
        return data

    def download(self, name: str, path: Path, tag: str | None) -> None:
        """Write a file of any size to a local path, whole or not at all.

        Raises:
            SourceError: it is gone, or another version than `tag`.
        """
        obstore, client = _obstore(), self._client
        where = self._place / name
        changed = SourceError(f"{where} changed while it was read. Run again.", path=str(where))
        size, start = self.size(name), 0
        if size is None:
            raise changed
        with write_stream(path) as file:
            while start < size:  # each request is tried again by itself
                options: dict[str, Any] = {"range": (start, min(start + _BLOCK, size))}
                try:
                    block = obstore.get(client, name, options=options | ({"if_match": tag} if tag else {}))
                    data = block.bytes().to_bytes()
                except (obstore.exceptions.BaseError, OSError) as error:
                    if isinstance(error, (obstore.exceptions.PreconditionError, FileNotFoundError)):
                        raise changed from None
                    raise self._refused("read", where, error) from None
                start += file.write(data)

    def put(self, name: str, data: bytes) -> str | None:
        """See `Store`."""
        obstore, client = _obstore(), self._client
        try:
            # In one request: of an upload in parts, a kill would leave parts that are paid for.
            tag: str | None = obstore.put(client, name, data, use_multipart=False)["e_tag"]
        except (obstore.exceptions.BaseError, OSError) as error:
            raise self._refused("write", self._place / name, error) from None
        return tag

    def list(self, folder: str = "") -> dict[str, str | None]:
        """See `Store`."""
        obstore, client = _obstore(), self._client
        try:
            listed = obstore.list_with_delimiter(client, folder or None)
        except (obstore.exceptions.BaseError, OSError) as error:
            raise self._refused("list", self._place / folder, error) from None
        skip = len(folder.strip("/")) + 1 if folder else 0
        names: dict[str, str | None] = {each["path"][skip:]: each["e_tag"] for each in listed["objects"]}
        return names | {prefix.strip("/")[skip:] + "/": None for prefix in listed["common_prefixes"]}

    def delete(self, names: Iterable[str]) -> None:
        """See `Store`."""
        obstore, client = _obstore(), self._client
        paths: list[str] = []
        for name in names:
            inside = self.list(name) if name.endswith("/") else {}
            paths += [name + inner for inner in inside] if name.endswith("/") else [name]
        try:
            if paths:
                obstore.delete(client, paths)
        except (obstore.exceptions.BaseError, OSError) as error:
            if not isinstance(error, FileNotFoundError):
                raise self._refused("delete", self._place / paths[0], error) from None

    def size(self, name: str) -> int | None:
        """See `Store`."""
        obstore, client = _obstore(), self._client
        try:
            size: int = obstore.head(client, name)["size"]
        except (obstore.exceptions.BaseError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                return None
            raise self._refused("read", self._place / name, error) from None
        return size

    def _refused(self, what: str, path: Path, error: Exception) -> StorageError:
        """The sentence for what the store or the network refused, without what could be a secret."""
        text = str(error).partition("\n\nDebug source")[0]
        status = re.search(r"status code: (\d+[\w ]*)", text)
        why = next((why for pattern, why in _REASONS if re.search(pattern, text)), "{reason}")
        code = status[1].strip() if status else ""
        why = why.format(
            bucket=self._place.bucket,
            variables=SCHEMES[self._place.scheme],
            status=code,
            endpoint=scrubbed(os.environ.get("AWS_ENDPOINT_URL") or f"the store of {self._place}"),
            reason=scrubbed(" ".join(text.split()).rstrip("."))[:300],
        )
        said = f"cannot {what} {path}: {why}."
        refused = StorageError(f"{said} Then run the same command again.", path=str(path), status=code)
        refused.refused = said
        if "no credentials" in why:
            refused.exit_code = 2  # another try ends in the same way
        return refused


def scrubbed(text: str) -> str:
    """A text without what may be a secret: user names and queries of URLs, values of the environment."""
    text = re.sub(r"//[^/\s@]*@", "//", text)
    return without_secrets(re.sub(r"\?\S+", "", text))


def connect(place: Remote, retries: dict[str, Any]) -> Any:
    """The library's client for a folder. Credentials and endpoint come from the environment."""
    # The library wants to be told that an endpoint without TLS is meant (MinIO on one's own machine).
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


@lru_cache
def open_store(place: Path) -> Store:
    """The store of a folder; see `located`."""
    return Bucket(place) if isinstance(place, Remote) else Folder(place)
