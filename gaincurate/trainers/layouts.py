"""Where each trainer's checkpoints lie: one table, of folders, markers, Hugging Face weights and converters.

Facts of the versions that it names; what marks a checkpoint complete is in `markers`. docs/schedule.md has
the table for readers. Touches no file.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from gaincurate.errors import InputError
from gaincurate.trainers import markers


@dataclass(frozen=True, slots=True)
class Sharded:
    """Weights in a form of the trainer's own.

    Args:
        files: glob within the checkpoint; one match is enough.
        convert: command with `{checkpoint}` in it, which leaves its result where `Layout.weights` looks; None
            where there is none.
        apart: whether they lie in a folder of their own, as a series beside the Hugging Face weights.
    """

    files: str
    convert: str | None
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """How one trainer writes checkpoints; paths are relative to its output root or to the checkpoint.

    Args:
        trainer: its name here.
        version: what was read.
        folders: globs of checkpoint folders below the root.
        step: pattern of such a folder's name; group 1 is the step.
        marker: what tells that a checkpoint is complete, in words.
        unfinished: takes the checkpoint's folder and step, yields what is missing or None.
        weights: folders in the checkpoint for Hugging Face weights, the first with any counts.
        adapters: the same for adapters; one in a folder of its own comes before weights.
        sharded: other weights that are named.
        setting: what makes the trainer save Hugging Face weights.
        tokenizer: a further folder in the checkpoint that has the tokenizer.
    """

    trainer: str
    version: str
    folders: tuple[str, ...]
    step: str
    marker: str
    unfinished: Callable[[Path, int], str | None]
    weights: tuple[str, ...]
    setting: str
    adapters: tuple[str, ...] = ()
    sharded: tuple[Sharded, ...] = ()
    tokenizer: str | None = None


_VERL = (
    Sharded(
        "actor/model_world_size_*_rank_*.pt",
        "python -m verl.model_merger merge --backend fsdp --local_dir {checkpoint}/actor "
        "--target_dir {checkpoint}/actor/huggingface",
    ),
    Sharded(
        "actor/model/dist_ckpt/*",
        "python -m verl.model_merger merge --backend megatron --local_dir {checkpoint}/actor "
        "--target_dir {checkpoint}/actor/model/huggingface",
    ),
)
_NEMO = "uv run python examples/converters/convert_dcp_to_hf.py --config {checkpoint}/config.yaml "
_NEMO += "--dcp-ckpt-path {checkpoint}/policy/weights --hf-ckpt-path {checkpoint}/hf"
_NEMO_MEGATRON = (
    "uv run --extra mcore python examples/converters/convert_megatron_to_hf.py "
    "--config {checkpoint}/config.yaml --megatron-ckpt-path {checkpoint}/policy/weights/iter_0000000 "
    "--hf-ckpt-path {checkpoint}/hf"
)

_ALL = (
    Layout(
        trainer="trl",
        version="1.16.0, transformers 5.23.0",
        folders=("checkpoint-*",),
        step=r"checkpoint-(\d+)",
        marker="`trainer_state.json`, written last, can be read and has step N",
        unfinished=markers.trainer_state,
        weights=(".",),
        setting="fsdp state_dict_type FULL_STATE_DICT, or stage3_gather_16bit_weights_on_model_save",
        adapters=(".",),
        sharded=(
            Sharded(
                "pytorch_model_fsdp_*/*",
                "accelerate merge-weights {checkpoint}/pytorch_model_fsdp_0 {checkpoint}",
            ),
            Sharded(
                "global_step*/*_model_states.pt",
                "python {checkpoint}/zero_to_fp32.py {checkpoint} {checkpoint} --safe_serialization",
            ),
        ),
    ),
    Layout(
        trainer="verl",
        version="0.9.1",
        folders=("global_step_*", "*/global_step_*", "*/*/global_step_*"),
        step=r"global_step_(\d+)",
        marker="`latest_checkpointed_iteration.txt` beside it, written last, has N or more",
        unfinished=markers.tracker("latest_checkpointed_iteration.txt"),
        weights=("actor/huggingface", "actor/model/huggingface"),
        setting="actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        adapters=(
            "actor/huggingface/lora_adapter",
            "actor/lora_adapter",
            "actor/model/huggingface/adapter",
        ),
        sharded=_VERL,
    ),
    Layout(
        trainer="openrlhf",
        version="0.11.2",
        folders=("global_step*_hf", "*/global_step*_hf", "_actor/global_step*"),
        step=r"global_step(\d+)(?:_hf)?",
        marker="the tokenizer's files, written after the weights, can be read",
        unfinished=markers.tokenizer_last,
        weights=(".",),
        setting="--ckpt.save_hf",
        adapters=(".",),
        sharded=(Sharded("*_model_states.pt", None, apart=True),),
    ),
    Layout(
        trainer="nemo-rl",
        version="git 7ea279ab (2026-08-22)",
        folders=("step_*", "tmp_step_*"),
        step=r"(?:tmp_)?step_(\d+)",
        marker="`tmp_step_N` was renamed to `step_N`",
        unfinished=markers.renamed("tmp_"),
        weights=("policy/weights/model/consolidated", "hf"),
        setting="checkpointing.model_save_format=safetensors checkpointing.save_consolidated=true",
        adapters=("policy/weights/model",),
        sharded=(
            Sharded("policy/weights/iter_*", _NEMO_MEGATRON),
            Sharded("policy/weights/.metadata", _NEMO),
            Sharded("policy/weights/model/.metadata", _NEMO),
            Sharded("policy/weights/model/shard-*", _NEMO),
        ),
        tokenizer="policy/tokenizer",
    ),
    Layout(
        trainer="skyrl",
        version="git a9564572 (2026-08-21)",
        folders=("global_step_*", "*/global_step_*"),
        step=r"global_step_(\d+)",
        marker="below `export_path`: the tokenizer's files in `policy`, written after the weights, can be "
        "read; below `ckpt_path`: `latest_ckpt_global_step.txt` has N or more",
        unfinished=markers.skyrl,
        weights=("policy",),
        setting="trainer.hf_save_interval (exports to trainer.export_path)",
        adapters=("policy/lora_adapter",),
        sharded=(
            Sharded("policy/model_world_size_*_rank_*.pt", None, apart=True),
            Sharded("policy/*.distcp", None, apart=True),
        ),
    ),
    Layout(
        trainer="slime",
        version="git 624b824a (2026-08-21)",
        folders=("*", "*/*"),
        step=r"(?:.*\D)?(\d+)",
        marker="`model.safetensors.index.json`, written last, and all files that it names",
        unfinished=markers.indexed,
        weights=(".", "hf"),
        setting="--save-hf PATH/{rollout_id}",
        sharded=(
            Sharded(
                "*.distcp",
                "python tools/convert_torch_dist_to_hf.py --input-dir {checkpoint} "
                "--output-dir {checkpoint}/hf --origin-hf-dir HF_CHECKPOINT",
                apart=True,
            ),
        ),
    ),
    Layout(
        trainer="prime-rl",
        version="git 559b4477 (2026-08-21)",
        folders=("broadcasts/step_*", "step_*", "*/broadcasts/step_*", "checkpoints/step_*"),
        step=r"step_(\d+)",
        marker="`STABLE` is in `broadcasts/step_N` (later versions: `.finished`)",
        unfinished=markers.prime_rl,
        weights=(".",),
        setting='weight_broadcast.type = "filesystem"',
        adapters=(".",),
        sharded=(Sharded("trainer/*", None, apart=True),),
    ),
    Layout(
        trainer="trinity",
        version="0.6.0",
        folders=("global_step_*", "*/global_step_*", "*/*/global_step_*"),
        step=r"global_step_(\d+)",
        marker="with `.full_checkpoint` (written first) `latest_checkpointed_iteration.txt` has N or more, "
        "else `latest_state_dict_iteration.txt`",
        unfinished=markers.trinity,
        weights=("actor/huggingface", "actor/model/huggingface"),
        setting="trainer.save_hf_checkpoint",
        adapters=("actor/huggingface/lora_adapter", "actor/lora_adapter"),
        sharded=(
            Sharded("actor/model_world_size_*_rank_*.pt", "trinity convert --checkpoint-dir {checkpoint}"),
            Sharded("actor/model/dist_ckpt/*", "trinity convert --checkpoint-dir {checkpoint}"),
            Sharded("actor/dist_ckpt/*", "trinity convert --checkpoint-dir {checkpoint}"),
        ),
    ),
    Layout(
        trainer="areal",
        version="git 4aef98d8 (2026-05-21)",
        folders=(
            "epoch*globalstep*",
            "default/epoch*globalstep*",
            "*/*/*/default/epoch*globalstep*",
            "checkpoints/*/*/*/default/epoch*globalstep*",
        ),
        step=r"epoch\d+epochstep\d+globalstep(\d+)",
        marker="none of its own: `recover_info/step_info.json` has step N or more, or "
        "the tokenizer's files, written after the weights, can be read",
        unfinished=markers.areal,
        weights=(".",),
        setting="saver.freq_steps",
        adapters=(".",),
    ),
)
LAYOUTS = {layout.trainer: layout for layout in _ALL}


def layout_of(trainer: str) -> Layout:
    """A trainer's layout by its name.

    Raises:
        InputError: it is not known.
    """
    if trainer in LAYOUTS:
        return LAYOUTS[trainer]
    near = get_close_matches(trainer.lower(), LAYOUTS, 1, 0.5)
    hint = f"did you mean {near[0]}? It" if near else "it"
    raise InputError(f"--trainer {trainer}: {hint} must be one of {', '.join(LAYOUTS)}.")


def filled(command: str, checkpoint: Path) -> str:
    """A converting command for a checkpoint, quoted for a shell."""
    return shlex.join(part.replace("{checkpoint}", str(checkpoint)) for part in shlex.split(command))
