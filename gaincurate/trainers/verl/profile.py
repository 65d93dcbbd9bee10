"""verl: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

from pathlib import Path

from gaincurate.core.schema import ID
from gaincurate.trainers.columns import View
from gaincurate.trainers.markers import TRACKER, tracker
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, Sharded, hydra_value, words

GROUP_SIZE = "__rollout_n__"
"""The column with a prompt's group size; without it a prompt has `rollout.n` rollouts (0.9.1)."""
_MERGE = (
    "python -m verl.model_merger merge --backend {} --local_dir {{checkpoint}}/actor "
    "--target_dir {{checkpoint}}/actor/{}"
)


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
    if view.id_in_answer:
        hints.append(
            "ground_truth is JSON with the id and the answer, which verl's own functions cannot read"
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
    columns=lambda view: {
        "prompt": view.messages(),
        "reward_model": view.struct("reward_model", {"ground_truth": view.gold()}, {"style": "rule"}),
        "extra_info": view.struct("extra_info", {"index": view.places("extra_info.index"), ID: view.ids()}),
    },
    launch=_launch,
    rendering=Rendering(
        "data.apply_chat_template_kwargs",
        adds=(
            "actor_rollout_ref.rollout.multi_turn.tool_config_path",
            "actor_rollout_ref.rollout.multi_turn.function_tool_path",
            "actor_rollout_ref.model.custom_chat_template",
        ),
        media=("images", "videos", "audios"),
        nulls="all",
    ),
    layout=Layout(
        folders=("global_step_*", "*/global_step_*", "*/*/global_step_*"),
        step=r"global_step_(\d+)",
        marker="`latest_checkpointed_iteration.txt` beside it, written last, has N or more",
        unfinished=tracker(TRACKER),
        weights=("actor/huggingface", "actor/model/huggingface"),
        setting="actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        adapters=("actor/huggingface/lora_adapter", "actor/lora_adapter", "actor/model/huggingface/adapter"),
        sharded=(
            Sharded("actor/model_world_size_*_rank_*.pt", _MERGE.format("fsdp", "huggingface")),
            Sharded("actor/model/dist_ckpt/*", _MERGE.format("megatron", "model/huggingface")),
        ),
    ),
)
