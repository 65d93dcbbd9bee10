"""Rules that several trainers share, over the trainer's own keys, and the findings that they have in common.

A rule takes a trainer's settings and the facts of a run, and yields findings. A function with the decorator
`rule` is called with the rule's other parameters, and returns the rule: `begins("model.path")`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec

from gaincurate.trainers.doctor.findings import Finding, Mode, Rule, RuleContext, Severity
from gaincurate.trainers.doctor.settings import Settings

RUNS: tuple[Mode, ...] = ("segment", "live")
ALWAYS: tuple[Mode, ...] = (*RUNS, "export")
SEGMENT: tuple[Mode, ...] = ("segment",)
LIVE: tuple[Mode, ...] = ("live",)
ROUND = ("data", "output", "round")  # the driver gives these placeholders another value in each round
Number = Callable[[Settings], float | None]
P = ParamSpec("P")
FOREVER = 1_000_000  # steps, more than a round has; with any period, trainers also save the last step
_ORDER_LOST = "this changes their order, not which rows are trained"


class Preset(NamedTuple):
    """A finding's severity, the modes in which it applies, its consequence, and other ways to fix it."""

    severity: Severity = "wrong"
    modes: tuple[Mode, ...] = RUNS
    why: str = ""
    advice: str = ""


PRESETS: dict[str, Preset] = {
    "adapter": Preset("stops", SEGMENT, "the checkpoint is only an adapter, and the next round needs a "
        "model", "or merge it into the model as the last step of the round's command"),
    "ahead": Preset(why="rollouts run ahead over the end of the file, and a batch takes the first that "
        "finish, so a quick prompt can be trained twice in place of a slow one"),
    "base-model": Preset(why="each round starts from that model, so the training of earlier rounds is lost",
        advice="{checkpoint} is the run's model in the first round, then the last round's checkpoint"),
    "data": Preset(why="every round would train on the same rows, regardless of the plan",
        advice="a file written for this trainer below {output} will do as well"),
    "dynamic-sampling": Preset(why="groups are replaced or left out, so steps and rows do not agree"),
    "learning-rate": Preset("cost", SEGMENT, "it spans one process, so it starts over in every round"),
    "log-without-id": Preset("cost", RUNS, "your code never sees the rewards, and the trainer's log has no "
        "gc_id, so outcomes are joined by the messages of the prompt"),
    "no-checkpoint": Preset("stops", SEGMENT, "the next round has no checkpoint to start from"),
    "no-run": Preset("stops", LIVE, "the adapter reads from it which run to follow"),
    "outcomes": Preset("stops", SEGMENT, "your code never sees the rewards, so no round has outcomes"),
    "output": Preset("stops", SEGMENT,
        "the checkpoint is looked for below {output}, and the run stops where there is none"),
    "prompt-file": Preset("wrong", ALWAYS, "its text is added to the scored question"),
    "prompt-key": Preset("stops", ALWAYS, "the prompt is in the column `prompt`"),
    "reference": Preset("cost", SEGMENT, "the KL reference is the model that a process starts from, so "
        "it moves every round"),
    "resume": Preset("wrong", SEGMENT, "the last round's step counter and its place in the file come back "
        "over the new file"),
    "shuffle": Preset("order", ALWAYS, f"rows are shuffled; {_ORDER_LOST}"),
    "template": Preset("wrong", ALWAYS, "the model would read the messages without its chat template, "
        "so they differ from the scored prompts"),
    "validation": Preset("cost", SEGMENT, "a full evaluation before every round"),
    "weights": Preset("stops", SEGMENT, "no Hugging Face weights, which scoring and the next round need"),
}  # fmt: skip
"""Defaults for the findings that several trainers have, by the finding's name."""


def find(
    settings: Settings,
    keys: str | tuple[str, ...],
    name: str,
    why: str = "",
    fix: dict[str, Any] | None = None,
    advice: str = "",
    severity: Severity | None = None,
) -> Finding:
    """A finding about the values of some settings; empty arguments default to the name's preset."""
    preset, keys = PRESETS.get(name, Preset()), (keys,) if isinstance(keys, str) else keys
    title = f"{', '.join(map(settings.in_words, keys))}: {why or preset.why}"
    source = settings.source(*keys)
    return Finding(name, severity or preset.severity, title, fix or {}, advice or preset.advice, source)


def rule(check: Callable[Concatenate[Settings, RuleContext, P], Iterator[Finding]]) -> Callable[P, Rule]:
    """Make a check with further parameters a function of these parameters, which returns the rule."""

    @wraps(check)
    def with_parameters(*args: P.args, **more: P.kwargs) -> Rule:
        return lambda settings, context: check(settings, context, *args, **more)

    return with_parameters


@rule
def must(
    settings: Settings,
    context: RuleContext,
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
    """A rule on the value of one setting; arguments that are not given default to the name's preset.

    `be` is the right value of the setting `key`, which may also have no value, or a function that returns
    whether a value is right. If `be` is a bool, the value's truth is compared. `why` is the consequence of a
    wrong value, a clause. `fix` has settings that fix it (default: the right value), and `advice` other ways.
    """
    if context.mode not in (modes or PRESETS.get(name, Preset()).modes):
        return
    value = settings[key]
    if callable(be):
        is_right, right = bool(be(value)), {}
    else:
        is_right = bool(value) == be if isinstance(be, bool) else value in (be, None, False)
        right = {key: be}
    if not is_right:
        yield find(settings, key, name, why, right if fix is None else fix, advice, severity)


def only(holds: Callable[[Settings, RuleContext], Any], row: Rule) -> Rule:
    """A rule that applies only if `holds` is true for the settings and the context."""
    return lambda settings, context: row(settings, context) if holds(settings, context) else iter(())


def above_zero(value: Any) -> bool:
    """Whether a period is a whole number above 0."""
    return isinstance(value, int) and value > 0


def is_set(value: Any) -> bool:
    """Whether a setting has a value."""
    return value is not None


def never(value: Any) -> bool:
    """For `must`: False, because no value of the setting is right."""
    return False


@rule
def rows(
    settings: Settings,
    context: RuleContext,
    key: str,
    needs: tuple[str, ...] = (),
    export: str = "",
    form: str = "parquet",
    renamed: str = "",
    folder: str = "",
) -> Iterator[Finding]:
    """In segment mode, the training set must be the round's file, with the columns that the trainer `needs`.

    If the round's file lacks them, or its columns are unknown, the fix is a file in the format `form` that
    `gaincurate export` writes with the options in `export`. No column counts as missing if the setting
    `renamed` names another one. For a trainer that reads a folder, `folder` is the advice on how to make it.
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
def begins(settings: Settings, context: RuleContext, key: str) -> Iterator[Finding]:
    """In segment mode, a round must start from the checkpoint of the last round."""
    value = settings.place(key) if context.segment and settings.is_given(key) else None
    if value and not Settings.follows(value, ("checkpoint", "output", "round")):
        yield find(settings, key, "base-model", fix={key: "{checkpoint}"})


@rule
def output(settings: Settings, context: RuleContext, key: str, below: str = "") -> Iterator[Finding]:
    """In segment mode, a round must write its checkpoint below {output}."""
    if context.segment and not Settings.follows(settings.place(key), ("output",)):
        yield find(settings, key, "output", fix={key: "{output}" + below})


def shuffle_refused(key: str) -> tuple[Rule, Rule]:
    """A round's rows must keep the plan's order; a live adapter refuses to start if they are shuffled."""
    stopped = "the adapter refuses to begin, because the order would not be the plan's"
    return (
        must(key, False, name="shuffle", modes=(*SEGMENT, "export")),
        must(key, False, stopped, name="shuffle", severity="stops", modes=LIVE),
    )


def always_shuffled(settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """The finding for a trainer that shuffles with any settings."""
    yield Finding("shuffle", "order", f"rows are always shuffled, and no setting changes it; {_ORDER_LOST}")


def reports(keys: tuple[str, ...], fix: dict[str, Any], advice: str) -> Rule:
    """The user's code, which one of the settings `keys` names, must report each prompt's rewards."""
    row = must(keys[0], never, name="outcomes", fix=fix, advice=advice)
    return only(lambda settings, _: not any(map(settings.is_set, keys)), row)


def unset_below(prefix: str, why: str = "", *, name: str, containing: str = "", advice: str = "") -> Rule:
    """A rule that no key with this prefix and the text `containing` is set; other arguments as in `must`."""

    def unset(settings: Settings, context: RuleContext) -> Iterator[Finding]:
        keys = [key for key in settings.below(prefix) if containing in key]
        fix = dict.fromkeys(sorted(key for key in keys if settings.given[key] is not None))
        for key in [*fix][:1]:
            yield from must(key, never, why, name=name, fix=fix, advice=advice)(settings, context)

    return unset


@rule
def resumes(
    settings: Settings,
    context: RuleContext,
    place: str,
    model: str,
    key: str = "",
    off: tuple[Any, ...] = (),
    fix: dict[str, Any] | None = None,
) -> Iterator[Finding]:
    """In segment mode, no round may resume: the step counter and the place in the file would come back.

    `place` is the setting for the checkpoints' folder, and `model` that for the model. `key` is the setting
    that resumes, and `off` has its values that do not. The fix is the first of these, or a folder per round.
    """
    if not context.segment or (key and settings[key] in off):
        return
    if not Settings.follows(settings.place(place), ("output", "round")):
        advice = f"the next round begins with the weights: {model}={{checkpoint}}"
        right = fix or ({key: off[0]} if key else {place: "{output}"})
        yield find(settings, (key, place) if key else place, "resume", "", right, advice)


@rule
def follows_run(settings: Settings, context: RuleContext, key: str) -> Iterator[Finding]:
    """In live mode, a setting must name the run's folder for the adapter, not a file."""
    value = str(settings.place(key) or "") if context.live else context.folder
    if not value or value.endswith((".parquet", ".jsonl", ".json", ".arrow")):
        yield find(settings, key, "no-run", fix={key: context.folder})


@rule
def unplugged(
    settings: Settings, context: RuleContext, key: str, fix: dict[str, Any], why: str
) -> Iterator[Finding]:
    """In live mode, a setting must name the adapter; without it, the trainer follows no schedule."""
    if context.live and "gaincurate" not in str(settings[key]) and not (context.running and settings[key]):
        yield find(settings, key, "adapter-missing", why, fix)


@rule
def tail(
    settings: Settings,
    context: RuleContext,
    key: str,
    per_step: Number | None = None,
    factor: Number | None = None,
    mini: str = "",
    unless: str = "",
) -> Iterator[Finding]:
    """The prompts of a step must divide a round, or the round's last prompts are not trained.

    `per_step` gives the prompts of a step (default: the value of `key`), and `factor` what `key` counts per
    prompt. `mini` is the setting for a mini-batch's prompts, at most a step's unless `unless` is set.
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
    """The largest divisor of a number that is not above `most`."""
    return max(size for size in range(1, min(most, number) + 1) if number % size == 0)


def aligned(budget: int, step: int) -> str:
    """Advice to start a run with the nearest budget that is a multiple of the prompts of a step."""
    below = budget // step * step
    nearest = below if below and budget - below <= below + step - budget else below + step
    return f"or start the run with `gaincurate schedule start --align-to {step} --budget {nearest}`"


@rule
def epochs(settings: Settings, context: RuleContext, key: str) -> Iterator[Finding]:
    """In segment mode, a round must be one pass over its file; live, a run has one pass for each round."""
    count, passes = settings.number(key), 1 if context.segment else context.rounds
    if context.mode == "export" or count is None or passes in (None, count):
        return
    why = f"the run has {passes} rounds, and a round is one pass here"
    if context.segment:
        why = f"each round would be trained {count:g} times, and report {count:g} times"
    yield find(settings, key, "epochs", why, {key: passes})


def steps(key: str, per_step: Number | str, *, more_is_fine: bool = False) -> Rule:
    """`length` for a trainer with `per_step` prompts per step, a setting or a function of the settings."""

    def each_round(settings: Settings, context: RuleContext) -> int | None:
        return context.steps(settings.count(per_step) if isinstance(per_step, str) else per_step(settings))

    return length(key, each_round, more_is_fine)


@rule
def length(
    settings: Settings,
    context: RuleContext,
    key: str,
    each_round: Callable[[Settings, RuleContext], int | None],
    more_is_fine: bool = False,
) -> Iterator[Finding]:
    """The limit on steps must be those of the round (live: of the run); `each_round` gives a round's."""
    if context.mode == "export" or not (each := each_round(settings, context)):
        return
    most, wanted = settings.number(key), each * ((context.rounds or 1) if context.live else 1)
    if most is None or most <= 0 or most == wanted or (more_is_fine and most > wanted):
        return
    is_few = most < wanted
    whole, few, many = "a round", "some rows are never trained", "rows are trained again"
    if context.live:
        whole, few = "the run", "the training ends before its last round"
        many = "there are no rows for the rest"
    why = f"{whole} has {wanted} steps, so {few if is_few else many}"
    # With too few steps, the training can resume and train the rest.
    severity: Severity = "cost" if context.live and is_few else "wrong"
    yield find(settings, key, "max-steps", why, {key: wanted}, "", severity)


@rule
def too_long(
    settings: Settings, context: RuleContext, key: str, happens: str, below: Number | None = None
) -> Iterator[Finding]:
    """No prompt may have more tokens than the trainer's limit: longer ones are dropped or cut.

    `happens` says which of the two, and `below` gives the tokens within the limit that are not the prompt's.
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
