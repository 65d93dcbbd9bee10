"""JSON files that only this package writes. Each has a digest of its content, which detects damage.

Readers do not check the fields of such a file. A file without a digest, from an older version, is not
checked. Identities and manifests of scored sets and rollout sets have no digest: the manifests have hashes of
the shards. Every function raises StorageError if the file system refuses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gaincurate.core.files import digest_json, json_bytes, reading, write_atomic
from gaincurate.core.foreign import read_bytes
from gaincurate.errors import OutputError

Json = dict[str, Any]


def seal(content: Json) -> Json:
    """The same JSON object with its digest: BLAKE2b-128 of the canonical JSON of the other keys."""
    return {**content, "digest": digest_json(content)}


def unseal(data: bytes) -> Json | None:
    """The content of a sealed object's JSON, without the digest; None if it is damaged."""
    try:
        content: Json = json.loads(data)
        digest = content.pop("digest", None)
        return content if digest is None or digest == digest_json(content) else None
    except (ValueError, TypeError, AttributeError, RecursionError):  # cut short, or no object
        return None


def write_sealed(path: Path, content: Json) -> None:
    """Write a JSON object with its digest, atomically."""
    write_atomic(path, json_bytes(seal(content)))


def read_sealed(path: Path, remedy: str = "restore it from a copy") -> Json:
    """The content of a sealed file, without the digest; an OutputError with the remedy if it is damaged."""
    with reading(path):
        content = unseal(read_bytes(path))
    if content is None:
        raise OutputError(f"{path} is damaged; {remedy}.", path=str(path))
    return content
