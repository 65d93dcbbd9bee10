"""Loading a model's configuration, tokenizer and weights.

Safetensors and gguf only, unless pickled weights or a repository's own code are asked for by flag, because
both run code. The language-model head is loaded only where a signal needs it.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from gaincurate.core.files import digest_bytes, digest_file, digest_json
from gaincurate.errors import ModelError, lacks_memory
from gaincurate.scoring.model_files import ModelFiles, fault_of, is_failure
from gaincurate.scoring.model_files import find_model as find_model

# Pre-tokenizers of llama.cpp for which transformers' conversion of a byte-level BPE is right as it is,
# or is made right in `load_tokenizer`.
_GGUF_EXACT = {"", "default", "gpt-2", "smollm"}


def _load(what: str, files: ModelFiles, auto: Any, **options: Any) -> Any:
    """The object that a class of transformers loads. A broken file is an error in our words."""
    # Reading a gguf shows a progress bar that no switch of transformers turns off.
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
    # torch puts frames of C++ after its reason, and a KeyError is the key alone.
    text = " ".join(str(error).partition("Exception raised from")[0].split())
    text = text if " " in text else f"{type(error).__name__}: {text}"
    hint = "A file may be damaged, incomplete or of another version: copy or download the model again."
    if "trust_remote_code" in text:
        hint = "Pass --trust-remote-code only if you trust the repository."
    return f"{text[:300].rstrip('.')}. {hint}"


def load_config(files: ModelFiles) -> Any:
    """The configuration; one that is unreadable, of an encoder-decoder or of no depth is a ModelError."""
    config = _load("configuration", files, transformers.AutoConfig)
    text = config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False) or not getattr(text, "num_hidden_layers", 0):
        raise ModelError(
            f"{files.name} ({config.model_type}) is no decoder-only language model, which is what RL "
            "trains and what a score is defined for."
        )
    return config


def load_tokenizer(files: ModelFiles) -> Any:
    """The tokenizer; a ModelError where there is none, or it cannot be read."""
    tokenizer = _load("tokenizer", files, transformers.AutoTokenizer)
    if files.gguf and _gguf_pretokenizer(files.weights[0]) == "smollm":
        # It splits digits one by one, which the conversion forgets: it shows in two blanks before a digit.
        from tokenizers import pre_tokenizers

        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
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
    model, report = _load(
        "weights",
        files,
        auto,
        config=config,
        dtype=getattr(torch, dtype),
        use_safetensors=None if files.gguf else files.weights[0].suffix == ".safetensors",
        output_loading_info=True,
        # Some versions of transformers choose a kernel that has no soft cap, without a word.
        **({"attn_implementation": "eager"} if capped else {}),
    )
    absent = sorted(report["missing_keys"]) + [str(entry) for entry in report["mismatched_keys"]]
    if absent:
        raise ModelError(
            f"the weight files of {files.name} lack {len(absent)} of the weights that the model needs "
            f"({absent[0]}, ...), and random ones would give random scores. Is the checkpoint complete, and "
            "saved under the model's own names?"
        )
    return model.to(device).eval()
