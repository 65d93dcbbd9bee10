"""What of prime-rl's settings meets a schedule: commit 559b4477 (2026-08-21), one rl.toml."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import SEGMENT, must
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


def sources(settings: Settings, context: Context) -> Iterator[Finding]:
    """A round's tasks are the plan's, and the standard sampler takes all of them."""
    advice = "a taskset of your own package, over gaincurate.trainers.prime_rl.RunTaskset"
    if context.segment:
        advice = "a taskset of your own package, which reads $GAINCURATE_DATA; `gaincurate export --trainer "
        advice += "prime-rl` writes its rows"
    tasks = partial(
        must,
        be=lambda value: str(value).rsplit("/", 1)[-1].partition("@")[0].replace("-", "_") not in _SHIPPED,
        why="this taskset brings tasks of its own, whatever was planned",
        name="data",
        advice=advice,
    )
    standard = "it chooses tasks by its own pools, some again and some never"
    for key in sorted({f"{_SOURCE}.curriculum.sampler.type", *settings.below("orchestrator.train.source.")}):
        rule = None
        if key.endswith(".env.taskset.id"):
            rule = tasks(key, fix={key: "my_tasks"})
        elif key.endswith(".curriculum.sampler.type"):
            rule = must(key, "standard", standard, name="sampler")
        if rule and (finding := rule(settings, context)):
            yield finding


def lengths(settings: Settings, context: Context) -> Found:
    """Samples over the training length are cut."""
    key = "seq_len" if settings["seq_len"] is not None else "orchestrator.seq_len"
    happens = "they are cut, so they are not what was scored"
    return common.too_long(settings, context, key, happens)


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
    )


def ahead(settings: Settings, context: Context) -> Found:
    """Episodes are begun as long as there is room for them."""
    key, size = "orchestrator.concurrency.max_inflight", settings.count("orchestrator.batch_size")
    most = settings.number(key)
    if context.mode == "export" or not size or (most is not None and most <= size):
        return None
    why = "behind a round's last prompts its first ones are begun again, for nothing"
    if context.live:
        why = "tasks are begun before the rewards that should choose them"
    title = f"{settings.told(key)}, but a step trains {size:g}: {why}"
    return Finding("ahead", "stale" if context.live else "cost", title, {key: int(size)})


RULES = TrainerRules(
    name="prime-rl",
    toml=True,
    launches=("rl",),
    style="dashes",
    live=True,
    rules=(
        sources,
        common.unset_below("orchestrator.train.source", "groups that it does not admit are replaced by "
            "further tasks, so steps and rows do not agree", name="gate", containing=".curriculum.gates."),
        partial(common.follows_run, key=f"{_SOURCE}.env.taskset.run"),
        partial(common.begins, key="model.name"),
        common.unset_below("resume", "the step counter and the place among the last round's tasks come back "
            "over the new ones", name="resume", modes=SEGMENT,
            advice="the next round begins with the weights: model.name = {checkpoint}"),
        must("orchestrator.token_batch_size", None, "a step takes as many prompts as fill it, so a round "
            "does not end with a step", name="token-batch",
            fix={"orchestrator.token_batch_size": None, "orchestrator.batch_size": 128}),
        partial(common.tail, key="orchestrator.batch_size", per_step=_prompts, factor=_group),
        lengths,
        partial(common.steps, key="max_steps", per_step=_prompts),
        ahead,
        endless,
        common.unset_below("trainer.model.lora", common.ADAPTER, name="adapter", severity="stops",
            modes=SEGMENT),
        partial(common.output, key="output_dir", what="the checkpoint"),
        *(must(f"{at}weight_broadcast.type", "filesystem", "weights go from memory to memory, and no Hugging "
            "Face weights are left for scoring and the next round", name="weights", severity="stops",
            modes=SEGMENT) for at in ("", "trainer.")),
    ),
)  # fmt: skip
