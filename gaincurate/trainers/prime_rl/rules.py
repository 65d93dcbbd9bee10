"""What of prime-rl's settings meets a schedule: commit 559b4477 (2026-08-21), one rl.toml."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import SEGMENT, table
from gaincurate.trainers.doctor.findings import Context, Finding, Found, Rule, TrainerRules
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.profile import words

_CONFIG = "prime_rl/configs/orchestrator.py"
_BROADCAST = "prime_rl/transports/weights/filesystem.py"
_SAMPLER = "orchestrator/curriculum/standard.py"
_SOURCE = "orchestrator.train.source.0"

DEFAULTS: dict[str, Any] = {
    "max_steps": None,
    "seq_len": None,
    "output_dir": "outputs",
    "weight_broadcast.type": "filesystem",
    "ckpt.interval": None,
    "orchestrator.batch_size": 128,
    "orchestrator.token_batch_size": None,
    "orchestrator.group_size": 1,
    "orchestrator.seq_len": 2048,
    "orchestrator.concurrency.max_inflight": 1024,
    "orchestrator.max_off_policy_steps": 8,
    f"{_SOURCE}.curriculum.sampler.type": "standard",
    f"{_SOURCE}.env.taskset.run": None,
    "orchestrator.monitors.file.path": "metrics.jsonl",
}


def _prompts(settings: Settings) -> float | None:
    """Prompts that one step trains."""
    size, group = settings.count("orchestrator.batch_size"), _group(settings)
    return size // group if size and group and settings["orchestrator.token_batch_size"] is None else None


def _group(settings: Settings) -> float | None:
    own = settings.count(f"{_SOURCE}.group_size")
    return own or settings.count("orchestrator.group_size")


_SHIPPED = words(
    "aime24 aime25 alphabet_sort browsecomp color_codeword deepdive deepwiki general_agent glossary gsm8k "
    "harbor i3_code i3_logic i3_math kuhn_poker math_env nemo_gym openenv openseeker proposer_solver "
    "r2e_gym redsearcher reverse_text scaleswe scratchpad swebench_verified terminal_bench_2 textarena tmax "
    "wiki_search wordle"
)
"""Tasksets of verifiers (a60a606e) and of the trainer's own configurations: they bring their own tasks."""


def _sources(settings: Settings) -> list[str]:
    """Where the training sources stand."""
    places = {
        ".".join(key.split(".")[:4])
        for key in settings.below("orchestrator.train.source.")
        if settings.given[key] is not None
    }
    return sorted(places)


def tasks(settings: Settings, context: Context) -> Iterator[Finding]:
    """The tasks of a round are the round's, and no other's."""
    for place in _sources(settings) if context.mode != "export" else ():
        key = f"{place}.env.taskset.id"
        name = str(settings[key]).rsplit("/", 1)[-1].partition("@")[0].replace("-", "_")
        if name in _SHIPPED:
            yield Finding(
                "data",
                "wrong",
                f"{settings.told(key)}: this taskset brings tasks of its own, whatever was planned",
                {key: "my_tasks"},
                "a taskset of your own package, which reads $GAINCURATE_DATA; `gaincurate export --trainer "
                "prime-rl` writes its rows"
                if context.segment
                else "a taskset of your own package, over gaincurate.trainers.prime_rl.RunTaskset",
                "verifiers/v1/taskset.py",
            )


def samplers(settings: Settings, context: Context) -> Iterator[Finding]:
    """Who chooses the tasks."""
    for key in sorted({f"{_SOURCE}.curriculum.sampler.type", *settings.below("orchestrator.train.source")}):
        if (
            key.endswith("curriculum.sampler.type")
            and settings[key] != "standard"
            and context.mode != "export"
        ):
            yield Finding(
                "sampler",
                "wrong",
                f"{settings.told(key)}: it chooses tasks by its own pools, some again and some never",
                {key: "standard"},
                source=_CONFIG,
            )


def gates(settings: Settings, context: Context) -> Iterator[Finding]:
    """Who refuses what was chosen."""
    for key in sorted(settings.below("orchestrator.train.source")):
        if ".curriculum.gates." in key and settings[key] is not None and context.mode != "export":
            yield Finding(
                "gate",
                "wrong",
                f"{settings.told(key)}: groups that it does not admit are replaced by further tasks, so "
                "steps and rows do not agree",
                {key: None},
                source=_CONFIG,
            )


def tokens(settings: Settings, context: Context) -> Found:
    """Batches by tokens have no fixed number of prompts."""
    key = "orchestrator.token_batch_size"
    if context.mode == "export" or settings[key] is None:
        return None
    return Finding(
        "token-batch",
        "wrong",
        f"{settings.told(key)}: a step takes as many prompts as fill it, so a round does not end with a step",
        {key: None, "orchestrator.batch_size": 128},
        source=_CONFIG,
    )


def lengths(settings: Settings, context: Context) -> Found:
    """Samples over the training length are cut."""
    key = "seq_len" if settings["seq_len"] is not None else "orchestrator.seq_len"
    return common.too_long(
        settings, context, key, "they are cut, so they are not what was scored", source=_CONFIG
    )


def endless(settings: Settings, context: Context) -> Found:
    """The tasks are gone through again and again; only max_steps ends it."""
    if not context.segment or settings["max_steps"] is not None:
        return None
    each = _prompts(settings)
    wanted = int(context.budget // each) if context.budget and each and context.budget % each == 0 else None
    return Finding(
        "length",
        "stops",
        f"{settings.told('max_steps')}: the tasks are gone through again and again, and a round never ends",
        {"max_steps": wanted or 1},
        "" if wanted else "budget * group_size / batch_size steps; 1 is for a budget of one step",
        _SAMPLER,
    )


def ahead(settings: Settings, context: Context) -> Found:
    """Episodes are begun as long as there is room for them."""
    key, size = "orchestrator.concurrency.max_inflight", settings.count("orchestrator.batch_size")
    most = settings.number(key)
    if context.mode == "export" or not size or (most is not None and most <= size):
        return None
    return Finding(
        "ahead",
        "stale" if context.live else "cost",
        f"{settings.told(key)}, but a step trains {size:g}: "
        + (
            "tasks are begun before the rewards that should choose them"
            if context.live
            else "behind a round's last prompts its first ones are begun again, for nothing"
        ),
        {key: int(size)},
        source=_CONFIG,
    )


def resumes(settings: Settings, context: Context) -> Iterator[Finding]:
    """A checkpoint brings the place among the tasks back."""
    if not context.segment:
        return
    for key in sorted(key for key in settings.given if key == "resume" or key.startswith("resume.")):
        if settings.given[key] is not None:
            yield Finding(
                "resume",
                "wrong",
                f"{key} is set: the step counter and the place among the last round's tasks come back over "
                "the new ones",
                {key: None},
                "the next round begins with the weights: model.name = {checkpoint}",
                f"{_SAMPLER}, load_state_dict",
            )


def outcomes(settings: Settings, context: Context) -> Found:
    """Episodes are written by the file monitor."""
    keys = [
        key
        for key in settings.given
        if key.endswith("monitors.file") and settings.given[key] in (False, None)
    ]
    if context.mode == "export" or not keys:
        return None
    return Finding(
        "outcomes",
        "stops",
        f"{keys[0]} is off: no traces.jsonl is written, and no round has outcomes",
        {keys[0]: {}},
        "or let the environment's own reward append a line to {outcomes}",
        "prime_rl/configs/monitors.py",
    )


_TABLE = table(
    *(("weights", "stops", SEGMENT, f"{at}weight_broadcast.type", "filesystem", _BROADCAST,
       "weights go from memory to memory, and no Hugging Face weights are left for scoring and the next "
       "round")
      for at in ("", "trainer.")),
)  # fmt: skip

_RULES: tuple[Rule, ...] = (
    tasks,
    samplers,
    gates,
    partial(common.follows_run, key=f"{_SOURCE}.env.taskset.run", source="gaincurate.trainers.prime_rl"),
    partial(common.begins, key="model.name", source="prime_rl/configs/rl.py"),
    resumes,
    tokens,
    partial(common.tail, key="orchestrator.batch_size", per_step=_prompts, factor=_group, source=_CONFIG),
    lengths,
    partial(common.steps, key="max_steps", per_step=_prompts, source=_SAMPLER),
    ahead,
    endless,
    partial(common.adapter_below, prefix="trainer.model.lora", source=_BROADCAST),
    partial(common.output, key="output_dir", what="the checkpoint", source="prime_rl/configs/rl.py"),
    outcomes,
    *_TABLE,
)  # fmt: skip

RULES = TrainerRules(
    name="prime-rl",
    toml=True,
    version="559b4477 (2026-08-21)",
    launches=("rl",),
    style="dashes",
    defaults=DEFAULTS,
    rules=_RULES,
    live=True,
)
