"""Rules about sizes that several trainers share: prompts a step, steps, passes, and lengths of prompts.

Takes settings by the trainer's own keys, yields findings. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Callable

from gaincurate.trainers.doctor.findings import About, Finding, Found
from gaincurate.trainers.doctor.settings import Settings

_NAMED = 3
Number = Callable[[Settings], float | None]


def tail(
    settings: Settings,
    about: About,
    key: str,
    *,
    per_step: Number | None = None,
    factor: Number | None = None,
    mini: str = "",
    unless: str = "",
    source: str = "",
) -> Found:
    """A round that is no multiple of the trainer's prompts a step loses its last prompts.

    Args:
        settings: of the trainer.
        about: the run's numbers.
        key: the setting that the prompts a step follow from.
        per_step: prompts a step, where they are not the key's value.
        factor: the key's value for one prompt a step, where it is not 1.
        mini: the setting with a mini-batch's prompts, which the trainer refuses above a step's.
        unless: the setting that makes it take them.
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
    mend = {key: fits * one}
    least = settings.known(mini) if mini and not settings.known(unless) else None
    if isinstance(least, int | float) and least > fits:
        mend[mini] = fits
    return Finding(
        "tail",
        "wrong",
        f"{settings.told(key)}: {step} prompts a step, but a round has {about.budget}: the last {left} of "
        "each round are never trained, and report nothing",
        mend,
        aligned(about.budget, step),
        source,
    )


def aligned(budget: int, step: int) -> str:
    """How a run is started whose rounds end with a step, with the nearest budget that does."""
    below = budget // step * step
    nearest = below if below and budget - below <= below + step - budget else below + step
    return f"or start the run with `gaincurate schedule start --align-to {step} --budget {nearest}`"


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
