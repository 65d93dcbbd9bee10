"""What of OpenRLHF's options meets a schedule: OpenRLHF 0.11.2, `openrlhf.cli.train_ppo_ray`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.findings import About, Finding, Found, Trainer
from gaincurate.trainers.doctor.settings import Settings

_TRAINER = "openrlhf/trainer/ppo_trainer.py"
_DATASET = "openrlhf/datasets/prompts_dataset.py"
_ALL = 100_000_000

DEFAULTS: dict[str, Any] = {
    "data.prompt_dataset": None,
    "data.input_key": "input",
    "data.label_key": None,
    "data.input_template": None,
    "data.apply_chat_template": False,
    "data.max_samples": _ALL,
    "data.max_len": 2048,
    "rollout.max_new_tokens": None,
    "rollout.batch_size": 1024,
    "rollout.n_samples_per_prompt": 1,
    "train.batch_size": 128,
    "train.num_episodes": 1,
    "train.agent_func_path": None,
    "ckpt.load_enable": False,
    "ckpt.output_dir": "./ckpt",
    "ckpt.path": "./ckpt/checkpoints_ppo_ray",
    "reward.remote_url": None,
    "algo.kl.init_coef": 0.01,
    "actor.lr_scheduler": "cosine_with_min_lr",
    "actor.lr_warmup_ratio": 0.03,
    "ds.lora.rank": 0,
}


def shuffled(settings: Settings, about: About) -> Found:
    """No option reaches the sampler."""
    return Finding(
        "shuffle",
        "order",
        "rows are always shuffled, and no option changes it: which prompts a round has survives, their order "
        "does not",
        source=f"{_TRAINER}, prepare_datasets: setup_dataloader(..., shuffle=True)",
    )


def data(settings: Settings, about: About) -> Iterator[Finding]:
    """Which rows are read, and what is kept of them."""
    found = common.reads(settings, about, "data.prompt_dataset", source=_TRAINER)
    if found:
        yield found
    if settings["data.input_key"] != "prompt":
        yield Finding(
            "prompt-key",
            "stops",
            f"{settings.told('data.input_key')}: the chat messages are in `prompt`",
            {"data.input_key": "prompt"},
            source=_DATASET,
        )
    if not settings["data.apply_chat_template"]:
        yield Finding(
            "template",
            "wrong",
            f"{settings.told('data.apply_chat_template')}: the model would read the messages without its "
            "chat template, which is not what was scored",
            {"data.apply_chat_template": True},
            source=_DATASET,
        )
    if settings["data.label_key"] is None:
        yield Finding(
            "label",
            "wrong",
            f"{settings.told('data.label_key')}: of a row only prompt, label and datasource are kept, and "
            "the reward function is given the label alone: without it gc_id does not come back",
            {"data.label_key": "label"},
            "`gaincurate export --trainer openrlhf` writes gc_id and the answer into it as JSON",
            _DATASET,
        )
    most = settings.number("data.max_samples")
    if most is not None and most < (about.budget or _ALL):
        yield Finding(
            "subset",
            "wrong",
            f"{settings.told('data.max_samples')}: rows behind it are left out",
            {"data.max_samples": _ALL},
            source=_TRAINER,
        )


def sizes(settings: Settings, about: About) -> Iterator[Finding]:
    """The last samples of a round that do not fill a training batch are dropped."""
    each = settings.number("rollout.n_samples_per_prompt") or 1
    batch = settings.number("train.batch_size")
    if about.mode != "export" and about.budget is not None and batch:
        last = about.budget % (settings.number("rollout.batch_size") or about.budget) or about.budget
        left = int(last * each % batch)
        if left:
            size = int(max(one for one in range(1, int(batch) + 1) if about.budget * each % one == 0))
            yield Finding(
                "tail",
                "wrong",
                f"{settings.told('train.batch_size')}: the last {left} of a round's "
                f"{int(about.budget * each)} samples fill no training batch and are dropped",
                {"train.batch_size": size, "rollout.batch_size": about.budget},
                "or a budget that is a multiple of rollout.batch_size",
                "openrlhf/trainer/ray/ppo_actor.py: DataLoader(..., drop_last=True)",
            )
    spare = int(settings.number("rollout.max_new_tokens") or 1)
    limit = (settings.number("data.max_len") or 0) - spare
    found = common.too_long(
        settings,
        about,
        "data.max_len",
        limit,
        f"with {spare} of it for the answer they are cut from the front",
        spare=spare,
        source="openrlhf/utils/agent.py",
    )
    if found:
        yield found
    if one := common.epochs(settings, about, "train.num_episodes", source=_TRAINER):
        yield one


def resumes(settings: Settings, about: About) -> Found:
    """The loader's state of another file comes back."""
    if not about.segment or not settings["ckpt.load_enable"]:
        return None
    return Finding(
        "resume",
        "wrong",
        f"{settings.told('ckpt.load_enable')}: the step counter and the loader's place in the last round's "
        "file come back over the new one",
        {"ckpt.load_enable": False},
        "the next round begins with the weights: --actor.model_name_or_path {checkpoint}",
        f"{_TRAINER}, fit",
    )


def outcomes(settings: Settings, about: About) -> Found:
    """A reward model gives numbers, and nobody tells whose they are."""
    return common.reports(
        settings,
        about,
        ("reward.remote_url", "train.agent_func_path"),
        {"reward.remote_url": "reward.py"},
        "a function reward_func that appends a line to {outcomes} for the label's gc_id",
        "openrlhf/utils/agent.py",
    )


def checkpoints(settings: Settings, about: About) -> Found:
    """The model is saved at the end, as Hugging Face weights."""
    return common.output(
        settings, about, "ckpt.output_dir", "the model", source="openrlhf/trainer/ray/ppo_actor.py"
    )


def costs(settings: Settings, about: About) -> Iterator[Finding]:
    """What changes its meaning when the trainer is started for each round."""
    if not about.segment:
        return
    key, warm = "actor.lr_scheduler", "actor.lr_warmup_ratio"
    if settings[key] != "constant":
        yield Finding(
            "learning-rate",
            "cost",
            f"{settings.told(key)} with {settings.told(warm)}: warm-up and decay are over one process, so "
            "the learning rate rises and falls in every round",
            {key: "constant", warm: 0.0},
            source=f"{_TRAINER}, prepare_datasets",
        )
    if found := common.moving_reference(
        settings, about, "algo.kl.init_coef", 0, 0, "openrlhf/cli/train_ppo_ray.py"
    ):
        yield found


def adapters(settings: Settings, about: About) -> Found:
    """LoRA checkpoints hold an adapter."""
    return common.adapter_only(settings, about, "ds.lora.rank", 0, "openrlhf/utils/deepspeed/deepspeed.py")


TRAINER = Trainer(
    name="openrlhf",
    version="0.11.2",
    launches=("openrlhf.cli.train_ppo_ray", "train_ppo_ray"),
    style="switches",
    defaults=DEFAULTS,
    rules=(shuffled, data, sizes, resumes, outcomes, checkpoints, costs, adapters),
)
