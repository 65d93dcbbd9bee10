"""Rules that several trainers share, over the trainer's own keys: a table of kinds of findings, and sizes.

A trainer's `rules.py` is a list of them. A rule takes settings and the facts of a run, and returns a
finding or nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from gaincurate.trainers.doctor.findings import Context, Finding, Found, Mode, Severity
from gaincurate.trainers.doctor.settings import Settings

RUNS: tuple[Mode, ...] = ("segment", "live")
ALWAYS: tuple[Mode, ...] = (*RUNS, "export")
SEGMENT: tuple[Mode, ...] = ("segment",)
LIVE: tuple[Mode, ...] = ("live",)
EXPORT: tuple[Mode, ...] = ("export",)
Row = Callable[[Settings, Context], Found]
"""A rule with one finding at most."""
Number = Callable[[Settings], float | None]
_NAMED = 3


class Kind(NamedTuple):
    """How bad a finding is, the modes in which it is one, the consequence, and other ways to fix it."""

    severity: Severity = "wrong"
    modes: tuple[Mode, ...] = RUNS
    why: str = ""
    advice: str = ""


KINDS: dict[str, Kind] = {
    "adapter": Kind("stops", SEGMENT, "the checkpoint is an adapter alone, and the next round needs a model",
        "or merge it into the model as the last step of the round's command"),
    "ahead": Kind(why="rollouts run ahead over the end of the file, and a batch takes the first that finish, "
        "so a quick prompt can be trained twice in place of a slow one"),
    "dynamic-sampling": Kind(why="groups are replaced or left out, so steps and rows do not agree"),
    "learning-rate": Kind("cost", SEGMENT, "it spans one process, so it starts over in every round"),
    "log-without-id": Kind("cost", RUNS, "your code never sees the rewards, and the trainer's log has no "
        "gc_id, so outcomes are joined by the messages of the prompt"),
    "no-checkpoint": Kind("stops", SEGMENT, "the next round has no checkpoint to start from"),
    "outcomes": Kind("stops", SEGMENT, "your code never sees the rewards, so no round has outcomes"),
    "prompt-file": Kind("wrong", ALWAYS, "its text is added to the question, which is not what was scored"),
    "prompt-key": Kind("stops", ALWAYS, "the prompt is in the column `prompt`"),
    "reference": Kind("cost", SEGMENT, "the KL reference is the model that a process starts from, so it "
        "moves every round"),
    "resume": Kind("wrong", SEGMENT, "the last round's step counter and its place in the file come back over "
        "the new file"),
    "template": Kind("wrong", ALWAYS, "the model would read the messages without its chat template, which is "
        "not what was scored"),
    "validation": Kind("cost", SEGMENT, "a full evaluation before every round"),
    "weights": Kind("stops", SEGMENT, "no Hugging Face weights, which scoring and the next round need"),
}  # fmt: skip
"""The findings that several trainers have, by name."""


def find(
    settings: Settings,
    keys: str | tuple[str, ...],
    name: str,
    why: str = "",
    fix: dict[str, Any] | None = None,
    advice: str = "",
    severity: Severity | None = None,
) -> Finding:
    """A finding about the values of some settings, of the kind of its name where not said otherwise."""
    kind, keys = KINDS.get(name, Kind()), (keys,) if isinstance(keys, str) else keys
    title = f"{', '.join(map(settings.told, keys))}: {why or kind.why}"
    source = settings.source(*keys)
    return Finding(name, severity or kind.severity, title, fix or {}, advice or kind.advice, source)


def must(
    key: str,
    be: Any,
    why: str = "",
    *,
    name: str,
    severity: Severity | None = None,
    modes: tuple[Mode, ...] = (),
    fix: dict[str, Any] | None = None,
    advice: str = "",
) -> Row:
    """A rule on one setting, the row of a trainer's table; the rest is its kind's.

    Args:
        key: the setting.
        be: its right value, or a function that takes a value and tells whether it is right. True and false
            are compared as such; no value is as good as any other right one.
        why: the consequence of a wrong value, the second half of a sentence.
        name: of the finding.
        severity: of the finding.
        modes: in which the rule holds.
        fix: settings that fix it. Default: the right value, if it is one.
        advice: other ways to fix it.
    """
    settled = fix if fix is not None else {} if callable(be) else {key: be}

    def is_right(value: Any) -> bool:
        if callable(be):
            return bool(be(value))
        return bool(value) == be if isinstance(be, bool) else value in (be, None, False)

    def rule(settings: Settings, context: Context) -> Found:
        if context.mode not in (modes or KINDS.get(name, Kind()).modes) or is_right(settings[key]):
            return None
        return find(settings, key, name, why, settled, advice, severity)

    return rule


def only(holds: Callable[[Settings, Context], Any], rule: Row) -> Row:
    """A rule that is asked only where `holds` is true."""
    return lambda settings, context: rule(settings, context) if holds(settings, context) else None


def above_zero(value: Any) -> bool:
    """Whether a period is one."""
    return isinstance(value, int) and value > 0


def is_set(value: Any) -> bool:
    """Whether a setting has a value."""
    return value is not None


def reads(settings: Settings, context: Context, key: str) -> Found:
    """In segment mode the training set is the round's own file."""
    if not context.segment or Settings.follows(settings.place(key), ("data", "output", "round")):
        return None
    why = "every round would train on the same rows, whatever was planned"
    advice = "a file written for this trainer below {output} will do as well"
    return find(settings, key, "data", why, _file(settings, key, "{data}"), advice)


def rows(
    key: str, needs: tuple[str, ...] = (), export: str = "", form: str = "parquet", *, renamed: str = ""
) -> Row:
    """The training set is the round's file, and has the columns that the trainer reads.

    Where the round's own file would not do, or where its columns are not known, the fix is an exported file.

    Args:
        key: the setting of the training set.
        needs: columns that the trainer reads, where the source's do not do.
        export: the options of `gaincurate export` that write them.
        form: of the exported file.
        renamed: the setting that makes it read another column, so that none is missing.
    """

    def rule(settings: Settings, context: Context) -> Found:
        finding = reads(settings, context, key)
        if not needs or (renamed and settings.known(renamed) not in (None, *needs)):
            return finding
        missing = [name for name in needs if name not in (context.columns or ())]
        exported = _file(settings, key, f"{{output}}/data.{form}")
        run = shlex.quote(context.folder)
        command = f"gaincurate export {run} {export} --out {{output}}/data.{form} --overwrite"
        advice = f"at the head of the round's script: `{command}`"
        if finding is not None and missing:
            return replace(finding, fix=exported, advice=advice)
        is_own = context.segment and Settings.follows(settings.place(key), ("data",))
        if finding is not None or not is_own or not missing or context.columns is None:
            return finding
        why = f"the rounds of this run have no {', '.join(missing)}, which the trainer reads"
        return find(settings, key, "view", why, exported, advice)

    return rule


def _file(settings: Settings, key: str, path: str) -> dict[str, Any]:
    """A fix that names one file, in a list where the setting has one."""
    return {key: [path] if isinstance(settings.known(key), list) else path}


def begins(key: str) -> Row:
    """In segment mode a round starts from the model of the last one."""

    def rule(settings: Settings, context: Context) -> Found:
        value = settings.place(key) if context.segment and settings.is_given(key) else None
        if not value or Settings.follows(value, ("checkpoint", "output", "round")):
            return None
        why = "each round starts from that model, so the training of earlier rounds is lost"
        advice = "{checkpoint} is the run's model in the first round, then the last round's checkpoint"
        return find(settings, key, "base-model", why, {key: "{checkpoint}"}, advice)

    return rule


def output(key: str, below: str = "") -> Row:
    """In segment mode the checkpoint of a round must lie in the round's own folder."""

    def rule(settings: Settings, context: Context) -> Found:
        if not context.segment or Settings.follows(settings.place(key), ("output",)):
            return None
        why = "the checkpoint is looked for below {output}, and the run stops where there is none"
        return find(settings, key, "output", why, {key: "{output}" + below}, severity="stops")

    return rule


def shuffle(
    key: str, *, off: Any = False, modes: tuple[Mode, ...] = ALWAYS, refused: bool = False
) -> tuple[Row, ...]:
    """The order of a round is part of the plan; shuffling changes it, not which prompts are in the round.

    Args:
        key: the setting that shuffles.
        off: its value that does not.
        modes: in which the setting counts.
        refused: the live adapter cannot bring its own order, and refuses to begin.
    """
    row = partial(must, key, off, name="shuffle")
    wrong = tuple(mode for mode in modes if not (refused and mode == "live"))
    stopped = "the adapter refuses to begin, because the order would not be the plan's"
    return (
        row(f"rows are shuffled; {_ORDER_LOST}", severity="order", modes=wrong),
        *([row(stopped, severity="stops", modes=LIVE)] if refused else []),
    )


_ORDER_LOST = "this changes their order, not which rows are trained"


def always_shuffled(settings: Settings, context: Context) -> Finding:
    """A trainer shuffles with any settings."""
    return Finding("shuffle", "order", f"rows are always shuffled, and no setting changes it; {_ORDER_LOST}")


def reports(keys: tuple[str, ...], fix: dict[str, Any], advice: str) -> Row:
    """Code of the user's must report which prompt a reward belongs to."""
    row = must(keys[0], lambda _: False, name="outcomes", fix=fix, advice=advice)
    return only(lambda settings, _: not any(map(settings.is_set, keys)), row)


def unset_below(prefix: str, why: str = "", *, name: str, containing: str = "", **more: Any) -> Row:
    """A rule against all settings whose keys begin with a prefix and contain a text; see `must`."""

    def rule(settings: Settings, context: Context) -> Found:
        keys = [key for key in settings.below(prefix) if containing in key]
        keys = sorted(key for key in keys if settings.given[key] is not None)
        if not keys:
            return None
        row = must(keys[0], lambda _: False, why, name=name, fix=dict.fromkeys(keys), **more)
        return row(settings, context)

    return rule


def resumes(
    place: str,
    model: str,
    *,
    key: str = "",
    off: tuple[Any, ...] = (),
    fix: dict[str, Any] | None = None,
) -> Row:
    """A checkpoint of the last round brings its step counter and its place in another file back.

    Args:
        place: the setting of the checkpoints' folder; one of the round's own has no such checkpoint.
        model: the setting of the model, with which the next round begins.
        key: the setting that resumes, where there is one.
        off: its values that do not.
        fix: settings that fix it. Default: the first value of `off`, or a folder of the round's own.
    """

    def rule(settings: Settings, context: Context) -> Found:
        if not context.segment or (key and settings[key] in off):
            return None
        if Settings.follows(settings.place(place), ("output", "round")):
            return None
        advice = f"the next round begins with the weights: {model}={{checkpoint}}"
        right = fix or ({key: off[0]} if key else {place: "{output}"})
        return find(settings, (key, place) if key else place, "resume", "", right, advice)

    return rule


def follows_run(key: str) -> Row:
    """In live mode a setting names the run's folder for the adapter; a file there is no run."""

    def rule(settings: Settings, context: Context) -> Found:
        value = settings.place(key) if context.live else context.folder
        if value and not str(value).endswith((".parquet", ".jsonl", ".json", ".arrow")):
            return None
        why = "the adapter reads from it which run to follow"
        return find(settings, key, "no-run", why, {key: context.folder}, severity="stops")

    return rule


def unplugged(key: str, fix: dict[str, Any], why: str) -> Row:
    """In live mode the trainer asks our adapter, or follows no schedule at all."""

    def rule(settings: Settings, context: Context) -> Found:
        if not context.live or "gaincurate" in str(settings[key]) or (context.running and settings[key]):
            return None
        return find(settings, key, "adapter-missing", why, fix)

    return rule


def tail(
    key: str,
    *,
    per_step: Number | None = None,
    factor: Number | None = None,
    mini: str = "",
    unless: str = "",
) -> Row:
    """A round that is no multiple of the trainer's prompts a step loses its last prompts.

    Args:
        key: the setting that the prompts a step follow from.
        per_step: prompts a step, where they are not the key's value.
        factor: the key's value for one prompt a step, where it is not 1.
        mini: the setting with a mini-batch's prompts, which the trainer refuses above a step's.
        unless: the setting that makes it take them.
    """

    def rule(settings: Settings, context: Context) -> Found:
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
        why = f"{step} prompts a step, but a round has {context.budget}: the last {left} of each round are "
        why += "never trained, and report nothing"
        return find(settings, key, "tail", why, fix, aligned(context.budget, step))

    return rule


def aligned(budget: int, step: int) -> str:
    """How to start a run whose rounds end with a step, with the nearest budget that does."""
    below = budget // step * step
    nearest = below if below and budget - below <= below + step - budget else below + step
    return f"or start the run with `gaincurate schedule start --align-to {step} --budget {nearest}`"


def epochs(key: str) -> Row:
    """A round is one pass over its file; a live run has as many passes as rounds."""

    def rule(settings: Settings, context: Context) -> Found:
        count, passes = settings.number(key), 1 if context.segment else context.rounds
        if context.mode == "export" or count is None or passes is None or count == passes:
            return None
        why = f"the run has {passes} rounds, and a round is one pass here"
        if context.segment:
            why = f"each round would be trained {count:g} times, and report {count:g} times"
        return find(settings, key, "epochs", why, {key: passes})

    return rule


def steps(key: str, per_step: Number | str, *, more_is_fine: bool = False) -> Row:
    """A bound on the steps must be what the rows need, once the prompts a step divide a round."""

    def rule(settings: Settings, context: Context) -> Found:
        each = settings.count(per_step) if isinstance(per_step, str) else per_step(settings)
        if context.budget is None or not each or context.budget % each:
            return None  # the rule on the tail speaks of what is left
        return length(settings, context, key, int(context.budget // each), more_is_fine)

    return rule


def length(
    settings: Settings, context: Context, key: str, each_round: int, more_is_fine: bool = False
) -> Found:
    """A bound on the steps, against the steps of a round."""
    most = settings.number(key)
    if context.mode == "export" or most is None or most <= 0:
        return None
    wanted = each_round * ((context.rounds or 1) if context.live else 1)
    if most == wanted or (more_is_fine and most > wanted):
        return None
    what, severity = "a round", Kind().severity
    why = "some rows are never trained" if most < wanted else "rows are trained again"
    if context.live and most < wanted:  # a part of the run, which a resume can go on with
        what, severity, why = "the run", "cost", "the training ends before its last round"
    elif context.live:
        what, why = "the run", "there are no rows for the rest"
    why = f"{what} has {wanted} steps, so {why}"
    return find(settings, key, "max-steps", why, {key: wanted}, severity=severity)


def too_long(key: str, happens: str, below: Number | None = None) -> Row:
    """Prompts over the trainer's limit are dropped or cut: rows are missing, or are not what was scored.

    Args:
        key: the setting with the limit.
        happens: what becomes of longer ones.
        below: tokens of the limit that are not the prompt's.
    """

    def rule(settings: Settings, context: Context) -> Found:
        value, less = settings.number(key), int((below(settings) if below else None) or 0)
        longest = context.longest
        if context.longer_than is None or longest is None or not value or longest <= value - less:
            return None
        ids = context.longer_than(value - less)
        named = ", ".join(ids[:_NAMED]) + (" and so on" if len(ids) > _NAMED else "")
        why = f"{len(ids):,} prompts of the set are longer ({named}), and {happens}"
        advice = f"the longest has {longest:,} tokens; or leave them out: `gaincurate score --max-length`"
        return find(settings, key, "too-long", why, {key: longest + less}, advice)

    return rule
