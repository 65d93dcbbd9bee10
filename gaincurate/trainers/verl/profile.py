"""verl: columns, settings that make it read a file, rules (`ppo_trainer.yaml` and its parts), checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gaincurate.trainers.columns import ExportView
from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, find, must, only
from gaincurate.trainers.doctor.findings import Finding, Rule, RuleContext
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.markers import tracker
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, Sharded, hydra_value, words

GROUP_SIZE = "__rollout_n__"
"""The column with a prompt's group size; without it, a prompt has `rollout.n` rollouts (0.9.1)."""
WEIGHTS = ("actor/huggingface", "actor/model/huggingface")
"""The folders of Hugging Face files in a checkpoint (0.9.1): with FSDP, with Megatron."""
LIVE: dict[str, Any] = {
    "data.custom_cls.path": "pkg://gaincurate.trainers.verl",
    "data.custom_cls.name": "RunDataset",
    "trainer.v1.sampler.custom_sampler.path": "pkg://gaincurate.trainers.verl",
    "trainer.v1.sampler.custom_sampler.name": "RunReplayBuffer",
    "trainer.checkpoint_callback_class": "gaincurate.trainers.verl.RunCheckpoint",
}
"""The settings that name the live adapter."""

_MINI, _DYNAMIC = (f"actor_rollout_ref.actor.{name}" for name in ("ppo_mini_batch_size", "use_dynamic_bsz"))
_N = "actor_rollout_ref.rollout.n"
_SAVED = "actor_rollout_ref.actor.checkpoint.save_contents"
WITH_WEIGHTS = f"{_SAVED}=[model,optimizer,extra,hf_model]"
_REWARD = "reward.custom_reward_function.path"
_TAP = "trainer.v1.sampler.custom_sampler.path"
_CALLBACK = "trainer.checkpoint_callback_class"
_FILTER = "data.filter_overlong_prompts"
_RESUME = "trainer.resume_mode"
_EXPORT = "--trainer verl --data-source NAME"


def weights(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """A round must save complete weights, which scoring and the next round need."""
    saved = settings[_SAVED]
    saved = saved if isinstance(saved, list) else [saved] if saved else []
    merges = context.segment and "verl.model_merger" in context.shell
    if "hf_model" not in saved and not merges and (context.segment or context.read_every):
        merge = "or `python -m verl.model_merger merge` as the last step of the round's command"
        fix = {_SAVED: [*saved, "hf_model"]}
        yield find(settings, _SAVED, "weights", "", fix, "" if context.live else merge)


def checkpoints(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """A re-scoring needs a checkpoint at the round's end."""
    steps = context.steps(settings.count("data.train_batch_size"))
    every = settings.number("trainer.save_freq") or 0
    if not context.read_every or not steps:
        return
    apart = steps * context.read_every
    if every <= 0 or apart % every:
        why = f"{context.reader} needs a checkpoint every {apart} steps, and none is saved there"
        fix = {"trainer.save_freq": apart}
        yield find(settings, "trainer.save_freq", "checkpoint", why, fix, f"or a divisor of {apart}", "stops")


def group_sizes(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """A step's group sizes must have the mean `rollout.n`, by which verl counts mini-batches."""
    if context.mode == "export" or context.group_size is None:
        return
    batch = settings.count("data.train_batch_size") or 0
    in_order = not settings["data.shuffle"] or context.step == context.budget
    if settings.number(_N) != context.group_size or batch % context.step or not in_order:
        fix: dict[str, Any] = {_N: context.group_size, "data.train_batch_size": context.step}
        fix |= {} if in_order else {"data.shuffle": False}
        why = f"the group sizes of the plans have a mean of {context.group_size} in each {context.step:,} "
        why += "prompts, and verl counts mini-batches by it"
        yield find(settings, tuple(fix), "group-sizes", why, fix)


def other_loops(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """Some entry points have another training loop, in which neither adapter nor rules work."""
    entry = context.script.partition("verl.experimental.")[2] or "fully_async_policy"
    if entry == "fully_async_policy" and not any(settings.below("async_training.")):
        return
    if context.mode != "export" and entry.startswith(("fully_async_policy", "one_step_off_policy")):
        title = f"verl.experimental.{entry.partition('.')[0]}: rollouts run ahead of training, as far as "
        title += "rollout.total_rollout_steps, samples that fill no last batch are dropped, and no adapter "
        title += "is asked"
        yield Finding("async", "wrong", title, advice="start `python -m verl.trainer.main_ppo`")


def _plugged(key: str) -> dict[str, Any]:
    return {name: LIVE[name] for name in (key, key.removesuffix("path") + "name")}


_REPLACED = "groups are replaced by further prompts, so steps and rows do not agree"

# Rules that replay also uses.

groups = (
    must("algorithm.filter_groups.enable", False, _REPLACED, name="filter-groups"),
    must("trainer.v1.sampler.sync_refill_failed_groups", False, _REPLACED, name="refill"),
)
synchronous = must("trainer.v1.trainer_mode", lambda value: value == "sync",
    "prompts are fetched ahead, before the rollouts of the last step are in", name="async", severity="stale",
    modes=common.LIVE, fix={"trainer.v1.trainer_mode": "sync"})  # fmt: skip
whole_batches = must("trainer.v1.sync.parameter_sync_step", lambda value: value in (None, 0, 1),
    "a step's prompts are taken apart, and the adapter takes rollouts one step at a time", name="split-steps",
    modes=common.LIVE, fix={"trainer.v1.sync.parameter_sync_step": 1})  # fmt: skip
reward_pool = only(
    lambda settings, _: settings["reward.reward_model.enable"],
    must("reward.reward_model.enable_resource_pool", True,
        "the reward model rewards rollouts after the adapter takes them", name="late-rewards",
        modes=common.LIVE),
)  # fmt: skip

RULES: tuple[Rule, ...] = (
    common.rows("data.train_files", ("data_source", "reward_model", "extra_info"), _EXPORT),
    common.unplugged("data.custom_cls.path", _plugged("data.custom_cls.path"),
        "the rows are the file's, regardless of the plan"),
    common.follows_run("data.train_files"),
    common.unplugged(_CALLBACK, {_CALLBACK: LIVE[_CALLBACK]},
        "the adapter sees no settings and no checkpoint, and refuses to begin"),
    common.unplugged(_TAP, _plugged(_TAP), "the adapter never receives a reward"),
    common.begins("actor_rollout_ref.model.path"),
    other_loops,
    # The loader's offset (data.pt), the step counter and the rows' state come back with a checkpoint.
    only(lambda settings, _: settings[_RESUME] == "auto", common.resumes("trainer.default_local_dir",
        "actor_rollout_ref.model.path", _RESUME, fix={"trainer.default_local_dir": "{output}"})),
    only(lambda settings, _: settings[_RESUME] != "auto", must(_RESUME, "disable", name="resume")),
    only(lambda settings, context: context.live or settings["trainer.total_training_steps"] is None,
        common.epochs("trainer.total_epochs")),
    common.steps("trainer.total_training_steps", "data.train_batch_size"),
    common.tail("data.train_batch_size", mini=_MINI, unless=_DYNAMIC),
    only(lambda settings, _: settings[_FILTER],  # data.truncation is read and not used
        common.too_long("data.max_prompt_length", "they are dropped in silence, so they never report")),
    only(lambda settings, _: not settings[_FILTER], common.too_long("data.max_prompt_length",
        "they are cut from the left, so they differ from the scored prompts")),
    only(lambda _, context: not context.live and context.longest is None,
        must(_FILTER, False, "prompts over data.max_prompt_length tokens are dropped "
        "in silence, so they never report (--run tells which)", name="filter", modes=ALWAYS)),
    must("data.train_max_samples", lambda value: not common.above_zero(value),
        "rows are left out, at random where data.shuffle is on", name="subset", modes=ALWAYS,
        fix={"data.train_max_samples": -1}),
    *groups,
    group_sizes,
    *(must(key, None, "verl 0.8 and later no longer read it, so the order is not what it says",
        name="sampler-gone", modes=ALWAYS, advice="live mode plugs in at data.custom_cls")
        for key in ("data.sampler.class_path", "data.datagen.path")),
    must("data.dataloader_num_workers", 0, "its loader fetches ahead, so prompts are chosen before the "
        "rewards that should choose them", name="workers", severity="stale", modes=common.LIVE),
    synchronous,
    whole_batches,
    reward_pool,
    must("trainer.save_freq", common.above_zero, "nothing is saved, not even at the end",
        name="no-checkpoint", fix={"trainer.save_freq": common.FOREVER},
        advice="the last step is saved with any period above 0"),
    weights,
    only(lambda _, context: context.read_every,
        must("actor_rollout_ref.actor.checkpoint.async_save", False,
        "checkpoints are not whole yet when the run scores again", name="async-save", severity="stops",
        modes=common.LIVE)),
    checkpoints,
    common.output("trainer.default_local_dir"),
    common.reports((_REWARD, _TAP), {_REWARD: "reward.py"},
        "a function compute_score that appends a line to {outcomes} for extra_info['gc_id']"),
    *(must(f"actor_rollout_ref.model.{key}", 0, name="adapter") for key in ("lora_rank", "lora.rank")),
    *common.shuffle_refused("data.shuffle"),
    *(must(key, False, name="reference")
        for key in ("algorithm.use_kl_in_reward", "actor_rollout_ref.actor.use_kl_loss")),
    must("trainer.use_v1", True, "the old trainer has no place for the adapter's outcome tap", name="legacy",
        severity="stops", modes=common.LIVE),
    must("trainer.val_before_train", False, name="validation"),
)  # fmt: skip

_MERGE = (
    "python -m verl.model_merger merge --backend {} --local_dir {{checkpoint}}/actor "
    "--target_dir {{checkpoint}}/actor/{}"
)


def _launch(path: Path, view: ExportView) -> Launch:
    flags = [f"data.train_files={hydra_value(path)}", "data.prompt_key=prompt"]
    flags += ["data.reward_fn_key=data_source", "data.shuffle=False", "data.dataloader_num_workers=0"]
    flags += ["data.filter_overlong_prompts=False", "data.train_max_samples=-1"]
    hints = [
        "a reward function of yours (reward.custom_reward_function.path=reward.py) gets the id as "
        "extra_info['gc_id']; verl's own know only the data_source of its examples",
        "also set data.val_files, and a data.train_batch_size that divides the rows: the rest is dropped",
    ]
    label = "ground_truth is JSON with the id and the answer, which verl's own functions cannot read"
    hints += [label] if view.id_in_answer else []
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
        "extra_info": view.struct(
            "extra_info", {"index": view.places("extra_info.index"), "gc_id": view.ids()}
        ),
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
        unfinished=tracker(),
        weights=WEIGHTS,
        setting=WITH_WEIGHTS,
        adapters=("actor/huggingface/lora_adapter", "actor/lora_adapter", "actor/model/huggingface/adapter"),
        sharded=(
            Sharded("actor/model_world_size_*_rank_*.pt", _MERGE.format("fsdp", "huggingface")),
            Sharded("actor/model/dist_ckpt/*", _MERGE.format("megatron", "model/huggingface")),
        ),
    ),
    rules=RULES,
    launches=("verl.trainer.main_ppo", "main_ppo", "fully_async_main"),
    live=True,
)
