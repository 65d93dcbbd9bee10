"""prime-rl: its columns, its prompts, rules on the settings of one rl.toml, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.common import SEGMENT, find, must, only
from gaincurate.trainers.doctor.findings import Finding, RuleContext
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, Sharded, load_line, words

_SOURCE = "orchestrator.train.source.0"
_CUT = "they are cut, so they differ from the scored prompts"
_SHIPPED = words(
    "aime24 aime25 alphabet_sort browsecomp color_codeword deepdive deepwiki general_agent glossary gsm8k "
    "harbor i3_code i3_logic i3_math kuhn_poker math_env nemo_gym openenv openseeker proposer_solver "
    "r2e_gym redsearcher reverse_text scaleswe scratchpad swebench_verified terminal_bench_2 textarena tmax "
    "wiki_search wordle"
)
"""Tasksets of verifiers (a60a606e) and of prime-rl's configurations, which have tasks of their own."""


def _prompts(settings: Settings) -> float | None:
    """The prompts of one step, or None."""
    size, group = settings.count("orchestrator.batch_size"), _group(settings)
    return size // group if size and group and settings["orchestrator.token_batch_size"] is None else None


def _group(settings: Settings) -> float | None:
    return settings.count(f"{_SOURCE}.group_size") or settings.count("orchestrator.group_size")


def _is_own(taskset: Any) -> bool:
    """Whether a taskset is the user's, so that its tasks may be those of the plan."""
    return str(taskset).rsplit("/", 1)[-1].partition("@")[0].replace("-", "_") not in _SHIPPED


def sources(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """A round's tasks must be the plan's, and the sampler the standard one, which takes all of them."""
    advice = "a taskset of your own package, over gaincurate.trainers.prime_rl.RunTaskset"
    if context.segment:
        advice = "a taskset of your own package, which reads $GAINCURATE_DATA; `gaincurate export --trainer "
        advice += "prime-rl` writes its rows"
    for key in sorted({f"{_SOURCE}.curriculum.sampler.type", *settings.below("orchestrator.train.source.")}):
        if key.endswith(".env.taskset.id"):
            why, fix = "this taskset has tasks of its own, regardless of the plan", {key: "my_tasks"}
            yield from must(key, _is_own, why, name="data", fix=fix, advice=advice)(settings, context)
        elif key.endswith(".curriculum.sampler.type"):
            why = "it chooses tasks by its own pools, some again and some never"
            yield from must(key, "standard", why, name="sampler")(settings, context)


def endless(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """max_steps must be set, because tasks repeat without end."""
    if context.segment and settings["max_steps"] is None:
        wanted = context.steps(_prompts(settings))
        why = "the tasks repeat without end, so a round never ends"
        advice = "" if wanted else "budget * group_size / batch_size steps; 1 is for a budget of one step"
        yield find(settings, "max_steps", "length", why, {"max_steps": wanted or 1}, advice, "stops")


def ahead(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """max_inflight must be at most a step's episodes, or tasks begin before the last step's rewards."""
    key, size = "orchestrator.concurrency.max_inflight", settings.count("orchestrator.batch_size")
    most = settings.number(key)
    if context.mode != "export" and size and (most is None or most > size):
        why = "after a round's last prompts its first ones start again, without use"
        if context.live:
            why = "tasks start before the rewards that should choose them"
        why = f"a step trains {size:g}, and {why}"
        yield find(settings, key, "ahead", why, {key: size}, severity="stale" if context.live else "cost")


RULES = (
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
    only(lambda settings, _: settings["seq_len"] is not None, common.too_long("seq_len", _CUT)),
    only(lambda settings, _: settings["seq_len"] is None, common.too_long("orchestrator.seq_len", _CUT)),
    common.steps("max_steps", _prompts),
    ahead,
    endless,
    common.unset_below("trainer.model.lora", name="adapter"),
    common.output("output_dir"),
    *(must(f"{at}weight_broadcast.type", "filesystem", "weights go from memory to memory, and no Hugging "
        "Face weights are left for scoring and the next round", name="weights", modes=SEGMENT)
        for at in ("", "trainer.")),
)  # fmt: skip


def _stable(path: Path, step: int) -> str | None:
    """prime-rl writes a marker file once the broadcast is on disk."""
    if (path / "trainer").is_dir() or any((path / name).is_file() for name in ("STABLE", ".finished")):
        return None
    return f"{path} is not finished: it has no STABLE"


PROFILE = Profile(
    name="prime-rl",
    version="559b4477 (2026-08-21)",
    reserved=words(
        "description image workdir agent_user skills network_allow network_block artifacts "
        "artifact_max_bytes timeout resources"
    ),
    scores_refused="prime-rl tells tasks apart by a hash of all their fields, so every new scoring "
    "would make new tasks of them",
    columns=lambda view: {
        "idx": view.places(),
        "name": view.ids(),
        "prompt": view.after_system(),
        "system_prompt": view.system_text(),
        **view.answers("answer"),
    },
    launch=lambda path, view: Launch(
        "python",
        [load_line(path)],
        [
            "prime-rl reads no files: your verifiers taskset yields one task for each row. The id comes back "
            "as the task's name"
        ],
    ),
    rendering=Rendering(
        "orchestrator.train.sampling.extra_body.chat_template_kwargs",
        adds=tuple(f"{at}tokenizer.chat_template" for at in ("", "trainer.", "orchestrator.")),
        code="the taskset of the environment",
    ),
    layout=Layout(
        folders=("broadcasts/step_*", "step_*", "*/broadcasts/step_*", "checkpoints/step_*"),
        step=r"step_(\d+)",
        unfinished=_stable,
        setting='weight_broadcast.type = "filesystem"',
        sharded=(Sharded("trainer/*", None, apart=True),),
    ),
    rules=RULES,
    launches=("rl",),
    style="dashes",
    live=True,
)
