"""What verl's settings must be for a run, by verl's dotted names (0.9.1, `ppo_trainer.yaml` and its parts).

The doctor asks these rules of a file. The live adapter asks them of verl's resolved configuration, and replay
asks the few that hold without a run too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import LIVE as LIVE_MODE
from gaincurate.trainers.doctor.common import RUNS, SEGMENT, table, when
from gaincurate.trainers.doctor.findings import Context, Finding, Found, Rule, TrainerRules
from gaincurate.trainers.doctor.settings import Settings

LIVE: dict[str, Any] = {
    "data.custom_cls.path": "pkg://gaincurate.trainers.verl",
    "data.custom_cls.name": "RunDataset",
    "trainer.v1.sampler.custom_sampler.path": "pkg://gaincurate.trainers.verl",
    "trainer.v1.sampler.custom_sampler.name": "RunReplayBuffer",
    "trainer.checkpoint_callback_class": "gaincurate.trainers.verl.RunCheckpoint",
}
"""The settings by which the trainer finds the live adapter."""

_DATASET = "verl/utils/dataset/rl_dataset.py"
_AGENT = "verl/experimental/agent_loop/agent_loop.py, _cap_text_prompt_length"
_BASE = "verl/trainer/ppo/v1/trainer_base.py"
_MINI, _DYNAMIC = (f"actor_rollout_ref.actor.{name}" for name in ("ppo_mini_batch_size", "use_dynamic_bsz"))
_SAVED = "actor_rollout_ref.actor.checkpoint.save_contents"
_ASYNC_SAVE = "actor_rollout_ref.actor.checkpoint.async_save"
_SAVING = "verl/utils/checkpoint/fsdp_checkpoint_manager.py"
_SAMPLERS = "verl/trainer/ppo/utils.py, create_rl_sampler"
_BUFFER = "verl/trainer/ppo/v1/replay_buffer.py"
_REWARD = "reward.custom_reward_function.path"
_TAP = "trainer.v1.sampler.custom_sampler.path"
_CALLBACK = "trainer.checkpoint_callback_class"
_EXPORT = "--trainer verl --data-source NAME"
_ALWAYS = 1_000_000  # steps: no round is as long, and the last step is saved whatever the period

DEFAULTS: dict[str, Any] = {
    "data.train_files": "~/data/rlhf/gsm8k/train.parquet",
    "data.train_max_samples": -1,
    "data.train_batch_size": 1024,
    "data.max_prompt_length": 512,
    "data.filter_overlong_prompts": False,
    "data.shuffle": True,
    "data.dataloader_num_workers": 8,
    "data.custom_cls.path": None,
    "data.return_raw_chat": True,
    "trainer.total_epochs": 30,
    "trainer.total_training_steps": None,
    "trainer.save_freq": -1,
    "trainer.resume_mode": "auto",
    "trainer.default_local_dir": "checkpoints/${trainer.project_name}/${trainer.experiment_name}",
    "trainer.project_name": "verl_examples",
    "trainer.experiment_name": "gsm8k",
    "trainer.rollout_data_dir": None,
    "trainer.val_before_train": True,
    "trainer.use_v1": True,
    "trainer.v1.trainer_mode": "sync",
    _TAP: None,
    _CALLBACK: None,
    _REWARD: None,
    "algorithm.filter_groups.enable": False,
    "algorithm.use_kl_in_reward": False,
    "actor_rollout_ref.actor.use_kl_loss": False,
    _MINI: 256,
    _DYNAMIC: False,
    _SAVED: ["model", "optimizer", "extra"],
    "actor_rollout_ref.actor.optim.lr_scheduler_type": "constant",
    "actor_rollout_ref.model.lora_rank": 0,
}


def _batch(settings: Settings) -> float | None:
    return settings.count("data.train_batch_size")


def lengths(settings: Settings, context: Context) -> Found:
    """Long prompts are dropped or cut; `data.truncation` is read and not used (0.9.1)."""
    happens, source = "are cut from the left, so they are not what was scored", _AGENT
    if settings["data.filter_overlong_prompts"]:
        happens, source = "are dropped in silence, so they never report", _DATASET
    return common.too_long(settings, context, "data.max_prompt_length", happens, source=source)


def filters(settings: Settings, context: Context) -> Found:
    """Without a run nobody knows which prompts would be dropped. A live data set refuses to lose one."""
    if context.live or context.longest is not None or not settings["data.filter_overlong_prompts"]:
        return None
    return Finding(
        "filter",
        "wrong",
        f"{settings.told('data.filter_overlong_prompts')}: prompts over "
        f"{settings.number('data.max_prompt_length') or 0:g} tokens are dropped in silence, so they never "
        "report (--run tells which)",
        {"data.filter_overlong_prompts": False},
        source=_DATASET,
    )


def resumes(settings: Settings, context: Context) -> Found:
    """The loader's offset, the step counter and the data set's state come back with a checkpoint."""
    mode, key = settings["trainer.resume_mode"], "trainer.default_local_dir"
    if not context.segment or mode == "disable":
        return None
    if mode == "auto" and Settings.follows(settings.place(key), ("output", "round")):
        return None
    return Finding(
        "resume",
        "wrong",
        f"{settings.told('trainer.resume_mode')}: the step counter and the loader's offset (data.pt) of the "
        "last round come back over the new file, and the training ends at once",
        {key: "{output}"} if mode == "auto" else {"trainer.resume_mode": "disable"},
        "the next round begins with the weights: actor_rollout_ref.model.path={checkpoint}",
        f"{_BASE}, _load_checkpoint",
    )


def passes(settings: Settings, context: Context) -> Found:
    """How often the rows are gone through; in segment mode a number of steps may bound it."""
    if context.segment and settings["trainer.total_training_steps"] is not None:
        return None
    return common.epochs(settings, context, "trainer.total_epochs", source=_BASE)


def weights(settings: Settings, context: Context) -> Found:
    """What a round leaves is what scoring and the next one begin with."""
    saved = settings[_SAVED]
    saved = saved if isinstance(saved, list) else [saved] if saved else []
    if "hf_model" in saved or not (context.segment or context.read_every):
        return None
    if context.segment and "verl.model_merger" in context.shell:
        return None
    if context.live:
        title = f"{settings.told(_SAVED)}: no Hugging Face weights, which {context.reader} needs"
        return Finding("weights", "stops", title, {_SAVED: [*saved, "hf_model"]}, source=_SAVING)
    return Finding(
        "weights",
        "stops",
        f"{settings.told(_SAVED)}: no Hugging Face weights, which scoring and the next round begin with",
        {_SAVED: [*saved, "hf_model"]},
        "or `python -m verl.model_merger merge` as the last step of the round's command",
        _SAVING,
    )


def whole_weights(settings: Settings, context: Context) -> Found:
    """A checkpoint that is still written when it is due cannot be scored with."""
    if not context.read_every or not settings[_ASYNC_SAVE]:
        return None
    title = f"{settings.told(_ASYNC_SAVE)}: checkpoints are not whole yet when {context.reader} needs them"
    return Finding("async-save", "stops", title, {_ASYNC_SAVE: False}, source=_SAVING)


def checkpoints(settings: Settings, context: Context) -> Found:
    """A re-scoring needs the checkpoint of its round's end."""
    batch, every = _batch(settings), settings.number("trainer.save_freq") or 0
    if not context.read_every or context.budget is None or not batch or context.budget % batch:
        return None  # the rule on the tail speaks of what is left
    apart = int(context.budget // batch) * context.read_every
    if every > 0 and apart % every == 0:
        return None
    return Finding(
        "checkpoint",
        "stops",
        f"{settings.told('trainer.save_freq')}: {context.reader} needs a checkpoint every {apart} steps, and "
        "none is saved there",
        {"trainer.save_freq": apart},
        f"or a divisor of {apart}",
        f"{_BASE}, fit",
    )


def reward_pool(settings: Settings, context: Context) -> Found:
    """The adapter takes rewards where a step's rollouts are sampled."""
    key = "reward.reward_model.enable_resource_pool"
    if not context.live or not settings["reward.reward_model.enable"] or settings[key]:
        return None
    title = f"{settings.told(key)}: the reward model rewards rollouts after the adapter takes them"
    return Finding("late-rewards", "wrong", title, {key: True}, source=_BASE)


def log_alone(settings: Settings, context: Context) -> Found:
    """The trainer's log of its rollouts has no id."""
    logs = settings["trainer.rollout_data_dir"]
    if context.mode == "export" or not logs or settings[_REWARD] or settings[_TAP]:
        return None
    return Finding(
        "log-without-id",
        "cost",
        f"{settings.told('trainer.rollout_data_dir')}: its lines have no extra_info, so outcomes are joined "
        "by the text of the prompt, and rows with equal prompts cannot be told apart",
        {_REWARD: "reward.py"},
        "a reward function is given extra_info, with gc_id in it",
        f"{_BASE}, _log_rollout_data",
    )


def other_loops(settings: Settings, context: Context) -> Found:
    """Entry points with a loop of their own, in which neither the adapter nor these rules hold."""
    entry = context.script.partition("verl.experimental.")[2] or "fully_async_policy"
    if entry == "fully_async_policy" and not any(settings.below("async_training.")):
        return None
    if context.mode == "export" or not entry.startswith(("fully_async_policy", "one_step_off_policy")):
        return None
    return Finding(
        "async",
        "wrong",
        f"verl.experimental.{entry.partition('.')[0]}: rollouts run ahead of training, as far as "
        "rollout.total_rollout_steps, samples that fill no last batch are dropped, and no adapter is asked",
        advice="start `python -m verl.trainer.main_ppo`",
        source=f"verl/experimental/{entry.partition('.')[0]}",
    )


def gone(settings: Settings, context: Context) -> Iterator[Finding]:
    """What once chose the rows."""
    for key in ("data.sampler.class_path", "data.datagen.path"):
        if settings[key]:
            yield Finding(
                "sampler-gone",
                "wrong",
                f"{settings.told(key)}: verl 0.8 and later no longer read it, so the order is not what it "
                "says",
                {key: None},
                "live mode plugs in at data.custom_cls",
                _SAMPLERS,
            )


def _plugged(key: str) -> dict[str, Any]:
    return {name: LIVE[name] for name in (key, key.removesuffix("path") + "name")}


_REPLACED = "groups are replaced by further prompts, so steps and rows do not agree"

# Rules that replay asks for by name.

tail = partial(
    common.tail, key="data.train_batch_size", mini=_MINI, unless=_DYNAMIC, source=f"{_BASE}: drop_last=True"
)
workers = partial(common.workers, key="data.dataloader_num_workers", source=_BASE)
groups = table(
    ("filter-groups", "wrong", RUNS, "algorithm.filter_groups.enable", False, _BUFFER, _REPLACED),
    ("refill", "wrong", RUNS, "trainer.v1.sampler.sync_refill_failed_groups", False, _BUFFER, _REPLACED),
)
synchronous = when(
    "async",
    "stale",
    "trainer.v1.trainer_mode",
    lambda value: value != "sync",
    "prompts are fetched ahead, before the rollouts of the last step are in",
    {"trainer.v1.trainer_mode": "sync"},
    source=f"{_BASE}, prepare_step",
    modes=("live",),
)
whole_batches = when(
    "split-steps",
    "wrong",
    "trainer.v1.sync.parameter_sync_step",
    lambda value: isinstance(value, int) and value > 1,
    "a step's prompts are taken apart, and the adapter takes rollouts one step at a time",
    {"trainer.v1.sync.parameter_sync_step": 1},
    source=f"{_BASE}, prepare_step",
    modes=("live",),
)

_TABLE = table(
    ("legacy", "stops", LIVE_MODE, "trainer.use_v1", True, "verl/trainer/main_ppo.py",
     "the old trainer has no place for the adapter's outcome tap"),
    ("validation", "cost", SEGMENT, "trainer.val_before_train", False, _BASE,
     "a whole validation before every round"),
)  # fmt: skip

_RULES: tuple[Rule, ...] = (
    *common.rows("data.train_files", ("data_source", "reward_model", "extra_info"), _EXPORT, source=_DATASET),
    partial(common.unplugged, key="data.custom_cls.path", fix=_plugged("data.custom_cls.path"),
        what="the rows are the file's, whatever the schedule plans", source=_DATASET),
    partial(common.follows_run, key="data.train_files", source="gaincurate.trainers.verl"),
    partial(common.unplugged, key=_CALLBACK, fix={_CALLBACK: LIVE[_CALLBACK]},
        what="the adapter sees no settings and no checkpoint, and refuses to begin",
        source="verl/trainer/ppo/checkpoint_callback.py"),
    partial(common.unplugged, key=_TAP, fix=_plugged(_TAP), what="the adapter never hears of a reward",
        source=_BASE),
    partial(common.begins, key="actor_rollout_ref.model.path", source="verl/workers/config"),
    other_loops,
    resumes,
    passes,
    partial(common.steps, key="trainer.total_training_steps", per_step=_batch, source=_BASE),
    tail,
    lengths,
    filters,
    when("subset", "wrong", "data.train_max_samples", lambda value: isinstance(value, int) and value > 0,
        "rows are left out, at random where data.shuffle is on", {"data.train_max_samples": -1},
        source=_DATASET),
    *groups,
    gone,
    workers,
    synchronous,
    whole_batches,
    reward_pool,
    when("no-checkpoint", "stops", "trainer.save_freq", lambda value: not isinstance(value,
        int) or value <= 0, "nothing is saved, not even at the end", {"trainer.save_freq": _ALWAYS},
        advice="the last step is saved with any period above 0", source=f"{_BASE}, fit", modes=("segment",)),
    weights,
    whole_weights,
    checkpoints,
    partial(common.output, key="trainer.default_local_dir", what="the checkpoint", source=_BASE),
    partial(common.reports, keys=(_REWARD, "trainer.rollout_data_dir", _TAP), fix={_REWARD: "reward.py"},
        advice="a function compute_score that appends a line to {outcomes} for extra_info['gc_id']",
        source="verl/trainer/config/reward/reward.yaml"),
    partial(common.adapter_only, key="actor_rollout_ref.model.lora_rank", off=0,
        source="verl/workers/config"),
    partial(common.shuffle, key="data.shuffle", source=_SAMPLERS, refused=True),
    log_alone,
    *(partial(common.moving_reference, key=key, off=False, fix=False,
        source="verl/workers/config") for key in ("algorithm.use_kl_in_reward",
        "actor_rollout_ref.actor.use_kl_loss")),
    *_TABLE,
)  # fmt: skip

RULES = TrainerRules(
    name="verl",
    version="0.9.1",
    launches=("verl.trainer.main_ppo", "main_ppo", "fully_async_main"),
    style="hydra",
    defaults=DEFAULTS,
    rules=_RULES,
    live=True,
    resolves=True,
)
