"""prime-rl's settings that a schedule depends on: commit 559b4477 (2026-08-21), one rl.toml."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import SEGMENT, find, must
from gaincurate.trainers.doctor.findings import Context, Finding, Found, TrainerRules
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.profile import words

_SOURCE = "orchestrator.train.source.0"
_SHIPPED = words(
    "aime24 aime25 alphabet_sort browsecomp color_codeword deepdive deepwiki general_agent glossary gsm8k "
    "harbor i3_code i3_logic i3_math kuhn_poker math_env nemo_gym openenv openseeker proposer_solver "
    "r2e_gym redsearcher reverse_text scaleswe scratchpad swebench_verified terminal_bench_2 textarena tmax "
    "wiki_search wordle"
)
"""Tasksets of verifiers (a60a606e) and of the trainer's own configurations: they bring their own tasks."""


def _prompts(settings: Settings) -> float | None:
    """Prompts that one step trains."""
    size, group = settings.count("orchestrator.batch_size"), _group(settings)
    return size // group if size and group and settings["orchestrator.token_batch_size"] is None else None


def _group(settings: Settings) -> float | None:
    return settings.count(f"{_SOURCE}.group_size") or settings.count("orchestrator.group_size")


def _brings_tasks(taskset: Any) -> bool:
    name = str(taskset).rsplit("/", 1)[-1].partition("@")[0]
    return name.replace("-", "_") in _SHIPPED


def sources(settings: Settings, context: Context) -> Iterator[Finding]:
    """A round's tasks are the plan's, and the standard sampler takes all of them."""
    advice = "a taskset of your own package, over gaincurate.trainers.prime_rl.RunTaskset"
    if context.segment:
        advice = "a taskset of your own package, which reads $GAINCURATE_DATA; `gaincurate export --trainer "
        advice += "prime-rl` writes its rows"
    for key in sorted({f"{_SOURCE}.curriculum.sampler.type", *settings.below("orchestrator.train.source.")}):
        finding = None
        if key.endswith(".env.taskset.id"):
            why, fix = "this taskset has tasks of its own, whatever was planned", {key: "my_tasks"}
            row = must(key, lambda value: not _brings_tasks(value), why, name="data", fix=fix, advice=advice)
            finding = row(settings, context)
        elif key.endswith(".curriculum.sampler.type"):
            why = "it chooses tasks by its own pools, some again and some never"
            finding = must(key, "standard", why, name="sampler")(settings, context)
        if finding:
            yield finding


def lengths(settings: Settings, context: Context) -> Found:
    """Samples over the training length are cut."""
    key = "seq_len" if settings["seq_len"] is not None else "orchestrator.seq_len"
    return common.too_long(key, "they are cut, so they are not what was scored")(settings, context)


def endless(settings: Settings, context: Context) -> Found:
    """The tasks repeat without end; only max_steps stops the training."""
    if not context.segment or settings["max_steps"] is not None:
        return None
    each = _prompts(settings)
    wanted = int(context.budget // each) if context.budget and each and context.budget % each == 0 else None
    why = "the tasks repeat without end, so a round never ends"
    advice = "" if wanted else "budget * group_size / batch_size steps; 1 is for a budget of one step"
    return find(settings, "max_steps", "length", why, {"max_steps": wanted or 1}, advice, "stops")


def ahead(settings: Settings, context: Context) -> Found:
    """Episodes are begun as long as there is room for them."""
    key, size = "orchestrator.concurrency.max_inflight", settings.count("orchestrator.batch_size")
    most = settings.number(key)
    if context.mode == "export" or not size or (most is not None and most <= size):
        return None
    why = "after a round's last prompts its first ones start again, without use"
    if context.live:
        why = "tasks start before the rewards that should choose them"
    why = f"a step trains {size:g}, and {why}"
    return find(settings, key, "ahead", why, {key: int(size)}, severity="stale" if context.live else "cost")


RULES = TrainerRules(
    name="prime-rl",
    launches=("rl",),
    style="dashes",
    live=True,
    rules=(
        sources,
        common.unset_below("orchestrator.train.source", "groups that it does not admit are replaced by "
            "further tasks, so steps and rows do not agree", name="gate", containing=".curriculum.gates."),
        common.follows_run(f"{_SOURCE}.env.taskset.run"),
        common.begins("model.name"),
        common.unset_below("resume", name="resume",
            advice="the next round begins with the weights: model.name = {checkpoint}"),
        must("orchestrator.token_batch_size", None, "a step takes as many prompts as fill it, so a round "
            "does not end with a step", name="token-batch",
            fix={"orchestrator.token_batch_size": None, "orchestrator.batch_size": 128}),
        common.tail("orchestrator.batch_size", per_step=_prompts, factor=_group),
        lengths,
        common.steps("max_steps", _prompts),
        ahead,
        endless,
        common.unset_below("trainer.model.lora", name="adapter"),
        common.output("output_dir"),
        *(must(f"{at}weight_broadcast.type", "filesystem", "weights go from memory to memory, and no Hugging "
            "Face weights are left for scoring and the next round", name="weights", modes=SEGMENT)
            for at in ("", "trainer.")),
    ),
)  # fmt: skip
