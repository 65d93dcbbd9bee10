"""What of OpenRLHF's options meets a schedule: OpenRLHF 0.11.2, `openrlhf.cli.train_ppo_ray`."""

from __future__ import annotations

import math
from functools import partial

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, SEGMENT, must
from gaincurate.trainers.doctor.findings import Context, Finding, Found, TrainerRules
from gaincurate.trainers.doctor.settings import Settings

_ALL = 100_000_000
_MANY = 10_000  # prompts: nobody means a round of so many

RENAMED = {
    "prompt_data": "data.prompt_dataset",
    "input_key": "data.input_key",
    "label_key": "data.label_key",
    "input_template": "data.input_template",
    "apply_chat_template": "data.apply_chat_template",
    "max_samples": "data.max_samples",
    "max_len": "data.max_len",
    "max_new_tokens": "rollout.max_new_tokens",
    "rollout_batch_size": "rollout.batch_size",
    "n_samples_per_prompt": "rollout.n_samples_per_prompt",
    "train_batch_size": "train.batch_size",
    "num_episodes": "train.num_episodes",
    "agent_func_path": "train.agent_func_path",
    "load_checkpoint": "ckpt.load_enable",
    "save_path": "ckpt.output_dir",
    "ckpt_path": "ckpt.path",
    "remote_rm_url": "reward.remote_url",
    "init_kl_coef": "algo.kl.init_coef",
    "dynamic_filtering": "algo.dynamic_filtering_enable",
    "pretrain": "actor.model_name_or_path",
    "lr_scheduler": "actor.lr_scheduler",
    "lr_warmup_ratio": "actor.lr_warmup_ratio",
    "lora_rank": "ds.lora.rank",
}
"""The option names up to 0.10.1 (0.9.0, 0.9.3 and 0.10.1 were read)."""


def subset(settings: Settings, context: Context) -> Found:
    """The file is read up to a number of rows."""
    most = settings.number("data.max_samples")
    if most is None or most >= (context.budget or (_MANY if context.segment else _ALL)):
        return None
    title = f"{settings.told('data.max_samples')}: rows behind it are left out"
    return Finding("subset", "wrong", title, {"data.max_samples": _ALL})


def tail(settings: Settings, context: Context) -> Found:
    """The last samples of a round that do not fill a training batch are dropped."""
    each = settings.count("rollout.n_samples_per_prompt") or 1
    batch = settings.count("train.batch_size") or 0
    if context.mode == "export" or context.budget is None or not batch:
        return None
    taken = settings.count("rollout.batch_size") or context.budget
    left = (context.budget % taken or min(taken, context.budget)) * each % batch
    if not left:
        return None
    samples = context.budget * each
    fits = max(size for size in range(1, min(batch, samples) + 1) if samples % size == 0)
    step = batch // math.gcd(batch, each)  # prompts that fill whole training batches
    return Finding(
        "tail",
        "wrong",
        f"{settings.told('train.batch_size')}: the last {left} of a round's {samples} samples fill no "
        "training batch and are dropped",
        {"train.batch_size": fits, "rollout.batch_size": context.budget},
        "" if taken % step else common.aligned(context.budget, step),
    )


def lengths(settings: Settings, context: Context) -> Found:
    """A limit on prompts alone was an option up to 0.9; later ones have a limit on the whole length."""
    older, happens = settings["prompt_max_len"] is not None, "they are cut, so they are not what was scored"
    answer = 0 if older else settings.number("rollout.max_new_tokens") or 1
    key = "prompt_max_len" if older else "data.max_len"
    return common.too_long(settings, context, key, happens, below=lambda _: answer)


RULES = TrainerRules(
    name="openrlhf",
    renamed=RENAMED,
    launches=("openrlhf.cli.train_ppo_ray", "train_ppo_ray"),
    style="switches",
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
        tail,
        lengths,
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
