"""Rules that several trainers share: takes settings by the trainer's own keys, yields findings.

Knows how a schedule uses a trainer; knows no trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gaincurate.trainers.doctor.findings import About, Finding, Found, Mode, Rule, Severity
from gaincurate.trainers.doctor.settings import Settings, shown

_NAMED = 3
Number = Callable[[Settings], float | None]


def when(
    name: str,
    severity: Severity,
    key: str,
    wrong: Callable[[Any], bool],
    title: str,
    mend: dict[str, Any] | None = None,
    *,
    advice: str = "",
    source: str = "",
    modes: tuple[Mode, ...] = ("segment", "live", "export"),
) -> Rule:
    """A rule about one setting alone: `wrong` says so of its value, and `title` what follows."""

    def rule(settings: Settings, about: About) -> Found:
        if about.mode not in modes or not wrong(settings[key]):
            return None
        return Finding(name, severity, f"{settings.told(key)}: {title}", mend or {}, advice, source)

    return rule


def reads(settings: Settings, about: About, key: str, *, also: str = "", source: str = "") -> Found:
    """In segment mode the training set is the round's own file."""
    value = settings[key]
    first = value[0] if isinstance(value, list) and value else value
    if not about.segment or Settings.follows(first, ("data", "output", "round")):
        return None
    wanted: Any = ["{data}"] if isinstance(value, list) else "{data}"
    return Finding(
        "data",
        "wrong",
        f"{settings.told(key)}: every round would train on the same rows, whatever was planned",
        {key: wanted},
        also or "a file written for this trainer below {output} will do as well",
        source,
    )


def output(settings: Settings, about: About, key: str, what: str, below: str = "", source: str = "") -> Found:
    """In segment mode what a round leaves must lie in the round's own folder."""
    value = settings[key]
    if not about.segment or Settings.follows(value, ("output",)):
        return None
    return Finding(
        "output",
        "stops",
        f"{settings.told(key)}: {what} is looked for below {{output}}, and the run stops where there is none",
        {key: "{output}" + below},
        source=source,
    )


def shuffle(settings: Settings, about: About, key: str, *, source: str = "", off: Any = False) -> Found:
    """The order of a round is part of the plan; which prompts it has survives a shuffle."""
    if settings[key] in (off, None):
        return None
    kept = "which prompts a round has survives that, their order does not"
    kept = "the set's order is lost" if about.mode == "export" else kept
    return Finding(
        "shuffle", "order", f"{settings.told(key)}: rows are shuffled; {kept}", {key: off}, "", source
    )


def workers(settings: Settings, about: About, key: str, *, source: str = "") -> Found:
    """Worker processes fetch rows before the round that they belong to is planned."""
    count = settings.number(key)
    if not about.live or not count:
        return None
    return Finding(
        "workers",
        "stale",
        f"{settings.told(key)}: its loader fetches ahead, so prompts are chosen before the rewards that "
        "should choose them",
        {key: 0},
        source=source,
    )


def tail(
    settings: Settings,
    about: About,
    key: str,
    *,
    per_step: Number | None = None,
    factor: Number | None = None,
    source: str = "",
) -> Found:
    """A round that is no multiple of the trainer's prompts a step loses its last prompts.

    Args:
        settings: of the trainer.
        about: the run's numbers.
        key: the setting that the prompts a step follow from.
        per_step: prompts a step, where they are not the key's value.
        factor: the key's value for one prompt a step, where it is not 1.
        source: where the trainer does it.
    """
    each = per_step(settings) if per_step else settings.number(key)
    if about.mode == "export" or about.budget is None or not each:
        return None
    step, one = int(each), int((factor(settings) if factor else None) or 1)
    left = about.budget % step
    if not left:
        return None
    fits = max(size for size in range(1, min(step, about.budget) + 1) if about.budget % size == 0)
    return Finding(
        "tail",
        "wrong",
        f"{settings.told(key)}: {step} prompts a step, but a round has {about.budget}: the last {left} of "
        "each round are never trained, and report nothing",
        {key: fits * one},
        f"or a run whose budget is a multiple: `gaincurate schedule start --align-to {step}`",
        source,
    )


def epochs(settings: Settings, about: About, key: str, *, source: str = "") -> Found:
    """A round is one pass over its file; a live run has as many passes as rounds."""
    count = settings.number(key)
    if about.segment and count is not None and count != 1:
        return Finding(
            "epochs",
            "wrong",
            f"{settings.told(key)}: each round would be trained {count:g} times, and report {count:g} times",
            {key: 1},
            source=source,
        )
    if about.live and about.rounds is not None and count is not None and count != about.rounds:
        return Finding(
            "epochs",
            "wrong",
            f"{settings.told(key)}, but the run has {about.rounds} rounds, and a round is one pass here",
            {key: about.rounds},
            source=source,
        )
    return None


def steps(
    settings: Settings,
    about: About,
    key: str,
    *,
    per_step: Number,
    more_is_fine: bool = False,
    source: str = "",
) -> Found:
    """A bound on the steps must be what the rows need, once the prompts a step divide a round."""
    each = per_step(settings)
    if about.budget is None or not each or about.budget % each:
        return None  # the rule on the tail speaks of what is left
    return length(settings, about, key, int(about.budget // each), more_is_fine=more_is_fine, source=source)


def length(
    settings: Settings,
    about: About,
    key: str,
    each_round: int,
    *,
    more_is_fine: bool = False,
    source: str = "",
) -> Found:
    """A bound on the steps, against the steps of a round."""
    most = settings.number(key)
    if about.mode == "export" or most is None or most <= 0:
        return None
    wanted = each_round * ((about.rounds or 1) if about.live else 1)
    if most == wanted or (more_is_fine and most > wanted):
        return None
    why = "some rows are never trained" if most < wanted else "rows are trained again"
    title = f"{settings.told(key)}, but {'the run' if about.live else 'a round'} has {wanted} steps: {why}"
    return Finding("max-steps", "wrong", title, {key: wanted}, source=source)


def too_long(
    settings: Settings,
    about: About,
    key: str,
    happens: str,
    *,
    below: Number | None = None,
    source: str = "",
) -> Found:
    """Prompts over the trainer's limit are dropped or cut: rows are missing, or are not what was scored.

    Args:
        settings: of the trainer.
        about: the run's lengths.
        key: the setting with the limit.
        happens: what becomes of longer ones.
        below: tokens of the limit that are not the prompt's.
        source: where the trainer does it.
    """
    value, less = settings.number(key), int((below(settings) if below else None) or 0)
    if about.longer_than is None or about.longest is None or not value or about.longest <= value - less:
        return None
    limit = value - less
    ids = about.longer_than(limit)
    named = ", ".join(ids[:_NAMED]) + (" and so on" if len(ids) > _NAMED else "")
    return Finding(
        "too-long",
        "wrong",
        f"{settings.told(key)}: {len(ids):,} prompts of the set are longer ({named}), and {happens}",
        {key: about.longest + less},
        f"the longest has {about.longest:,} tokens; or leave them out: `gaincurate score --max-length`",
        source,
    )


def drops(
    settings: Settings, about: About, name: str, key: str, off: Any, happens: str, source: str
) -> Found:
    """Sampling of the trainer's own takes other prompts than planned."""
    value = settings[key]
    if about.mode == "export" or value == off or value in (None, False):
        return None
    return Finding(name, "wrong", f"{settings.told(key)}: {happens}", {key: off}, source=source)


def reports(
    settings: Settings, about: About, keys: tuple[str, ...], mend: dict[str, Any], advice: str, source: str
) -> Found:
    """Somebody must tell which prompt a reward belongs to."""
    if about.mode == "export" or any(settings[key] for key in keys):
        return None
    return Finding(
        "outcomes",
        "stops",
        f"{keys[0]} is {shown(settings[keys[0]])}: nothing of yours sees the rewards, so no round has "
        "outcomes",
        mend,
        advice,
        source,
    )


def adapter_only(settings: Settings, about: About, key: str, off: Any, source: str) -> Found:
    """A checkpoint that is an adapter alone is neither scored nor begun with."""
    if not about.segment or settings[key] in (off, None, 0, False):
        return None
    return Finding(
        "adapter",
        "stops",
        f"{settings.told(key)}: the checkpoint is an adapter alone, which the next round does not begin with",
        {key: off},
        "or merge it into the model as the last step of the round's command",
        source,
    )


def moving_reference(settings: Settings, about: About, key: str, off: Any, mend: Any, source: str) -> Found:
    """The KL reference of a relaunched trainer is the model that it begins with."""
    if not about.segment or settings[key] in (off, None, 0, False):
        return None
    return Finding(
        "reference",
        "cost",
        f"{settings.told(key)}: the KL reference is the model that a process begins with, so it moves every "
        "round",
        {key: mend},
        source=source,
    )


def unplugged(
    settings: Settings, about: About, key: str, mend: dict[str, Any], what: str, source: str
) -> Found:
    """In live mode the trainer asks our adapter, or follows no schedule at all."""
    if not about.live or "gaincurate" in str(settings[key]):
        return None
    return Finding("adapter-missing", "wrong", f"{settings.told(key)}: {what}", mend, source=source)
