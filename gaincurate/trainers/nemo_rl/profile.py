"""The columns that NeMo-RL reads, its settings for them, its checkpoints and its recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gaincurate.trainers.columns import Parts, ViewOptions
from gaincurate.trainers.profile import (
    NO_REFERENCE,
    OPTIMIZER_LOST,
    Columns,
    Launch,
    Layout,
    Profile,
    Recipe,
    Rendering,
    Sharded,
    hydra_value,
    system_file,
)

if TYPE_CHECKING:
    from gaincurate.trainers.view import View


_NEMO = "uv run python examples/converters/convert_dcp_to_hf.py --config {checkpoint}/config.yaml "
_NEMO += "--dcp-ckpt-path {checkpoint}/policy/weights --hf-ckpt-path {checkpoint}/hf"
_NEMO_MEGATRON = (
    "uv run --extra mcore python examples/converters/convert_megatron_to_hf.py "
    "--config {checkpoint}/config.yaml --megatron-ckpt-path {checkpoint}/policy/weights/iter_0000000 "
    "--hf-ckpt-path {checkpoint}/hf"
)


_SCRIPT = """\
batch=64     # prompts a step: `schedule start --align-to 64`
gaincurate export "$run" --round "$round" --trainer nemo-rl --out "$output/data.jsonl"
# It prints settings; with a system message, data.default.system_prompt_file is one of them.

uv run examples/run_grpo.py --config examples/configs/grpo_math_1B.yaml \\
    policy.model_name="$checkpoint" \\
    policy.max_total_sequence_length=4096 \\
    policy.train_global_batch_size=$((batch * 16)) \\
    data.shuffle=false \\
    data.train.dataset_name=ResponseDataset \\
    ++data.train.data_path="$output/data.jsonl" \\
    data.train.split_validation_size=0 \\
    data.default.prompt_file=null \\
    grpo.num_prompts_per_step="$batch" \\
    grpo.num_generations_per_prompt=16 \\
    grpo.max_num_epochs=1 \\
    grpo.val_period=0 \\
    loss_fn.reference_policy_kl_penalty=0 \\
    checkpointing.checkpoint_dir="$output" \\
    checkpointing.metric_name=null \\
    checkpointing.save_optimizer=false \\
    checkpointing.save_consolidated=true

# The whole weights lie deeper than the driver looks.
mv "$(find "$output"/step_*/policy -type d -name consolidated | head -n 1)" "$output/hf"
cp -n "$output"/step_*/policy/tokenizer/* "$output/hf/"
"""


def _columns(parts: Parts, options: ViewOptions) -> Columns:
    return {"input": parts.question(), "output": parts.answer_text()}


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
    version="7ea279abf (2026-08-22)",
    reserved=frozenset({"messages", "task_name"}),
    answer_needed=True,
    system_file=True,
    columns=_columns,
    launch=_launch,
    rendering=Rendering(
        {"policy.tokenizer.chat_template_kwargs": ""},
        adds={"policy.tokenizer.chat_template": "a chat template"},
    ),
    layout=Layout(
        version="git 7ea279ab (2026-08-22)",
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
    recipe=Recipe(
        version="7ea279ab (2026-08-22)",
        body=_SCRIPT,
        optimizer=f"{OPTIMIZER_LOST}; kept only in one checkpoint_dir, where the loader's offset "
        "comes back with it",
        rate="the warm-up over 50 steps begins anew every round; shorten policy.scheduler in a YAML "
        "of your own",
        reference=NO_REFERENCE,
        outcomes="an environment of yours (data.default.env_name), which appends to $GAINCURATE_OUTCOMES",
    ),
)
