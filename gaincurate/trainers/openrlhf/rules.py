"""What of OpenRLHF's options meets a schedule: OpenRLHF 0.11.2, `openrlhf.cli.train_ppo_ray`."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, SEGMENT, must
from gaincurate.trainers.doctor.findings import Context, Finding, Found, TrainerRules
from gaincurate.trainers.doctor.settings import Settings

_ALL = 100_000_000
_MANY = 10_000  # prompts: nobody means a round of so many

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
    "algo.dynamic_filtering_enable": False,
    "actor.lr_scheduler": "cosine_with_min_lr",
    "actor.lr_warmup_ratio": 0.03,
    "ds.lora.rank": 0,
}


def subset(settings: Settings, context: Context) -> Found:
    """The file is read up to a number of rows."""
    most = settings.number("data.max_samples")
    if most is None or most >= (context.budget or (_MANY if context.segment else _ALL)):
        return None
    title = f"{settings.told('data.max_samples')}: rows behind it are left out"
    return Finding("subset", "wrong", title, {"data.max_samples": _ALL})


def samples(settings: Settings) -> int:
    """Rollouts of one prompt."""
    return settings.count("rollout.n_samples_per_prompt") or 1


def prompts(settings: Settings) -> int:
    """The fewest prompts whose samples fill whole training batches."""
    batch = settings.count("train.batch_size") or 0
    return batch // math.gcd(batch, samples(settings)) if batch else 0


RULES = TrainerRules(
    name="openrlhf",
    version="0.11.2",
    launches=("openrlhf.cli.train_ppo_ray", "train_ppo_ray"),
    style="switches",
    defaults=DEFAULTS,
    rules=(
        common.rows("data.prompt_dataset", ("label",), "--trainer openrlhf", "jsonl",
            renamed="data.label_key"),
        partial(common.begins, key="actor.model_name_or_path"),
        must("ckpt.load_enable", False,
            "the step counter and the loader's place in the last round's file come back over the new one",
            name="resume", modes=SEGMENT,
            advice="the next round begins with the weights: --actor.model_name_or_path {checkpoint}"),
        must("data.label_key", lambda value: value is not None,
            "of a row only prompt, label and datasource "
            "are kept, and the reward function is given the label alone: without it gc_id does not come "
            "back", name="label", modes=ALWAYS, fix={"data.label_key": "label"},
            advice="`gaincurate export --trainer openrlhf` writes gc_id and the answer into it as JSON"),
        subset,
        partial(common.tail, key="train.batch_size", per_step=prompts, factor=samples),
        partial(common.too_long, key="data.max_len", happens="they are cut, so they are not what was scored",
            below=lambda settings: settings.number("rollout.max_new_tokens") or 1),
        partial(common.epochs, key="train.num_episodes"),
        common.reports(keys=("reward.remote_url", "train.agent_func_path"),
            fix={"reward.remote_url": "reward.py"},
            advice="a function reward_func that appends a line to {outcomes} for the label's gc_id"),
        partial(common.output, key="ckpt.output_dir", what="the model"),
        common.adapter_only("ds.lora.rank", 0),
        common.always_shuffled(),
        must("actor.lr_scheduler", lambda value: value == "constant",
            "warm-up and decay are over one process, so the learning rate rises and falls in every round",
            name="learning-rate", severity="cost", modes=SEGMENT,
            fix={"actor.lr_scheduler": "constant", "actor.lr_warmup_ratio": 0.0}),
        common.moving_reference("algo.kl.init_coef", 0),
        must("data.apply_chat_template", True,
            "the model would read the messages without its chat template, which is not what was scored",
            name="template", modes=ALWAYS),
        must("data.input_key", "prompt", "the chat messages are in `prompt`", name="prompt-key",
            severity="stops", modes=ALWAYS),
        must("algo.dynamic_filtering_enable", False, "groups outside of dynamic_filtering_range are "
            "replaced by further prompts, and the last batch is thrown away where the rows end, so steps "
            "and rows do not agree", name="dynamic-sampling"),
    ),
)  # fmt: skip
