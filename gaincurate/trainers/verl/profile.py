"""The columns that verl reads, its settings for them, its checkpoints and its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gaincurate.core.schema import ID
from gaincurate.trainers.columns import Parts, ViewOptions
from gaincurate.trainers.markers import tracker
from gaincurate.trainers.profile import (
    CONSTANT_RATE,
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
    words,
)

if TYPE_CHECKING:
    from gaincurate.trainers.view import View


GROUP_SIZE = "__rollout_n__"
"""The column with a prompt's group size; without it a prompt has `rollout.n` rollouts (0.9.1)."""
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


_SCRIPT = """\
batch=64     # prompts a step: `schedule start --align-to 64`
gaincurate export "$run" --round "$round" --trainer verl --data-source mine --out "$output/data.parquet"

python3 -m verl.trainer.main_ppo \\
    algorithm.adv_estimator=grpo \\
    data.train_files="$output/data.parquet" \\
    data.val_files="$output/data.parquet" \\
    data.shuffle=false \\
    data.train_batch_size="$batch" \\
    data.max_prompt_length=2048 \\
    data.max_response_length=2048 \\
    data.filter_overlong_prompts=false \\
    actor_rollout_ref.model.path="$checkpoint" \\
    actor_rollout_ref.rollout.name=vllm \\
    actor_rollout_ref.rollout.n=8 \\
    actor_rollout_ref.actor.ppo_mini_batch_size="$batch" \\
    actor_rollout_ref.actor.optim.lr=1e-6 \\
    actor_rollout_ref.actor.checkpoint.save_contents="[model,hf_model]" \\
    reward.custom_reward_function.path=reward.py \\
    trainer.total_epochs=1 \\
    trainer.save_freq=1000000 \\
    trainer.test_freq=-1 \\
    trainer.val_before_train=false \\
    trainer.resume_mode=disable \\
    trainer.default_local_dir="$output"
"""


def _columns(parts: Parts, options: ViewOptions) -> Columns:
    reward = {"ground_truth": parts.gold()}
    return {
        "prompt": parts.messages(),
        "reward_model": parts.struct("reward_model", reward, {"style": "rule"}),
        "extra_info": parts.struct(
            "extra_info", {"index": parts.places("extra_info.index"), ID: parts.ids()}
        ),
    }


def _launch(path: Path, view: View) -> Launch:
    flags = [
        f"data.train_files={hydra_value(path)}",
        "data.prompt_key=prompt",
        "data.reward_fn_key=data_source",
        "data.shuffle=False",
        "data.dataloader_num_workers=0",
        "data.filter_overlong_prompts=False",
        "data.train_max_samples=-1",
    ]
    hints = [
        "a reward function of yours (reward.custom_reward_function.path=reward.py) gets the id as "
        f"extra_info['{ID}']; verl's own know the data_source of its examples alone",
        "also set data.val_files, and a data.train_batch_size that divides the rows: the rest is dropped",
    ]
    if view.parts.id_in_answer:
        hints.append(
            "ground_truth is JSON with the id and the answer, which verl's own functions cannot read"
        )
    else:
        hints.append(
            "trainer.rollout_data_dir logs ground_truth and not extra_info, so from there rows are joined on "
            "the prompt's text, or with --id-in-answer on the id"
        )
    return Launch("flags", flags, hints)


PROFILE = Profile(
    name="verl",
    version="0.9.1",
    reserved=words(
        "raw_prompt dummy_tensor index tools_kwargs interaction_kwargs uid "
        "sampling_params trajectory trace session_id global_steps prompts responses input_ids "
        "attention_mask position_ids rm_scores"
    ),
    judge="data_source",
    judge_needed=True,
    group_size=GROUP_SIZE,
    columns=_columns,
    launch=_launch,
    rendering=Rendering(
        {"data.apply_chat_template_kwargs": ""},
        adds={
            "actor_rollout_ref.rollout.multi_turn.tool_config_path": "tools",
            "actor_rollout_ref.rollout.multi_turn.function_tool_path": "tools",
            "actor_rollout_ref.model.custom_chat_template": "a chat template",
        },
        media=("images", "videos", "audios"),
        nulls="all",
    ),
    layout=Layout(
        version="0.9.1",
        folders=("global_step_*", "*/global_step_*", "*/*/global_step_*"),
        step=r"global_step_(\d+)",
        marker="`latest_checkpointed_iteration.txt` beside it, written last, has N or more",
        unfinished=tracker("latest_checkpointed_iteration.txt"),
        weights=("actor/huggingface", "actor/model/huggingface"),
        setting="actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        adapters=(
            "actor/huggingface/lora_adapter",
            "actor/lora_adapter",
            "actor/model/huggingface/adapter",
        ),
        sharded=_VERL,
    ),
    recipe=Recipe(
        version="0.9.1",
        body=_SCRIPT,
        optimizer=f"{OPTIMIZER_LOST}; kept only by resuming, which brings the last file's offset "
        "(data.pt) back",
        rate=CONSTANT_RATE,
        reference=NO_REFERENCE,
        outcomes="compute_score in reward.py, which is given extra_info with gc_id and appends to "
        "$GAINCURATE_OUTCOMES",
    ),
)
