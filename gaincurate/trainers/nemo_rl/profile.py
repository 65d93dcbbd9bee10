"""NeMo-RL: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gaincurate.trainers.profile import (
    Launch,
    Layout,
    Profile,
    Rendering,
    Sharded,
    View,
    hydra_value,
    system_file,
)

_NEMO = "uv run python examples/converters/convert_dcp_to_hf.py --config {checkpoint}/config.yaml "
_NEMO += "--dcp-ckpt-path {checkpoint}/policy/weights --hf-ckpt-path {checkpoint}/hf"
_NEMO_MEGATRON = (
    "uv run --extra mcore python examples/converters/convert_megatron_to_hf.py "
    "--config {checkpoint}/config.yaml --megatron-ckpt-path {checkpoint}/policy/weights/iter_0000000 "
    "--hf-ckpt-path {checkpoint}/hf"
)


def _launch(path: Path, view: View) -> Launch:
    system = "null" if view.parts.system is None else hydra_value(system_file(path))
    flags = [
        "++data.train.dataset_name=ResponseDataset",
        f"++data.train.data_path={hydra_value(path)}",
        "++data.train.input_key=input",
        "++data.train.output_key=output",
        "++data.train.split_validation_size=0",
        "++data.default.prompt_file=null",
        f"++data.default.system_prompt_file={system}",
        "++data.default.processor=math_hf_data_processor",
        "++data.shuffle=false",
    ]
    hint = (
        "only the answer reaches NeMo-RL's environment; --id-in-answer puts the id into the answer, for an "
        "environment of your own that reports outcomes"
    )
    return Launch("flags", flags, [hint])


def _renamed(prefix: str) -> Callable[[Path, int], str | None]:
    """NeMo-RL: a checkpoint gets its name when it is complete."""

    def unfinished(path: Path, step: int) -> str | None:
        if path.name.startswith(prefix):
            return f"{path} is not finished: it is not yet renamed to {path.name.removeprefix(prefix)}"
        return None

    return unfinished


PROFILE = Profile(
    name="nemo-rl",
    version="7ea279ab (2026-08-22)",
    reserved=frozenset({"messages", "task_name"}),
    answer_needed=True,
    system_file=True,
    columns=lambda parts, _: {"input": parts.question(), "output": parts.answer_text()},
    launch=_launch,
    rendering=Rendering(
        "policy.tokenizer.chat_template_kwargs",
        adds=("policy.tokenizer.chat_template",),
    ),
    layout=Layout(
        folders=("step_*", "tmp_step_*"),
        step=r"(?:tmp_)?step_(\d+)",
        marker="`tmp_step_N` was renamed to `step_N`",
        unfinished=_renamed("tmp_"),
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
)
