"""What of prime-rl's settings meets a schedule: commit 559b4477 (2026-08-21), one rl.toml."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.findings import About, Finding, Found, Trainer
from gaincurate.trainers.doctor.live import LIVE
from gaincurate.trainers.doctor.settings import Settings

_CONFIG = "prime_rl/configs/orchestrator.py"
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
    "orchestrator.monitors.file.path": "metrics.jsonl",
}


def _prompts(settings: Settings) -> float | None:
    """Prompts that one step trains."""
    size, group = settings.number("orchestrator.batch_size"), settings.number("orchestrator.group_size")
    return size // group if size and group and settings["orchestrator.token_batch_size"] is None else None


def sampler(settings: Settings, about: About) -> Iterator[Finding]:
    """Who chooses the tasks."""
    if about.mode == "export":
        return
    for key in {f"{_SOURCE}.curriculum.sampler.type", *settings.below("orchestrator.train.source")}:
        if key.endswith("curriculum.sampler.type") and settings[key] != "standard":
            yield Finding(
                "sampler",
                "wrong",
                f"{settings.told(key)}: it chooses tasks by its own pools, some again and some never",
                {key: "standard"},
                source=_CONFIG,
            )
        if ".curriculum.gates." in key and settings[key] is not None:
            yield Finding(
                "gate",
                "wrong",
                f"{settings.told(key)}: groups that it does not admit are replaced by further tasks, so "
                "steps and rows do not agree",
                {key: None},
                source=_CONFIG,
            )
    if about.live:
        key = f"{_SOURCE}.env.taskset.id"
        what = "tasks come in their own order, whatever the schedule plans"
        if found := common.unplugged(settings, about, key, LIVE["prime-rl"], what, _SAMPLER):
            yield found


def sizes(settings: Settings, about: About) -> Iterator[Finding]:
    """Steps, prompts and tokens."""
    tokens, size = "orchestrator.token_batch_size", "orchestrator.batch_size"
    if about.mode == "export":
        return
    if settings[tokens] is not None:
        yield Finding(
            "token-batch",
            "wrong",
            f"{settings.told(tokens)}: a step takes as many prompts as fill it, so a round does not end with "
            "a step",
            {tokens: None, size: 128},
            source=_CONFIG,
        )
        return
    group = int(settings.number("orchestrator.group_size") or 1)
    if found := common.tail(settings, about, size, _prompts(settings), factor=group, source=_CONFIG):
        yield found
    key = "seq_len" if settings.is_given("seq_len") else "orchestrator.seq_len"
    happens = "are cut, so they are not what was scored"
    if found := common.too_long(settings, about, key, settings.number(key), happens, source=_CONFIG):
        yield found


def length(settings: Settings, about: About) -> Iterator[Finding]:
    """The tasks are gone through again and again; only max_steps ends it."""
    most, each = settings.number("max_steps"), _prompts(settings)
    if about.mode == "export":
        return
    wanted = None
    if about.budget is not None and each and about.budget % each == 0:
        wanted = int(about.budget // each) * ((about.rounds or 1) if about.live else 1)
    if most is None and about.segment:
        yield Finding(
            "length",
            "stops",
            f"{settings.told('max_steps')}: the tasks are gone through again and again, and a round never "
            "ends",
            {"max_steps": wanted or 1},
            "" if wanted else "budget * group_size / batch_size steps, here for a budget of one step",
            _SAMPLER,
        )
    elif most is not None and wanted is not None and most != wanted:
        yield Finding(
            "max-steps",
            "wrong",
            f"{settings.told('max_steps')}, but {'the run' if about.live else 'a round'} has {wanted} steps: "
            f"{'some rows are never trained' if most < wanted else 'rows are trained again'}",
            {"max_steps": wanted},
            source=_SAMPLER,
        )


def ahead(settings: Settings, about: About) -> Found:
    """Episodes are begun as long as there is room for them."""
    key, size = "orchestrator.concurrency.max_inflight", settings.number("orchestrator.batch_size")
    most = settings.number(key)
    if about.mode == "export" or not size or (most is not None and most <= size):
        return None
    return Finding(
        "ahead",
        "stale" if about.live else "cost",
        f"{settings.told(key)}, but a step trains {size:g}: "
        + (
            "tasks are begun before the rewards that should choose them"
            if about.live
            else "behind a round's last prompts its first ones are begun again, for nothing"
        ),
        {key: int(size)},
        source=_CONFIG,
    )


def resumes(settings: Settings, about: About) -> Iterator[Finding]:
    """A checkpoint brings the place among the tasks back."""
    if not about.segment:
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


def checkpoints(settings: Settings, about: About) -> Iterator[Finding]:
    """What a round leaves is what the next one begins with."""
    if not about.segment:
        return
    for key in (
        "weight_broadcast.type",
        "trainer.weight_broadcast.type",
        "orchestrator.weight_broadcast.type",
    ):
        if settings[key] not in (None, "filesystem"):
            yield Finding(
                "weights",
                "stops",
                f"{settings.told(key)}: weights go from memory to memory, and no Hugging Face weights are "
                "left for scoring and the next round",
                {key: "filesystem"},
                source="prime_rl/transports/weights/filesystem.py",
            )
    if found := common.output(
        settings, about, "output_dir", "the checkpoint", source="prime_rl/configs/rl.py"
    ):
        yield found


def outcomes(settings: Settings, about: About) -> Found:
    """Episodes are written by the file monitor."""
    keys = [
        key
        for key in settings.given
        if key.endswith("monitors.file") and settings.given[key] in (False, None)
    ]
    if about.mode == "export" or not keys:
        return None
    return Finding(
        "outcomes",
        "stops",
        f"{keys[0]} is off: no traces.jsonl is written, and no round has outcomes",
        {keys[0]: {}},
        "or let the environment's own reward append a line to {outcomes}",
        "prime_rl/configs/monitors.py",
    )


TRAINER = Trainer(
    name="prime-rl",
    version="559b4477 (2026-08-21)",
    launches=("rl",),
    style="dashes",
    defaults=DEFAULTS,
    rules=(sampler, sizes, length, ahead, resumes, checkpoints, outcomes),
    live=True,
)
