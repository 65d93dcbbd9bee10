"""Broken model files: the sentence names the file and what to do, whatever the libraries say of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

import tiny
from command import run
from gaincurate.errors import GaincurateError, ModelError
from gaincurate.scoring.model import find_model, load_config, load_model, load_tokenizer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n"
BROKEN = "is empty, cut short or damaged. Copy or download it again."
LFS = "is a pointer of Git LFS and not the file itself. Run `git lfs pull` in its folder."
OTHER = "A file may be damaged, incomplete or of another version: copy or download the model again."


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


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


@pytest.mark.parametrize(("how", "said"), [(b"", BROKEN), (POINTER, LFS)])
def test_broken_weights(folder: Path, how: bytes, said: str) -> None:
    path = change(folder / "model.safetensors", how)
    assert refusal(folder) == f"cannot load the weights of model: {path} {said}"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer_config.json", "tokenizer.json"]
)
def test_a_file_that_is_cut_short(folder: Path, name: str) -> None:
    change(folder / name, 60)
    what = {"model": "weights", "config": "configuration"}.get(name.partition(".")[0], "tokenizer")
    text = refusal(folder)
    assert text.startswith(f"cannot load the {what} of model: ")
    assert text.endswith(f". {OTHER}")


def test_a_missing_part_of_many_is_named(tmp_path: Path) -> None:
    tiny.model(transformers.LlamaConfig(**tiny.COMMON)).save_pretrained(tmp_path, max_shard_size="40KB")
    tiny.tokenizer().save_pretrained(tmp_path)
    second = tmp_path / "model-00002-of-00005.safetensors"
    second.unlink()
    assert second.name in refusal(tmp_path)


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


@pytest.mark.parametrize(("data", "said"), [(b"", BROKEN), (b"\x00\x01", BROKEN), (POINTER, LFS)])
def test_what_cannot_be_a_gguf_is_found_by_its_first_bytes(tmp_path: Path, data: bytes, said: str) -> None:
    path = change(tmp_path / "model.gguf", data)
    assert refusal(path) == f"{path} {said}"


def test_the_command_ends_as_with_any_model_that_cannot_be_used(folder: Path, rows_file: Path) -> None:
    path = change(folder / "model.safetensors", b"")
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
