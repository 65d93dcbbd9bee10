"""Broken model files: the sentence names the file and what to do, whatever the libraries say of it."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

import tiny
from command import run
from gaincurate.errors import GaincurateError, ModelError, StorageError
from gaincurate.scoring.model import find_model, load_config, load_model, load_tokenizer

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n"
BROKEN = "is empty, cut short or damaged. Copy or download it again."
LFS = "is a pointer of Git LFS and not the file itself. Run `git lfs pull` in its folder."
OTHER = "A file may be damaged, incomplete or of another version: copy or download the model again."


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Weights in several files with an index."""
    tiny.model(transformers.LlamaConfig(**tiny.COMMON)).save_pretrained(tmp_path, max_shard_size="40KB")
    tiny.tokenizer().save_pretrained(tmp_path)
    return tmp_path


def load(model: Path) -> None:
    files = find_model(str(model))
    config = load_config(files)
    load_tokenizer(files)
    load_model(files, config, device="cpu", dtype="float32")


def refusal(model: Path, kind: type[GaincurateError] = ModelError) -> str:
    with pytest.raises(kind) as caught:
        load(model)
    return str(caught.value)


def change(path: Path, how: bytes | int | Callable[[bytes], bytes]) -> Path:
    """Write other bytes, or keep the first ones of what is there."""
    data = path.read_bytes() if path.exists() else b""
    path.write_bytes(data[:how] if isinstance(how, int) else how if isinstance(how, bytes) else how(data))
    return path


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (b"", BROKEN),
        (200, BROKEN),
        (POINTER, LFS),
    ],
)
def test_broken_weights(folder: Path, how: bytes | int, said: str) -> None:
    path = change(folder / "model.safetensors", how)
    assert refusal(folder) == f"cannot load the weights of model: {path} {said}"


@pytest.mark.parametrize("how", [100, b"[]"])
def test_a_broken_index_of_weights(many: Path, how: bytes | int) -> None:
    path = change(many / INDEX, how)
    assert refusal(many) == f"cannot load the weights of {many.name}: {path} {BROKEN}"


def test_the_broken_part_of_many_is_named_and_a_missing_one_is_refused(many: Path) -> None:
    second = many / "model-00002-of-00005.safetensors"
    change(second, -1)
    assert refusal(many) == f"cannot load the weights of {many.name}: {second} {BROKEN}"
    second.unlink()
    text = refusal(many)
    assert text.startswith(f"cannot load the weights of {many.name}: ")
    assert second.name in text


def test_an_index_beside_whole_weights_is_not_blamed(folder: Path) -> None:
    change(folder / INDEX, b"{")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    text = refusal(folder)
    assert text.startswith("cannot load the weights of model: ")
    assert INDEX not in text


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("how", [60, b"[]"])
def test_broken_json(folder: Path, name: str, how: bytes | int) -> None:
    path = change(folder / name, how)
    what = "configuration" if name == "config.json" else "tokenizer"
    assert refusal(folder) == f"cannot load the {what} of model: {path} {BROKEN}"


def test_json_that_is_no_tokenizer(folder: Path) -> None:
    change(folder / "tokenizer.json", b'{"version": "1.0"}')
    text = refusal(folder)
    assert text.startswith("cannot load the tokenizer of model: ")
    assert text.endswith(f". {OTHER}")


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    assert refusal(folder) == (
        f"cannot load the tokenizer of model: {folder} has no tokenizer. Copy tokenizer.json and "
        "tokenizer_config.json there from the model that this one was made of."
    )


def test_a_file_that_is_no_file(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.unlink()
    path.mkdir()
    text = refusal(folder, StorageError)
    assert text == f"cannot read {path}: is a directory. Put that right and run the same command again."


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", BROKEN),
        (b"\x00\x01", BROKEN),
        (POINTER, LFS),
        # The library believes these counts and reads on after the end of the file.
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), BROKEN),
    ],
)
def test_what_cannot_be_a_gguf_is_found_by_its_first_bytes(tmp_path: Path, data: bytes, said: str) -> None:
    path = change(tmp_path / "model.gguf", data)
    assert refusal(path) == f"{path} {said}"


def test_the_command_ends_as_with_any_model_that_cannot_be_used(folder: Path, rows_file: Path) -> None:
    path = change(folder / "model.safetensors", 200)
    result = run("score", rows_file, "-m", folder, "-o", folder.parent / "out")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[1:] == [f"error: cannot load the weights of model: {path} {BROKEN}"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_is_short_is_no_damage(
    folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fails)
    with pytest.raises(
        ModelError, match=r"^cannot load the configuration of \S+: there is not enough memory\."
    ):
        load_config(find_model(str(folder)))
