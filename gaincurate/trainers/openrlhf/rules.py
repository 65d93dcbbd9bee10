"""OpenRLHF's options that a schedule depends on: OpenRLHF 0.11.2, `openrlhf.cli.train_ppo_ray`."""

from __future__ import annotations

import math

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, find, is_set, must
from gaincurate.trainers.doctor.findings import Context, Found, TrainerRules
from gaincurate.trainers.doctor.settings import Settings

_ALL = 100_000_000
_MANY = 10_000  # prompts: nobody means a round of so many


def subset(settings: Settings, context: Context) -> Found:
    """The file is read up to a number of rows."""
    key = "data.max_samples"
    most = settings.number(key)
    if most is None or most >= (context.budget or (_MANY if context.segment else _ALL)):
        return None
    return find(settings, key, "subset", "rows behind it are left out", {key: _ALL})


def tail(settings: Settings, context: Context) -> Found:
    """The last samples of a round that do not fill a training batch are dropped."""
    each = settings.count("rollout.n_samples_per_prompt") or 1
    batch, budget = settings.count("train.batch_size") or 0, context.budget
    if context.mode == "export" or budget is None or not batch:
        return None
    taken = settings.count("rollout.batch_size") or budget
    left = (budget % taken or min(taken, budget)) * each % batch
    if not left:
        return None
    step = batch // math.gcd(batch, each)  # prompts that fill whole training batches
    why = f"the last {left} of a round's {budget * each} samples fill no training batch and are dropped"
    fix = {
        "train.batch_size": common.largest_divisor(budget * each, batch),
        "rollout.batch_size": budget,
    }
    advice = "" if taken % step else common.aligned(budget, step)
    return find(settings, "train.batch_size", "tail", why, fix, advice)


RULES = TrainerRules(
    name="openrlhf",
    launches=("openrlhf.cli.train_ppo_ray", "train_ppo_ray"),
    style="switches",
    rules=(
        common.rows("data.prompt_dataset", ("label",), "--trainer openrlhf", "jsonl",
            renamed="data.label_key"),
        common.begins("actor.model_name_or_path"),
        must("ckpt.load_enable", False, name="resume",
            advice="the next round begins with the weights: --actor.model_name_or_path {checkpoint}"),
        must("data.label_key", is_set, "of a row only prompt, label and datasource are kept, and the reward "
            "function is given the label alone: without it gc_id does not come back", name="label",
            modes=ALWAYS, fix={"data.label_key": "label"},
            advice="`gaincurate export --trainer openrlhf` writes gc_id and the answer into it as JSON"),
        subset,
        tail,
        common.too_long("data.max_len", "they are cut, so they are not what was scored",
            lambda settings: settings.number("rollout.max_new_tokens") or 1),
        common.epochs("train.num_episodes"),
        common.reports(("reward.remote_url", "train.agent_func_path"), {"reward.remote_url": "reward.py"},
            "a function reward_func that appends a line to {outcomes} for the label's gc_id"),
        common.output("ckpt.output_dir"),
        must("ds.lora.rank", 0, name="adapter"),
        common.always_shuffled,
        must("actor.lr_scheduler", lambda value: value == "constant", name="learning-rate",
            fix={"actor.lr_scheduler": "constant", "actor.lr_warmup_ratio": 0.0}),
        must("algo.kl.init_coef", 0, name="reference"),
        must("data.apply_chat_template", True, name="template"),
        must("data.input_key", "prompt", name="prompt-key"),
        must("algo.dynamic_filtering_enable", False, name="dynamic-sampling"),
    ),
)  # fmt: skip
