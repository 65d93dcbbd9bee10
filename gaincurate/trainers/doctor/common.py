"""Rules that several trainers share, written over the trainer's own keys, and sizes of batches and rounds.

A rule takes settings and what is known of a run, and says one finding or nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from gaincurate.trainers.doctor.findings import Context, Finding, Found, Mode, Severity
from gaincurate.trainers.doctor.settings import Settings
from gaincurate.trainers.profile import Profile

RUNS: tuple[Mode, ...] = ("segment", "live")
ALWAYS: tuple[Mode, ...] = (*RUNS, "export")
SEGMENT: tuple[Mode, ...] = ("segment",)
LIVE: tuple[Mode, ...] = ("live",)
EXPORT: tuple[Mode, ...] = ("export",)
Row = Callable[[Settings, Context], Found]
"""A rule with one finding at most."""


def must(
    key: str,
    be: Any,
    why: str,
    *,
    name: str,
    severity: Severity = "wrong",
    modes: tuple[Mode, ...] = RUNS,
    fix: dict[str, Any] | None = None,
    advice: str = "",
) -> Row:
    """A rule on one setting, the row of a trainer's table.

    Args:
        key: the setting.
        be: its right value, or a function that takes a value and tells whether it is right. True and false
            are compared as such; no value is as good as any other right one.
        why: the consequence of a wrong value, the second half of a sentence.
        name: of the finding.
        severity: of the finding.
        modes: in which the rule holds.
        fix: settings that fix it. Default: the right value, if it is one.
        advice: what else can be done.
    """
    settled = fix if fix is not None else {} if callable(be) else {key: be}

    def is_right(value: Any) -> bool:
        if callable(be):
            return bool(be(value))
        return bool(value) == be if isinstance(be, bool) else value in (be, None, False)

    def rule(settings: Settings, context: Context) -> Found:
        if context.mode not in modes or is_right(settings[key]):
            return None
        return Finding(name, severity, f"{settings.told(key)}: {why}", settled, advice)

    return rule


def only(holds: Callable[[Settings, Context], Any], rule: Row) -> Row:
    """A rule that is asked only where `holds` says so."""
    return lambda settings, context: rule(settings, context) if holds(settings, context) else None


def above_zero(value: Any) -> bool:
    """Whether a period is one."""
    return isinstance(value, int) and value > 0


def reads(settings: Settings, context: Context, key: str) -> Found:
    """In segment mode the training set is the round's own file."""
    if not context.segment or Settings.follows(settings.place(key), ("data", "output", "round")):
        return None
    title = f"{settings.told(key)}: every round would train on the same rows, whatever was planned"
    advice = "a file written for this trainer below {output} will do as well"
    return Finding("data", "wrong", title, _file(settings, key, "{data}"), advice)


def view(
    settings: Settings,
    context: Context,
    key: str,
    needs: tuple[str, ...],
    export: str,
    form: str = "parquet",
    renamed: str = "",
) -> Found:
    """The round's file has the source's columns; a trainer that reads others needs an exported one.

    Args:
        settings: of the trainer.
        context: the columns of the newest round's file.
        key: the setting of the training set.
        needs: columns that the trainer reads.
        export: the options of `gaincurate export` that write them.
        form: of the exported file.
        renamed: the setting that makes it read another column; then nothing is said.
    """
    if not context.segment or context.columns is None or not Settings.follows(settings.place(key), ("data",)):
        return None
    if renamed and settings.known(renamed) not in (None, *needs):
        return None
    if not (missing := [name for name in needs if name not in context.columns]):
        return None
    return Finding(
        "view",
        "wrong",
        f"{settings.told(key)}: the rounds of this run have no {', '.join(missing)}, which the trainer reads",
        _file(settings, key, f"{{output}}/data.{form}"),
        exported(context, export, form),
    )


def exported(context: Context, export: str, form: str = "parquet") -> str:
    """The line of a round's script that writes the trainer's own view of the round."""
    run = shlex.quote(context.folder)
    command = f"gaincurate export {run} {export} --out {{output}}/data.{form} --overwrite"
    return f"at the head of the round's script: `{command}`"


def rows(
    key: str,
    needs: tuple[str, ...],
    export: str,
    form: str = "parquet",
    *,
    renamed: str = "",
) -> Row:
    """A training set with the trainer's columns: is it the round's, and does it have them; see `view`.

    Where the round's own file would not do, or nobody knows, the fix is the exported file.
    """

    def rule(settings: Settings, context: Context) -> Found:
        finding = reads(settings, context, key)
        if finding is None:
            return view(settings, context, key, needs, export, form, renamed)
        is_enough = context.columns is not None and context.columns.issuperset(needs)
        if is_enough or (renamed and settings.known(renamed) not in (None, *needs)):
            return finding
        unsure = "" if context.columns else f"; {{data}} itself will do where it has {', '.join(needs)}"
        return replace(
            finding,
            fix=_file(settings, key, f"{{output}}/data.{form}"),
            advice=exported(context, export, form) + unsure,
        )

    return rule


def _file(settings: Settings, key: str, path: str) -> dict[str, Any]:
    """A fix that names one file, in a list where the setting has one."""
    return {key: [path] if isinstance(settings.known(key), list) else path}


def begins(settings: Settings, context: Context, key: str) -> Found:
    """In segment mode a round begins with what the last one left."""
    if not context.segment or not settings.is_given(key):
        return None
    value = settings.place(key)
    if not value or Settings.follows(value, ("checkpoint", "output", "round")):
        return None
    why = "each round begins from that model, so nothing that was trained is kept"
    advice = "{checkpoint} is the run's model in the first round, then what the last round left"
    title = f"{settings.told(key)}: {why}"
    return Finding("base-model", "wrong", title, {key: "{checkpoint}"}, advice)


def output(settings: Settings, context: Context, key: str, what: str, below: str = "") -> Found:
    """In segment mode what a round leaves must lie in the round's own folder."""
    if not context.segment or Settings.follows(settings.place(key), ("output",)):
        return None
    why = f"{what} is looked for below {{output}}, and the run stops where there is none"
    return Finding("output", "stops", f"{settings.told(key)}: {why}", {key: "{output}" + below})


def shuffle(
    key: str, *, off: Any = False, modes: tuple[Mode, ...] = ALWAYS, refused: bool = False
) -> tuple[Row, ...]:
    """The order of a round is part of the plan; which prompts it has survives a shuffle.

    Args:
        key: the setting that shuffles.
        off: its value that does not.
        modes: in which the setting counts.
        refused: the live adapter cannot bring its own order, and refuses to begin.
    """
    row = partial(must, key, off, name="shuffle")
    lost = "which prompts a round has survives that, their order does not"
    wrong = tuple(mode for mode in modes if mode != "export" and not (refused and mode == "live"))
    stopped = "the adapter refuses to begin, because the order would not be the plan's"
    return (
        row(f"rows are shuffled; {lost}", severity="order", modes=wrong),
        row("rows are shuffled; the set's order is lost", severity="order", modes=EXPORT),
        *([row(stopped, severity="stops", modes=LIVE)] if refused else []),
    )


def always_shuffled() -> Row:
    """A trainer shuffles, whatever is set."""
    title = "rows are always shuffled, and no setting changes it: which prompts a round has survives that, "
    finding = Finding("shuffle", "order", f"{title}their order does not")
    return lambda settings, context: finding


def reports(keys: tuple[str, ...], fix: dict[str, Any], advice: str) -> Row:
    """Somebody must tell which prompt a reward belongs to."""
    why = "nothing of yours sees the rewards, so no round has outcomes"
    row = must(keys[0], lambda _: False, why, name="outcomes", severity="stops", modes=SEGMENT, fix=fix,
        advice=advice)  # fmt: skip
    return only(lambda settings, _: not any(map(settings.is_set, keys)), row)


ADAPTER = "the checkpoint is an adapter alone, which the next round does not begin with"


def adapter_only(key: str, off: Any) -> Row:
    """A checkpoint that is an adapter alone is neither scored nor begun with."""
    return must(
        key,
        off,
        ADAPTER,
        name="adapter",
        severity="stops",
        modes=SEGMENT,
        advice="or merge it into the model as the last step of the round's command",
    )


def unset_below(
    prefix: str,
    why: str,
    *,
    name: str,
    severity: Severity = "wrong",
    modes: tuple[Mode, ...] = RUNS,
    containing: str = "",
    advice: str = "",
) -> Row:
    """A rule against all settings whose keys begin with a prefix and contain a text; see `must`."""

    def rule(settings: Settings, context: Context) -> Found:
        keys = [key for key in settings.below(prefix) if containing in key]
        keys = sorted(key for key in keys if settings.given[key] is not None)
        if context.mode not in modes or not keys:
            return None
        return Finding(name, severity, f"{keys[0]} is set: {why}", dict.fromkeys(keys), advice)

    return rule


def resumes(
    settings: Settings,
    context: Context,
    place: str,
    happens: str,
    advice: str,
    *,
    key: str = "",
    off: tuple[Any, ...] = (),
    fix: Any = "{output}",
) -> Found:
    """A checkpoint of the last round brings its step counter and its place in another file back.

    Args:
        settings: of the trainer.
        context: the mode.
        place: the setting of the checkpoints' folder; one of the round's own has no such checkpoint.
        happens: what comes back.
        advice: how the next round begins.
        key: the setting that resumes, where there is one.
        off: its values that do not.
        fix: the folder of the round's own; a value of `off` is for `key`.
    """
    if not context.segment or (key and settings[key] in off):
        return None
    if Settings.follows(settings.place(place), ("output", "round")):
        return None
    told = f"{settings.told(key)}, {settings.told(place)}" if key else settings.told(place)
    right = {key: fix} if fix in off else {place: fix}
    return Finding("resume", "wrong", f"{told}: {happens}", right, advice)


def moving_reference(key: str, off: Any) -> Row:
    """The KL reference of a relaunched trainer is the model that it begins with."""
    why = "the KL reference is the model that a process begins with, so it moves every round"
    return must(key, off, why, name="reference", severity="cost", modes=SEGMENT)


def follows_run(settings: Settings, context: Context, key: str) -> Found:
    """In live mode the adapter is told of the run by a setting; a file there is no run."""
    if not context.live:
        return None
    value = settings.place(key)
    if value and not str(value).endswith((".parquet", ".jsonl", ".json", ".arrow")):
        return None
    title = f"{settings.told(key)}: the adapter is told by it which run to follow"
    return Finding("no-run", "stops", title, {key: context.folder})


def unplugged(settings: Settings, context: Context, key: str, fix: dict[str, Any], what: str) -> Found:
    """In live mode the trainer asks our adapter, or follows no schedule at all."""
    if not context.live or "gaincurate" in str(settings[key]) or (context.running and settings[key]):
        return None
    return Finding("adapter-missing", "wrong", f"{settings.told(key)}: {what}", fix)


_NAMED = 3
Number = Callable[[Settings], float | None]


def tail(
    settings: Settings,
    context: Context,
    key: str,
    *,
    per_step: Number | None = None,
    factor: Number | None = None,
    mini: str = "",
    unless: str = "",
) -> Found:
    """A round that is no multiple of the trainer's prompts a step loses its last prompts.

    Args:
        settings: of the trainer.
        context: the run's numbers.
        key: the setting that the prompts a step follow from.
        per_step: prompts a step, where they are not the key's value.
        factor: the key's value for one prompt a step, where it is not 1.
        mini: the setting with a mini-batch's prompts, which the trainer refuses above a step's.
        unless: the setting that makes it take them.
    """
    each = per_step(settings) if per_step else settings.count(key)
    if context.mode == "export" or context.budget is None or not each:
        return None
    step, one = int(each), int((factor(settings) if factor else None) or 1)
    left = context.budget % step
    if not left:
        return None
    fits = max(size for size in range(1, min(step, context.budget) + 1) if context.budget % size == 0)
    fix = {key: fits * one}
    least = settings.known(mini) if mini and not settings.known(unless) else None
    if isinstance(least, int | float) and least > fits:
        fix[mini] = fits
    return Finding(
        "tail",
        "wrong",
        f"{settings.told(key)}: {step} prompts a step, but a round has {context.budget}: the last {left} of "
        "each round are never trained, and report nothing",
        fix,
        aligned(context.budget, step),
    )


def aligned(budget: int, step: int) -> str:
    """How a run is started whose rounds end with a step, with the nearest budget that does."""
    below = budget // step * step
    nearest = below if below and budget - below <= below + step - budget else below + step
    return f"or start the run with `gaincurate schedule start --align-to {step} --budget {nearest}`"


def epochs(settings: Settings, context: Context, key: str) -> Found:
    """A round is one pass over its file; a live run has as many passes as rounds."""
    count, passes = settings.number(key), 1 if context.segment else context.rounds
    if context.mode == "export" or count is None or passes is None or count == passes:
        return None
    why = f"the run has {passes} rounds, and a round is one pass here"
    if context.segment:
        why = f"each round would be trained {count:g} times, and report {count:g} times"
    title = f"{settings.told(key)}{': ' if context.segment else ', but '}{why}"
    return Finding("epochs", "wrong", title, {key: passes})


def steps(
    settings: Settings,
    context: Context,
    key: str,
    *,
    per_step: Number | str,
    more_is_fine: bool = False,
) -> Found:
    """A bound on the steps must be what the rows need, once the prompts a step divide a round."""
    each = settings.count(per_step) if isinstance(per_step, str) else per_step(settings)
    if context.budget is None or not each or context.budget % each:
        return None  # the rule on the tail speaks of what is left
    return length(settings, context, key, int(context.budget // each), more_is_fine=more_is_fine)


def length(
    settings: Settings,
    context: Context,
    key: str,
    each_round: int,
    *,
    more_is_fine: bool = False,
) -> Found:
    """A bound on the steps, against the steps of a round."""
    most = settings.number(key)
    if context.mode == "export" or most is None or most <= 0:
        return None
    wanted = each_round * ((context.rounds or 1) if context.live else 1)
    if most == wanted or (more_is_fine and most > wanted):
        return None
    what: str = "a round"
    severity: Severity = "wrong"
    why = "some rows are never trained" if most < wanted else "rows are trained again"
    if context.live and most < wanted:  # a part of the run, which a resume can go on with
        what, severity, why = "the run", "cost", "the training ends before its last round"
    elif context.live:
        what, why = "the run", "there are no rows for the rest"
    title = f"{settings.told(key)}, but {what} has {wanted} steps: {why}"
    return Finding("max-steps", severity, title, {key: wanted})


def too_long(
    settings: Settings,
    context: Context,
    key: str,
    happens: str,
    *,
    below: Number | None = None,
) -> Found:
    """Prompts over the trainer's limit are dropped or cut: rows are missing, or are not what was scored.

    Args:
        settings: of the trainer.
        context: the run's lengths.
        key: the setting with the limit.
        happens: what becomes of longer ones.
        below: tokens of the limit that are not the prompt's.
    """
    value, less = settings.number(key), int((below(settings) if below else None) or 0)
    if context.longer_than is None or context.longest is None or not value or context.longest <= value - less:
        return None
    limit = value - less
    ids = context.longer_than(limit)
    named = ", ".join(ids[:_NAMED]) + (" and so on" if len(ids) > _NAMED else "")
    return Finding(
        "too-long",
        "wrong",
        f"{settings.told(key)}: {len(ids):,} prompts of the set are longer ({named}), and {happens}",
        {key: context.longest + less},
        f"the longest has {context.longest:,} tokens; or leave them out: `gaincurate score --max-length`",
    )


def one_size(profile: Profile, settings: Settings, context: Context) -> Found:
    """Most trainers have one group size for all prompts, whatever a plan says."""
    if context.group_size is None or profile.group_size is not None:
        return None
    title = f"the plans of this run give each prompt a group size, and {profile.name} has one size for all"
    advice = "start a run without group_sizes, or train with verl or a loop of your own"
    return Finding("group-sizes", "wrong", title, advice=advice)
