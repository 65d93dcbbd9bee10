"""What of Trinity-RFT's settings meets a schedule: trinity-rft 0.6.0, `trinity/common/config.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gaincurate.trainers.doctor import common
from gaincurate.trainers.doctor.findings import About, Finding, Found, Trainer
from gaincurate.trainers.doctor.live import LIVE
from gaincurate.trainers.doctor.settings import Settings

_TASKSET = "buffer.explorer_input.taskset"
_SELECTOR = f"{_TASKSET}.data_selector.selector_type"
_SELECTORS = "trinity/buffer/selector/selector.py"
_READER = "trinity/buffer/reader/file_reader.py"
_OPERATORS = "data_processor.experience_pipeline.operators"

DEFAULTS: dict[str, Any] = {
    f"{_TASKSET}.path": None,
    f"{_TASKSET}.format.prompt_key": "prompt",
    f"{_TASKSET}.format.response_key": "response",
    _SELECTOR: "sequential",
    "buffer.batch_size": 1,
    "buffer.total_epochs": 1,
    "buffer.total_steps": None,
    "model.max_prompt_tokens": None,
    "model.enable_prompt_truncation": True,
    "explorer.over_rollout.ratio": 0.0,
    "explorer.eval_on_startup": True,
    "synchronizer.sync_interval": 1,
    "synchronizer.sync_offset": 0,
    "trainer.save_hf_checkpoint": "last",
    "checkpoint_root_dir": "",
    "continue_from_checkpoint": True,
    "model.lora_configs": None,
}


def order(settings: Settings, about: About) -> Found:
    """Who chooses the rows."""
    kind = settings[_SELECTOR]
    if about.live:
        what = "rows are chosen by Trinity's own selector, whatever the schedule plans"
        return common.unplugged(settings, about, _SELECTOR, LIVE["trinity"], what, _SELECTORS)
    if kind in ("sequential", None):
        return None
    if kind == "shuffle":
        return common.shuffle(settings, about, _SELECTOR, source=_SELECTORS, off="sequential")
    return Finding(
        "selector",
        "wrong",
        f"{settings.told(_SELECTOR)}: it chooses by its own rule, some rows again and some never",
        {_SELECTOR: "sequential"},
        source=_SELECTORS,
    )


def data(settings: Settings, about: About) -> Iterator[Finding]:
    """Which rows are read."""
    size, cuts = "buffer.batch_size", "model.max_prompt_tokens"
    happens = "are cut from the front" if settings["model.enable_prompt_truncation"] else "are not answered"
    found = [
        common.reads(settings, about, f"{_TASKSET}.path", source=_READER),
        common.tail(settings, about, size, settings.number(size), source=f"{_READER}: drop_last=True"),
        common.too_long(
            settings, about, cuts, settings.number(cuts), happens, source="trinity/common/models"
        ),
    ]
    if settings["buffer.total_steps"] is None:
        found.append(common.epochs(settings, about, "buffer.total_epochs", source=_READER))
    yield from (one for one in found if one)


def length(settings: Settings, about: About) -> Found:
    """How many steps one process makes; behind the end of the file it begins again."""
    most, size, key = (
        settings.number("buffer.total_steps"),
        settings.number("buffer.batch_size"),
        "buffer.total_steps",
    )
    if about.mode == "export" or most is None or about.budget is None or not size or about.budget % size:
        return None
    wanted = int(about.budget // size) * ((about.rounds or 1) if about.live else 1)
    if most == wanted:
        return None
    why = "some rows are never trained" if most < wanted else "rows are trained again"
    title = f"{settings.told(key)}, but {'the run' if about.live else 'a round'} has {wanted} steps: {why}"
    return Finding("max-steps", "wrong", title, {key: wanted}, source=_READER)


def resumes(settings: Settings, about: About) -> Found:
    """The explorer's place in the file comes back with a checkpoint."""
    key = "checkpoint_root_dir"
    if not about.segment or not settings["continue_from_checkpoint"]:
        return None
    if Settings.follows(settings[key], ("output", "round")):
        return None
    return Finding(
        "resume",
        "wrong",
        f"{settings.told('continue_from_checkpoint')}, {settings.told(key)}: the place in the last round's "
        "file comes back over the new one",
        {key: "{output}/trinity"},
        "the next round begins with the weights: model.model_path: {checkpoint}",
        "trinity/manager/state_manager.py",
    )


def sampling(settings: Settings, about: About) -> Found:
    """Over-rollout leaves the slowest tasks of a batch behind."""
    key = "explorer.over_rollout.ratio"
    happens = "a step does not wait for its slowest tasks, which are never trained and report nothing"
    return common.drops(settings, about, "over-rollout", key, 0.0, happens, "trinity/common/config.py")


def checkpoints(settings: Settings, about: About) -> Iterator[Finding]:
    """What a round leaves is what the next one begins with."""
    if not about.segment:
        return
    key = "trainer.save_hf_checkpoint"
    if settings[key] == "never":
        title = f"{settings.told(key)}: no Hugging Face weights, which scoring and the next round begin with"
        yield Finding("weights", "stops", title, {key: "last"}, source="trinity/trainer/trainer.py")
    if settings["continue_from_checkpoint"]:
        return  # the rule on resuming speaks of the same folder
    found = common.output(settings, about, "checkpoint_root_dir", "the checkpoint", "/trinity")
    if found:
        yield found


def live(settings: Settings, about: About) -> Iterator[Finding]:
    """What the adapter needs of a long run."""
    if not about.live:
        return
    names = [settings[key] for key in settings.below(_OPERATORS) if key.endswith(".name")]
    if "pass_rate_calculator" not in names:
        yield Finding(
            "feedback",
            "stops",
            "the experience pipeline has no pass_rate_calculator: the selector never hears of a reward",
            {f"{_OPERATORS}.{len(names)}.name": "pass_rate_calculator"},
            source="trinity/explorer/explorer.py",
        )
    for key, least in (("synchronizer.sync_interval", 1), ("synchronizer.sync_offset", 0)):
        if (settings.number(key) or 0) > least:
            yield Finding(
                "ahead",
                "stale",
                f"{settings.told(key)}: the explorer chooses rows ahead of the rewards that should choose "
                "them",
                {key: least},
                source="trinity/explorer/explorer.py",
            )


def costs(settings: Settings, about: About) -> Found:
    """What is paid when the trainer is started for each round."""
    key = "explorer.eval_on_startup"
    if not about.segment or not settings[key]:
        return None
    title = f"{settings.told(key)}: an evaluation before every round, where there is an evaluation set"
    return Finding("validation", "cost", title, {key: False}, source="trinity/explorer/explorer.py")


def adapters(settings: Settings, about: About) -> Found:
    """LoRA checkpoints hold an adapter."""
    if not about.segment or not list(settings.below("model.lora_configs")):
        return None
    keys = sorted(key for key in settings.below("model.lora_configs") if settings.given[key] is not None)
    if not keys:
        return None
    title = f"{keys[0]} is set: the checkpoint is an adapter alone, which the next round does not begin with"
    return Finding("adapter", "stops", title, dict.fromkeys(keys), source="trinity/common/config.py")


TRAINER = Trainer(
    name="trinity",
    version="0.6.0",
    launches=("trinity",),
    style="hydra",
    defaults=DEFAULTS,
    rules=(order, data, length, resumes, sampling, checkpoints, live, costs, adapters),
    live=True,
)
