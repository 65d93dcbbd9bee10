"""NeMo-RL: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

from pathlib import Path

from gaincurate.trainers.columns import View
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, Sharded, hydra_value, system_file

_CONVERT = (
    "uv run {0} examples/converters/convert_{1}_to_hf.py --config {{checkpoint}}/config.yaml "
    "--{1}-ckpt-path {{checkpoint}}/policy/weights{2} --hf-ckpt-path {{checkpoint}}/hf"
)
_DCP = _CONVERT.format("python", "dcp", "")
_MEGATRON = _CONVERT.format("--extra mcore python", "megatron", "/iter_0000000")


def _launch(path: Path, view: View) -> Launch:
    system = "null" if view.system is None else hydra_value(system_file(path))
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
    hint = "only the answer reaches NeMo-RL's environment; --id-in-answer puts the id into the answer, for "
    hint += "an environment of your own that reports outcomes"
    return Launch("flags", flags, [hint])


def _renamed(path: Path, step: int) -> str | None:
    """NeMo-RL: a checkpoint gets its name when it is complete."""
    name = path.name.removeprefix("tmp_")
    return None if name == path.name else f"{path} is not finished: it is not yet renamed to {name}"


PROFILE = Profile(
    name="nemo-rl",
    version="7ea279ab (2026-08-22)",
    reserved=frozenset({"messages", "task_name"}),
    answer_needed=True,
    system_file=True,
    columns=lambda view: {"input": view.question(), "output": view.gold(as_text=True)},
    launch=_launch,
    rendering=Rendering("policy.tokenizer.chat_template_kwargs", adds=("policy.tokenizer.chat_template",)),
    layout=Layout(
        folders=("step_*", "tmp_step_*"),
        step=r"(?:tmp_)?step_(\d+)",
        marker="`tmp_step_N` was renamed to `step_N`",
        unfinished=_renamed,
        weights=("policy/weights/model/consolidated", "hf"),
        setting="checkpointing.model_save_format=safetensors checkpointing.save_consolidated=true",
        adapters=("policy/weights/model",),
        sharded=(
            Sharded("policy/weights/iter_*", _MEGATRON),
            Sharded("policy/weights/.metadata", _DCP),
            Sharded("policy/weights/model/.metadata", _DCP),
            Sharded("policy/weights/model/shard-*", _DCP),
        ),
        tokenizer="policy/tokenizer",
    ),
)
