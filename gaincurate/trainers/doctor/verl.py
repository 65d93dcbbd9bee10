"""What of verl's settings meets a schedule: verl 0.9.1, `ppo_trainer.yaml` and its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.findings import About, Finding, Found, Trainer
from gaincurate.trainers.doctor.live import LIVE
from gaincurate.trainers.doctor.settings import Settings

_DATASET = "verl/utils/dataset/rl_dataset.py"
_BASE = "verl/trainer/ppo/v1/trainer_base.py"
_SAVED = "actor_rollout_ref.actor.checkpoint.save_contents"
_REWARD = "reward.custom_reward_function.path"
_TAP = "trainer.v1.sampler.custom_sampler.path"
_ALWAYS = 1_000_000  # steps: no round is as long, and the last step is saved whatever the period

DEFAULTS: dict[str, Any] = {
    "data.train_files": "~/data/rlhf/gsm8k/train.parquet",
    "data.train_max_samples": -1,
    "data.train_batch_size": 1024,
    "data.max_prompt_length": 512,
    "data.filter_overlong_prompts": False,
    "data.truncation": "error",
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
    _REWARD: None,
    "algorithm.filter_groups.enable": False,
    "algorithm.use_kl_in_reward": False,
    "actor_rollout_ref.actor.use_kl_loss": False,
    _SAVED: ["model", "optimizer", "extra"],
    "actor_rollout_ref.actor.optim.lr_scheduler_type": "constant",
    "actor_rollout_ref.model.lora_rank": 0,
}


def data(settings: Settings, about: About) -> Iterator[Finding]:
    """Which rows are read, in which order."""
    found = [
        common.reads(settings, about, "data.train_files", source=_DATASET),
        common.shuffle(
            settings, about, "data.shuffle", source="verl/trainer/ppo/utils.py, create_rl_sampler"
        ),
        common.workers(settings, about, "data.dataloader_num_workers", source=_BASE),
        common.tail(
            settings, about, "data.train_batch_size", settings.number("data.train_batch_size"), source=_BASE
        ),
    ]
    yield from (one for one in found if one)
    most = settings.number("data.train_max_samples")
    if most is not None and most > 0:
        yield Finding(
            "subset",
            "wrong",
            f"{settings.told('data.train_max_samples')}: rows are left out, at random where data.shuffle is "
            "on",
            {"data.train_max_samples": -1},
            source=_DATASET,
        )


def lengths(settings: Settings, about: About) -> Found:
    """Long prompts are dropped, cut, or stop the training."""
    limit = settings.number("data.max_prompt_length")
    drops = bool(settings["data.filter_overlong_prompts"])
    cuts = settings["data.truncation"]
    happens = "are cut, so they are not what was scored"
    if drops:
        happens = "are dropped in silence, so they never report"
    elif cuts == "error":
        happens = "the training stops at the first one"
    found = common.too_long(settings, about, "data.max_prompt_length", limit, happens, source=_DATASET)
    if found is not None or about.longest is not None or not drops:
        return found
    return Finding(
        "filter",
        "wrong",
        f"{settings.told('data.filter_overlong_prompts')}: prompts over {limit or 0:g} tokens are dropped in "
        "silence, so they never report (--run tells which)",
        {"data.filter_overlong_prompts": False},
        source=_DATASET,
    )


def resumes(settings: Settings, about: About) -> Found:
    """The loader's offset, the step counter and the data set's state come back with a checkpoint."""
    mode, key = settings["trainer.resume_mode"], "trainer.default_local_dir"
    if not about.segment or mode == "disable":
        return None
    if mode == "auto":
        if Settings.follows(settings[key], ("output", "round")):
            return None
        return Finding(
            "resume",
            "wrong",
            f"{settings.told('trainer.resume_mode')} with the same {key} every round: the step counter and "
            "the loader's offset (data.pt) of the last round come back over the new file, and the training "
            "ends at once",
            {key: "{output}"},
            "the next round begins with the weights: actor_rollout_ref.model.path={checkpoint}",
            f"{_BASE}, _load_checkpoint",
        )
    return Finding(
        "resume",
        "wrong",
        f"{settings.told('trainer.resume_mode')}: data.pt puts the last round's offset onto the new file",
        {"trainer.resume_mode": "disable"},
        "the next round begins with the weights: actor_rollout_ref.model.path={checkpoint}",
        f"{_BASE}, _load_checkpoint",
    )


def length(settings: Settings, about: About) -> Found:
    """How many steps one process trains."""
    most, key = settings.number("trainer.total_training_steps"), "trainer.total_training_steps"
    if most is None:
        return common.epochs(settings, about, "trainer.total_epochs", source=_BASE)
    size = settings.number("data.train_batch_size")
    if about.mode == "export" or about.budget is None or not size or about.budget % size:
        return None
    wanted = int(about.budget // size) * ((about.rounds or 1) if about.live else 1)
    if most == wanted:
        return None
    why = "some rows are never trained" if most < wanted else "rows are trained again"
    title = f"{settings.told(key)}, but {'the run' if about.live else 'a round'} has {wanted} steps: {why}"
    return Finding("max-steps", "wrong", title, {key: wanted}, source=_BASE)


def checkpoints(settings: Settings, about: About) -> Iterator[Finding]:
    """What a round leaves is what the next one begins with."""
    if not about.segment:
        return
    every, saved = settings.number("trainer.save_freq"), settings[_SAVED] or []
    if every is None or every <= 0:
        yield Finding(
            "no-checkpoint",
            "stops",
            f"{settings.told('trainer.save_freq')}: nothing is saved, not even at the end",
            {"trainer.save_freq": _ALWAYS},
            "the last step is saved with any period above 0",
            f"{_BASE}, fit",
        )
    if "hf_model" not in saved:
        yield Finding(
            "weights",
            "stops",
            f"{settings.told(_SAVED)}: no Hugging Face weights, which scoring and the next round begin with",
            {_SAVED: [*saved, "hf_model"]},
            "or `python -m verl.model_merger merge` as the last step of the round's command",
            "verl/utils/checkpoint/fsdp_checkpoint_manager.py",
        )
    if (found := common.output(settings, about, "trainer.default_local_dir", "the checkpoint")) is not None:
        yield found


def outcomes(settings: Settings, about: About) -> Iterator[Finding]:
    """Rewards must be told with the row's id."""
    logs = settings["trainer.rollout_data_dir"]
    if logs and not settings[_REWARD] and not settings[_TAP]:
        yield Finding(
            "log-without-id",
            "cost",
            f"{settings.told('trainer.rollout_data_dir')}: its lines have no extra_info, so outcomes are "
            "joined by the text of the prompt, and rows with equal prompts cannot be told apart",
            {_REWARD: "reward.py"},
            "a reward function is given extra_info, with gc_id in it",
            f"{_BASE}, _log_rollout_data",
        )
    found = common.reports(
        settings,
        about,
        (_REWARD, "trainer.rollout_data_dir", _TAP),
        {_REWARD: "reward.py"},
        "a function compute_score that appends a line to {outcomes} for extra_info['gc_id']",
        "verl/trainer/config/reward/reward.yaml",
    )
    if found:
        yield found


def sampling(settings: Settings, about: About) -> Iterator[Finding]:
    """What takes other prompts than the file's, and what once chose them."""
    key = "algorithm.filter_groups.enable"
    happens = (
        "groups without variance are thrown away and further prompts drawn, so steps and rows do not agree"
    )
    if found := common.drops(settings, about, "filter-groups", key, False, happens, _BASE):
        yield found
    for gone in ("data.sampler.class_path", "data.datagen.path"):
        if settings[gone]:
            yield Finding(
                "sampler-gone",
                "wrong",
                f"{settings.told(gone)}: verl 0.8 and later no longer read it, so the order is not what it "
                "says",
                {gone: None},
                "live mode plugs in at data.custom_cls; or stay with verl <= 0.7.1",
                "verl/trainer/ppo/utils.py, create_rl_sampler",
            )


def live(settings: Settings, about: About) -> Iterator[Finding]:
    """What the adapter needs of a long run."""
    if not about.live:
        return
    plugged = LIVE["verl"]
    for key, what in (
        ("data.custom_cls.path", "the rows are the file's, whatever the schedule plans"),
        (_TAP, "the adapter never hears of a reward"),
    ):
        name = key.removesuffix("path") + "name"
        mend = {key: plugged[key], name: plugged[name]}
        if found := common.unplugged(settings, about, key, mend, what, _BASE):
            yield found
    if not settings["trainer.use_v1"]:
        yield Finding(
            "legacy",
            "stops",
            f"{settings.told('trainer.use_v1')}: the old trainer has no place for the adapter's outcome tap",
            {"trainer.use_v1": True},
            source="verl/trainer/main_ppo.py",
        )
    if settings["trainer.v1.trainer_mode"] != "sync":
        yield Finding(
            "async",
            "stale",
            f"{settings.told('trainer.v1.trainer_mode')}: prompts are fetched ahead of the rewards that "
            "should choose them",
            {"trainer.v1.trainer_mode": "sync"},
            "or count on plans that lag by the warm-up batches",
            f"{_BASE}, prepare_step",
        )


def costs(settings: Settings, about: About) -> Iterator[Finding]:
    """What is paid or changes its meaning when the trainer is started for each round."""
    if not about.segment:
        return
    if settings["trainer.val_before_train"]:
        yield Finding(
            "validation",
            "cost",
            f"{settings.told('trainer.val_before_train')}: a whole validation before every round",
            {"trainer.val_before_train": False},
            source=_BASE,
        )
    for key in ("algorithm.use_kl_in_reward", "actor_rollout_ref.actor.use_kl_loss"):
        if found := common.moving_reference(settings, about, key, False, False, _BASE):
            yield found


def adapters(settings: Settings, about: About) -> Found:
    """LoRA checkpoints hold an adapter."""
    return common.adapter_only(settings, about, "actor_rollout_ref.model.lora_rank", 0, _BASE)


TRAINER = Trainer(
    name="verl",
    version="0.9.1",
    launches=("verl.trainer.main_ppo", "main_ppo"),
    style="hydra",
    defaults=DEFAULTS,
    rules=(data, lengths, resumes, length, checkpoints, outcomes, sampling, live, costs, adapters),
    live=True,
)
