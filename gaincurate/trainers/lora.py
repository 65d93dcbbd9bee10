"""Merges a LoRA adapter into its base model, so that a checkpoint with an adapter can be scored.

It runs in a separate process, so that the caller needs no torch. peft merges in float32, because in bfloat16
the sum would round away much of a small adapter.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
from pathlib import Path

from gaincurate.errors import GaincurateError, ModelError
from gaincurate.schedule.checkpoints import safetensors_header
from gaincurate.trainers.checkpoints import ADAPTER, ADAPTER_WEIGHTS, see_mergeable, small_files


def merge(adapter: Path, out: Path, base: str | None = None) -> None:
    """Write the merged model in float32 to `out`, with the adapter's tokenizer or else the base model's.

    `base` is a folder or a Hub id; default: the base model that the adapter names. Raises ModelError if the
    adapter cannot be merged, or its base model is not on this machine or does not fit.
    """
    config = see_mergeable(adapter)
    folder = _base_folder(adapter, base or config.get("base_model_name_or_path"))
    import peft
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    try:
        wanted = safetensors_header(adapter / ADAPTER_WEIGHTS)[0].keys() - {"__metadata__"}
    except (OSError, ValueError) as error:
        raise ModelError(f"{adapter / ADAPTER_WEIGHTS} cannot be read: {error}.") from error
    tied = getattr(model.config, "tie_word_embeddings", False)
    if tied and any("lm_head" in name or "embed_tokens" in name for name in wanted):
        raise ModelError(
            f"{adapter} changes lm_head or embed_tokens, which are one matrix in {folder}: merging would "
            "change both. Let the trainer save the merged model."
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # missing keys are an error below
            tuned = peft.PeftModel.from_pretrained(model, str(adapter))
        loaded = set(peft.get_peft_model_state_dict(tuned))
    except (ValueError, RuntimeError, LookupError) as error:
        raise ModelError(f"{adapter} does not fit the base model {folder}: {error}.") from error
    if wanted != loaded:
        name = min(wanted ^ loaded)
        raise ModelError(f"{adapter} does not fit the base model {folder}: {name} is in only one of them.")
    tuned.merge_and_unload(safe_merge=True).save_pretrained(out)
    tokenizer = adapter if (adapter / "tokenizer_config.json").is_file() else folder
    for file, path in small_files(tokenizer).items():
        if file != ADAPTER and not (out / file).exists():
            (out / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, out / file)


def _base_folder(adapter: Path, name: object) -> Path:
    """The base model's folder on this machine."""
    from gaincurate.scoring.model import find_model

    by_hand = f"`python -m gaincurate.trainers.lora {adapter} --base FOLDER --out OUT` merges it by hand"
    if not isinstance(name, str) or not name:
        raise ModelError(f"{adapter / ADAPTER} does not name its base model; {by_hand}.")
    try:
        files = find_model(name)
    except GaincurateError as error:
        raise ModelError(
            f"{adapter} was trained on {name}, which is not on this machine ({str(error).rstrip('.')}); put "
            f"it there, or {by_hand}."
        ) from error
    return files.folder


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return the exit code; an error is one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m gaincurate.trainers.lora")
    parser.add_argument("adapter", type=Path, help="folder with the adapter")
    parser.add_argument("--out", type=Path, required=True, help="folder for the merged model")
    parser.add_argument("--base", help="base model, a folder or a Hub id; default: the adapter's own")
    options = parser.parse_args(arguments)
    try:
        if options.out.exists():
            raise ModelError(f"--out {options.out} exists already; give a new folder.")
        merge(options.adapter, options.out, options.base)
    except GaincurateError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
