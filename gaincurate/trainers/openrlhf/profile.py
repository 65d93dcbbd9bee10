"""OpenRLHF (`openrlhf.cli.train_ppo_ray`): columns, settings that make it read a file, rules, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from gaincurate.trainers.columns import ExportView
from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import ALWAYS, find, is_set, must
from gaincurate.trainers.doctor.findings import Finding, RuleContext
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.markers import tokenizer_unfinished, tracker
from gaincurate.trainers.profile import SHUFFLES, Launch, Layout, Profile, Rendering, Sharded

_ALL = 100_000_000
_MANY = 10_000  # prompts, more than a round usually has


def subset(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """No row of the file may be left out by a limit."""
    key = "data.max_samples"
    most = settings.number(key)
    if most is not None and most < (context.budget or (_MANY if context.segment else _ALL)):
        yield find(settings, key, "subset", "rows behind it are left out", {key: _ALL})


def tail(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """A round's samples must fill training batches, or the last ones are dropped."""
    each = settings.count("rollout.n_samples_per_prompt") or 1
    batch, budget = settings.count("train.batch_size") or 0, context.budget
    if context.mode == "export" or budget is None or not batch:
        return
    taken = settings.count("rollout.batch_size") or budget
    left = (budget % taken or min(taken, budget)) * each % batch
    if left:
        step = batch // math.gcd(batch, each)  # prompts that fill whole training batches
        why = f"the last {left} of a round's {budget * each} samples fill no training batch and are dropped"
        size = common.largest_divisor(budget * each, batch)
        fix = {"train.batch_size": size, "rollout.batch_size": budget}
        advice = "" if taken % step else common.aligned(budget, step)
        yield find(settings, "train.batch_size", "tail", why, fix, advice)


RULES = (
    common.rows("data.prompt_dataset", ("label",), "--trainer openrlhf", "jsonl", renamed="data.label_key"),
    common.begins("actor.model_name_or_path"),
    must("ckpt.load_enable", False, name="resume",
        advice="the next round begins with the weights: --actor.model_name_or_path {checkpoint}"),
    must("data.label_key", is_set, "of a row only prompt, label and datasource are kept, and the reward "
        "function is given only the label: without it gc_id does not come back", name="label",
        modes=ALWAYS, fix={"data.label_key": "label"},
        advice="`gaincurate export --trainer openrlhf` writes gc_id and the answer into it as JSON"),
    subset,
    tail,
    common.too_long("data.max_len", "they are cut, so they differ from the scored prompts",
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
)  # fmt: skip


def _launch(path: Path, view: ExportView) -> Launch:
    flags = ["--data.prompt_dataset", str(path), "--data.prompt_split", "train"]
    flags += ["--data.input_key", "prompt", "--data.apply_chat_template"]
    flags += ["--data.label_key", "label"] if "label" in view.columns else []
    label = ['a label is JSON: {"gc_id": ..., "answer": ...}'] if view.id_in_answer else []
    return Launch("flags", flags, [SHUFFLES.format("OpenRLHF"), *label])


def _tokenizer_last(path: Path, step: int) -> str | None:
    """An export has the tokenizer last; DeepSpeed folders have the file `latest`."""
    is_export = path.name.endswith("_hf")
    return tokenizer_unfinished(path) if is_export else tracker("latest", "global_step")(path, step)


PROFILE = Profile(
    name="openrlhf",
    version="0.11.2",
    judge="datasource",
    id_in_answer=True,
    refused_in_path=",@",
    columns=lambda view: {"prompt": view.messages(), **view.answers("label", as_text=True)},
    launch=_launch,
    rendering=Rendering(media=("images",), nulls="all"),
    layout=Layout(
        folders=("global_step*_hf", "*/global_step*_hf", "_actor/global_step*"),
        step=r"global_step(\d+)(?:_hf)?",
        unfinished=_tokenizer_last,
        setting="--ckpt.save_hf",
        sharded=(Sharded("*_model_states.pt", None, apart=True),),
    ),
    rules=RULES,
    launches=("openrlhf.cli.train_ppo_ray", "train_ppo_ray"),
    style="switches",
)
