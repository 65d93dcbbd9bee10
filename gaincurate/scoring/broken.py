"""Which of a model's files is broken: takes what failed to load, yields the file and what to do about it.

Looked at only after a failure, by each format's own reader: what that reads is not the file's fault. Knows
nothing of what a model is.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gaincurate.errors import ModelError
from gaincurate.files import reading

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_POINTER = b"version https://git-lfs.github.com/spec/"
_TOKENIZER = ("*token*", "vocab.*", "*.model", "*.tiktoken", "tekken.json")
_READ = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What every tokenizer is read from, where it is there."""
_CUT = "it is cut short or damaged"
_AGAIN = "Copy or download it again"
_Fault = tuple[str, str]
"""What is wrong with a file, and what to do."""


def why_broken(what: str, folder: Path, weights: Sequence[Path], hub: str | None) -> str | None:
    """What is wrong with the first broken file that a part of a model is read from; None if none is.

    Args:
        what: `configuration`, `tokenizer` or `weights`.
        folder: the model's.
        weights: its weight files, or its one .gguf file, which holds everything.
        hub: where the files are from, as `hf download` takes it; None for files of the user's own.

    Raises:
        StorageError: a file cannot be read at all.
    """
    if weights[0].suffix == ".gguf":
        paths = list(weights)
    elif what == "configuration":
        paths = [folder / "config.json"]
    elif what == "tokenizer":
        if not any(found for pattern in _TOKENIZER for found in folder.glob(pattern)):
            return (
                f"{folder} has no tokenizer. Copy tokenizer.json and tokenizer_config.json there from the "
                "model that this one was made of."
            )
        paths = [folder / name for name in _READ if (folder / name).exists()]
    else:
        # A whole file is taken whatever an index beside it says.
        paths = [*weights, *([] if (folder / _WHOLE).exists() else folder.glob(_INDEX))]
    for path in paths:
        if (fault := _fault(path)) is not None:
            said, step = fault
            if hub is not None and step.startswith(_AGAIN):
                step = f"Download it again: `hf download {hub} {path.name} --force-download`"
            return f"{path} {said}. {step}."
    return None


def need_gguf(path: Path) -> None:
    """Refuse by its first bytes what cannot be a .gguf file.

    Raises:
        ModelError: it does not begin as one does.
        StorageError: it cannot be read.
    """
    if not (head := _head(path)).startswith(b"GGUF"):
        said, step = _no_content(head) or ("is no gguf file: it does not begin with GGUF", _AGAIN)
        raise ModelError(f"{path} {said}. {step}.")


def _head(path: Path) -> bytes:
    with reading(path), path.open("rb") as file:
        return file.read(len(_POINTER))


def _no_content(head: bytes) -> _Fault | None:
    if not head:
        return "is empty", _AGAIN
    if head == _POINTER:
        return "is a pointer of Git LFS and not the file itself", "Run `git lfs pull` in its folder"
    return None


def _fault(path: Path) -> _Fault | None:
    if (fault := _no_content(_head(path))) is not None:
        return fault
    if path.suffix == ".gguf":
        return None if _reads(_gguf, path) else _unread("gguf file", "gguf")
    if path.suffix == ".safetensors":
        return None if _reads(_safetensors, path) else _unread("safetensors file", "safetensors")
    if path.suffix != ".json":  # pickled weights, which run code when they are read
        return None
    if not _reads(_json, path):
        return f"is no JSON object: {_CUT}", _AGAIN
    if path.name == _INDEX:
        return _index(path)
    if path.name == "tokenizer.json" and not _reads(_tokenizer, path):
        return _unread("tokenizer", "tokenizers")
    return None


def _reads(read: Callable[[Path], Any], path: Path) -> bool:
    try:
        read(path)
    except Exception:  # what a reader raises at broken bytes can be anything
        return False
    return True


def _unread(kind: str, library: str) -> _Fault:
    version = importlib.metadata.version(library)
    return (
        f"is no {kind} that {library} {version} can read: it is cut short, damaged or of another version",
        _AGAIN,
    )


def _gguf(path: Path) -> None:
    import gguf

    gguf.GGUFReader(path)


def _safetensors(path: Path) -> None:
    import safetensors

    with safetensors.safe_open(path, framework="pt"):
        pass


def _tokenizer(path: Path) -> None:
    import tokenizers

    tokenizers.Tokenizer.from_file(str(path))


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError
    return value


def _index(path: Path) -> _Fault | None:
    """Whether an index of weights is one, and the files that it names are there."""
    named = _json(path).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        return "is no index of weights: it has no weight_map with the names of files", _AGAIN
    absent = sorted({name for name in named.values() if not (path.parent / name).exists()})
    if absent:
        return f"names {absent[0]}, which is not in its folder", "Copy or download that too"
    return None
