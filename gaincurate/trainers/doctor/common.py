"""Rules that several trainers share, over the trainer's own keys, and a table of kinds of findings.

A rule takes settings and the facts of a run, and yields findings. The functions marked with `rule` take
further parameters first: `begins("model.path")`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec

from gaincurate.trainers.doctor.findings import Context, Finding, Mode, Rule, Severity
from gaincurate.trainers.doctor.settings import Settings

RUNS: tuple[Mode, ...] = ("segment", "live")
ALWAYS: tuple[Mode, ...] = (*RUNS, "export")
SEGMENT: tuple[Mode, ...] = ("segment",)
LIVE: tuple[Mode, ...] = ("live",)
ROUND = ("data", "output", "round")  # what the driver fills in with something of the round's own
Number = Callable[[Settings], float | None]
P = ParamSpec("P")
FOREVER = 1_000_000  # steps, more than a round has; trainers save the last step whatever the period
_ORDER_LOST = "this changes their order, not which rows are trained"


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
    "base-model": Kind(why="each round starts from that model, so the training of earlier rounds is lost",
        advice="{checkpoint} is the run's model in the first round, then the last round's checkpoint"),
    "data": Kind(why="every round would train on the same rows, whatever was planned",
        advice="a file written for this trainer below {output} will do as well"),
    "dynamic-sampling": Kind(why="groups are replaced or left out, so steps and rows do not agree"),
    "learning-rate": Kind("cost", SEGMENT, "it spans one process, so it starts over in every round"),
    "log-without-id": Kind("cost", RUNS, "your code never sees the rewards, and the trainer's log has no "
        "gc_id, so outcomes are joined by the messages of the prompt"),
    "no-checkpoint": Kind("stops", SEGMENT, "the next round has no checkpoint to start from"),
    "no-run": Kind("stops", LIVE, "the adapter reads from it which run to follow"),
    "outcomes": Kind("stops", SEGMENT, "your code never sees the rewards, so no round has outcomes"),
    "output": Kind("stops", SEGMENT,
        "the checkpoint is looked for below {output}, and the run stops where there is none"),
    "prompt-file": Kind("wrong", ALWAYS, "its text is added to the question, which is not what was scored"),
    "prompt-key": Kind("stops", ALWAYS, "the prompt is in the column `prompt`"),
    "reference": Kind("cost", SEGMENT, "the KL reference is the model that a process starts from, so it "
        "moves every round"),
    "resume": Kind("wrong", SEGMENT, "the last round's step counter and its place in the file come back over "
        "the new file"),
    "shuffle": Kind("order", ALWAYS, f"rows are shuffled; {_ORDER_LOST}"),
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
    title = f"{', '.join(map(settings.in_words, keys))}: {why or kind.why}"
    source = settings.source(*keys)
    return Finding(name, severity or kind.severity, title, fix or {}, advice or kind.advice, source)


def rule(check: Callable[Concatenate[Settings, Context, P], Iterator[Finding]]) -> Callable[P, Rule]:
    """Makes a check with parameters a function of these alone, which returns the rule."""

    @wraps(check)
    def with_parameters(*args: P.args, **more: P.kwargs) -> Rule:
        return lambda settings, context: check(settings, context, *args, **more)

    return with_parameters


@rule
def must(
    settings: Settings,
    context: Context,
    key: str,
    be: Any,
    why: str = "",
    *,
    name: str,
    severity: Severity | None = None,
    modes: tuple[Mode, ...] = (),
    fix: dict[str, Any] | None = None,
    advice: str = "",
) -> Iterator[Finding]:
    """A rule on one setting, the row of a trainer's table; what is not given is its kind's.

    `be` is the right value of the setting `key`, beside no value at all, or a function that tells whether a
    value is right; True and false are compared as such. `why` is the consequence of a wrong value, the second
    half of a sentence. `fix` has settings that fix it (default: the right value), and `advice` other ways.
    """
    if context.mode not in (modes or KINDS.get(name, Kind()).modes):
        return
    value = settings[key]
    if callable(be):
        is_right, right = bool(be(value)), {}
    else:
        is_right = bool(value) == be if isinstance(be, bool) else value in (be, None, False)
        right = {key: be}
    if not is_right:
        yield find(settings, key, name, why, right if fix is None else fix, advice, severity)


def only(holds: Callable[[Settings, Context], Any], row: Rule) -> Rule:
    """A rule that is asked only where `holds` is true."""
    return lambda settings, context: row(settings, context) if holds(settings, context) else iter(())


def above_zero(value: Any) -> bool:
    """Whether a period is one."""
    return isinstance(value, int) and value > 0


def is_set(value: Any) -> bool:
    """Whether a setting has a value."""
    return value is not None


def never(value: Any) -> bool:
    """Whether a value is right that no value makes right."""
    return False


@rule
def rows(
    settings: Settings,
    context: Context,
    key: str,
    needs: tuple[str, ...] = (),
    export: str = "",
    form: str = "parquet",
    renamed: str = "",
    folder: str = "",
) -> Iterator[Finding]:
    """In segment mode the training set is the round's file, with the columns that the trainer `needs`.

    Where the round's own file would not do, or where its columns are not known, the fix is a file that
    `gaincurate export` writes, with these options. None is missing where `renamed`, a setting, says that the
    trainer reads another column. A trainer that reads a `folder` needs one, and this is how to make it.
    """
    if not context.segment:
        return
    place, file, advice = settings.place(key), "{output}/rows" if folder else "{data}", folder
    missing = [name for name in needs if name not in (context.columns or ())]
    if renamed and settings.known(renamed) not in (None, *needs):
        missing = []
    if missing:
        file = f"{{output}}/data.{form}"
        command = f"gaincurate export {shlex.quote(context.folder)} {export} --out {file} --overwrite"
        advice = f"at the head of the round's script: `{command}`"
    fix = {key: [file] if isinstance(settings.known(key), list) else file}
    if not Settings.follows(place, ROUND):
        yield find(settings, key, "data", "", fix, advice)
    elif missing and context.columns is not None and Settings.follows(place, ("data",)):
        why = f"the rounds of this run have no {', '.join(missing)}, which the trainer reads"
        yield find(settings, key, "view", why, fix, advice)


@rule
def begins(settings: Settings, context: Context, key: str) -> Iterator[Finding]:
    """In segment mode a round starts from the model of the last one."""
    value = settings.place(key) if context.segment and settings.is_given(key) else None
    if value and not Settings.follows(value, ("checkpoint", "output", "round")):
        yield find(settings, key, "base-model", fix={key: "{checkpoint}"})


@rule
def output(settings: Settings, context: Context, key: str, below: str = "") -> Iterator[Finding]:
    """In segment mode the checkpoint of a round must lie in the round's own folder."""
    if context.segment and not Settings.follows(settings.place(key), ("output",)):
        yield find(settings, key, "output", fix={key: "{output}" + below})


def shuffle_refused(key: str) -> tuple[Rule, Rule]:
    """The order of a round is the plan's; a live adapter that cannot bring its own refuses to begin."""
    stopped = "the adapter refuses to begin, because the order would not be the plan's"
    return (
        must(key, False, name="shuffle", modes=(*SEGMENT, "export")),
        must(key, False, stopped, name="shuffle", severity="stops", modes=LIVE),
    )


def always_shuffled(settings: Settings, context: Context) -> Iterator[Finding]:
    """A trainer shuffles with any settings."""
    yield Finding("shuffle", "order", f"rows are always shuffled, and no setting changes it; {_ORDER_LOST}")


def reports(keys: tuple[str, ...], fix: dict[str, Any], advice: str) -> Rule:
    """Code of the user's must report which prompt a reward belongs to."""
    row = must(keys[0], never, name="outcomes", fix=fix, advice=advice)
    return only(lambda settings, _: not any(map(settings.is_set, keys)), row)


def unset_below(prefix: str, why: str = "", *, name: str, containing: str = "", advice: str = "") -> Rule:
    """A rule against all settings whose keys begin with a prefix and contain a text; see `must`."""

    def unset(settings: Settings, context: Context) -> Iterator[Finding]:
        keys = [key for key in settings.below(prefix) if containing in key]
        fix = dict.fromkeys(sorted(key for key in keys if settings.given[key] is not None))
        for key in [*fix][:1]:
            yield from must(key, never, why, name=name, fix=fix, advice=advice)(settings, context)

    return unset


@rule
def resumes(
    settings: Settings,
    context: Context,
    place: str,
    model: str,
    key: str = "",
    off: tuple[Any, ...] = (),
    fix: dict[str, Any] | None = None,
) -> Iterator[Finding]:
    """A checkpoint of the last round brings its step counter and its place in another file back.

    `place` is the setting of the checkpoints' folder, and `model` that of the model. `key` is the setting
    that resumes, and `off` are its values that do not. The fix is the first of them, or a round's folder.
    """
    if not context.segment or (key and settings[key] in off):
        return
    if not Settings.follows(settings.place(place), ("output", "round")):
        advice = f"the next round begins with the weights: {model}={{checkpoint}}"
        right = fix or ({key: off[0]} if key else {place: "{output}"})
        yield find(settings, (key, place) if key else place, "resume", "", right, advice)


@rule
def follows_run(settings: Settings, context: Context, key: str) -> Iterator[Finding]:
    """In live mode a setting names the run's folder for the adapter; a file there is no run."""
    value = str(settings.place(key) or "") if context.live else context.folder
    if not value or value.endswith((".parquet", ".jsonl", ".json", ".arrow")):
        yield find(settings, key, "no-run", fix={key: context.folder})


@rule
def unplugged(
    settings: Settings, context: Context, key: str, fix: dict[str, Any], why: str
) -> Iterator[Finding]:
    """In live mode the trainer asks our adapter, or follows no schedule at all."""
    if context.live and "gaincurate" not in str(settings[key]) and not (context.running and settings[key]):
        yield find(settings, key, "adapter-missing", why, fix)


@rule
def tail(
    settings: Settings,
    context: Context,
    key: str,
    per_step: Number | None = None,
    factor: Number | None = None,
    mini: str = "",
    unless: str = "",
) -> Iterator[Finding]:
    """A round that is no multiple of the trainer's prompts a step loses its last prompts.

    The prompts a step are the key's value, or `per_step`; `factor` is the key's value for one of them. `mini`
    is the setting with a mini-batch's prompts, which the trainer refuses above a step's but with `unless`.
    """
    step, budget = int((per_step(settings) if per_step else settings.count(key)) or 0), context.budget
    if context.mode == "export" or budget is None or not step or budget % step == 0:
        return
    fits = largest_divisor(budget, step)
    fix = {key: fits * int((factor(settings) if factor else None) or 1)}
    least = settings.known(mini) if mini and not settings.known(unless) else None
    if isinstance(least, int | float) and least > fits:
        fix[mini] = fits
    why = f"{step} prompts a step, but a round has {budget}: the last {budget % step} of each round are "
    why += "never trained, and report nothing"
    yield find(settings, key, "tail", why, fix, aligned(budget, step))


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is no more than `most`."""
    return max(size for size in range(1, min(most, number) + 1) if number % size == 0)


def aligned(budget: int, step: int) -> str:
    """How to start a run whose rounds end with a step, with the nearest budget that does."""
    below = budget // step * step
    nearest = below if below and budget - below <= below + step - budget else below + step
    return f"or start the run with `gaincurate schedule start --align-to {step} --budget {nearest}`"


@rule
def epochs(settings: Settings, context: Context, key: str) -> Iterator[Finding]:
    """A round is one pass over its file; a live run has as many passes as rounds."""
    count, passes = settings.number(key), 1 if context.segment else context.rounds
    if context.mode == "export" or count is None or passes in (None, count):
        return
    why = f"the run has {passes} rounds, and a round is one pass here"
    if context.segment:
        why = f"each round would be trained {count:g} times, and report {count:g} times"
    yield find(settings, key, "epochs", why, {key: passes})


def steps(key: str, per_step: Number | str, *, more_is_fine: bool = False) -> Rule:
    """A bound on the steps must be what the rows need, once the prompts a step divide a round."""

    def each_round(settings: Settings, context: Context) -> int | None:
        each = settings.count(per_step) if isinstance(per_step, str) else per_step(settings)
        return context.steps(each)

    return length(key, each_round, more_is_fine)


@rule
def length(
    settings: Settings,
    context: Context,
    key: str,
    each_round: Callable[[Settings, Context], int | None],
    more_is_fine: bool = False,
) -> Iterator[Finding]:
    """A bound on the steps, against the steps of a round."""
    if context.mode == "export" or not (each := each_round(settings, context)):
        return
    most, wanted = settings.number(key), each * ((context.rounds or 1) if context.live else 1)
    if most is None or most <= 0 or most == wanted or (more_is_fine and most > wanted):
        return
    is_few = most < wanted
    what, few, many = "a round", "some rows are never trained", "rows are trained again"
    if context.live:
        what, few = "the run", "the training ends before its last round"
        many = "there are no rows for the rest"
    why = f"{what} has {wanted} steps, so {few if is_few else many}"
    # Too few train a part of the run, which a resume can go on with.
    severity: Severity = "cost" if context.live and is_few else "wrong"
    yield find(settings, key, "max-steps", why, {key: wanted}, "", severity)


@rule
def too_long(
    settings: Settings, context: Context, key: str, happens: str, below: Number | None = None
) -> Iterator[Finding]:
    """Prompts over the trainer's limit are dropped or cut: rows are missing, or are not what was scored.

    `happens` says what becomes of longer ones, `below` yields the tokens of the limit that are no prompt's.
    """
    value, less = settings.number(key), int((below(settings) if below else None) or 0)
    longest = context.longest
    if context.longer_than is None or longest is None or not value or longest <= value - less:
        return
    ids = context.longer_than(value - less)
    named = ", ".join(ids[:3]) + (" and so on" if len(ids) > 3 else "")
    why = f"{len(ids):,} prompts of the set are longer ({named}), and {happens}"
    advice = f"the longest has {longest:,} tokens; or leave them out: `gaincurate score --max-length`"
    yield find(settings, key, "too-long", why, {key: longest + less}, advice)
