"""The doctor: reads a trainer's settings, applies that trainer's rules, and lists the findings, worst first.

Rules never run a trainer's code, so the trainer need not be installed. With a run, the prompts are rendered
and compared with the scored ones. Text that the doctor cannot see, such as tools from a file, is a mismatch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gaincurate.core.arrow import parquet_head
from gaincurate.core.artifact import broken
from gaincurate.core.foreign import yaml_value
from gaincurate.core.prompts import Columns, chats_of, column_values, read_rows, to_messages
from gaincurate.errors import GaincurateError, InputError
from gaincurate.schedule.run import Run
from gaincurate.scoring.model import is_failure
from gaincurate.trainers.columns import has_nulls, json_text
from gaincurate.trainers.doctor.common import find
from gaincurate.trainers.doctor.findings import (
    SEVERITIES,
    Finding,
    Mode,
    Rule,
    RuleContext,
    Style,
    ask,
    context_of,
    defaults_of,
)
from gaincurate.trainers.doctor.read import Read, read_settings
from gaincurate.trainers.doctor.settings import NotKnown, Settings, flat, shown
from gaincurate.trainers.names import with_part
from gaincurate.trainers.profile import Profile, Rendering, one_of, profiles

_ROWS = 16  # prompts whose tokens are compared


def run_context(run: Run, mode: Mode, **more: Any) -> RuleContext:
    """The facts of a run for the rules; `more` has further fields of the context.

    It has no prompt lengths if `--without-system` makes the trainer's prompts shorter than the scored ones.
    Raises OutputError if the run's scored set has changed.
    """
    data = run.data(run.round)
    with suppress(GaincurateError):  # raised if there is no file, or it cannot be read
        more["columns"] = frozenset(parquet_head(data, broken(data))[0].names)
    more |= {"folder": str(run.folder.resolve()), "scored": run.scored.identity}
    if run.round >= 0 and (sizes := run.rollouts(run.round)) is not None:
        step = run.config.align_to if run.config.align_to > 1 else len(sizes)
        more |= {"group_size": sum(sizes) // len(sizes), "step": step}
    if not run.config.bare:
        lengths = run.scored.column("gc_prompt_tokens").combine_chunks().to_numpy(zero_copy_only=False)

        def longer_than(limit: float) -> list[str]:
            rows = np.flatnonzero(lengths > limit)
            return [str(gc_id) for gc_id in run.scored.column("gc_id").take(rows).to_pylist()]

        more |= {"longest": int(lengths.max()), "longer_than": longer_than}
    return context_of(run.config, mode, **more)


@dataclass(frozen=True)
class Report:
    """The doctor's findings about one trainer's settings."""

    trainer: str
    version: str
    mode: Mode
    findings: list[Finding]
    notes: list[str]
    style: Style = ""

    @property
    def ok(self) -> bool:
        """Whether no finding breaks the schedule (see `Finding.breaks`)."""
        return not any(finding.breaks for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The report as plain values; in this format, a fix has the key `mend`."""
        findings = [{**asdict(each), "write": written(self.style, each.fix)} for each in self.findings]
        findings = [each | {"mend": each.pop("fix")} for each in findings]
        facts = {"trainer": self.trainer, "version": self.version, "mode": self.mode, "ok": self.ok}
        return {**facts, "findings": findings, "notes": self.notes}


def trainer_named(name: str) -> Profile:
    """The profile of a trainer that has rules; raises InputError for another name."""
    return profiles()[one_of("--trainer", name, with_part("rules"))]


def examine(
    name: str,
    sources: Sequence[str],
    mode: Mode = "segment",
    run: Path | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Read the settings of the trainer `name` and list what would go wrong.

    `sources` are configuration files and scripts (`-` is standard input); later ones override earlier ones.
    `command`, the words of the trainer's command or only its flags, overrides all of them. Sizes are compared
    with those of `run`, a folder. Raises InputError if a source, the command or the mode cannot be used.
    """
    trainer = trainer_named(name)
    if mode == "live" and not trainer.live:
        raise InputError(f"--mode live: {name} has no live adapter; use --mode segment.")
    read = read_settings(sources, trainer.launches, command)
    opened = None if run is None else Run(run)
    report = judge(trainer, read, run_context(opened, mode) if opened else RuleContext(mode), opened)
    if opened is None:
        report.notes.append("sizes, lengths and tokens are not compared: --run RUN does that")
    return report


def judge(trainer: Profile, read: Read, context: RuleContext, run: Run | None = None) -> Report:
    """Apply a trainer's rules, and check its prompts: by its settings, and with `run` by their tokens."""
    shipped, version = defaults_of(trainer.name), f"{trainer.name} {trainer.version}"
    is_whole = {key.split(".")[0] for key in shipped} <= read.sections
    settings = Settings(read.given, (is_whole and trainer.whole) or shipped, read.sources)
    if additions(trainer.rendering, settings, context):
        context = replace(context, longest=None, longer_than=None)
    started = [word for word in read.words if word.endswith(".py") and "=" not in word]
    started += [module for flag, module in pairwise(read.words) if flag == "-m"]
    context = replace(context, script=[*started, ""][0], shell=read.shell)
    rules: list[Rule] = [*trainer.rules, partial(template_arguments, trainer), partial(tools, trainer)]
    findings, unjudged = ask(rules, settings, context)
    if context.group_size is not None and trainer.group_size is None:
        title = f"the plans of this run give each prompt a group size, and {trainer.name} has one for all"
        advice = "start a run without group_sizes, or train with verl or a loop of your own"
        findings.append(Finding("group-sizes", "wrong", title, advice=advice))
    notes = list(dict.fromkeys([*read.notes, *unjudged]))
    unset = [key for key in settings.defaults if not settings.is_given(key)]
    unread = [key for key in settings.given if key not in settings.defaults]
    moved = [(key, other) for key in unread for other in unset if other.endswith(f".{key}")]
    if moved:
        names = ", ".join(f"{key} (did you mean {other}?)" for key, other in moved)
        notes.insert(0, f"not settings of {version} that are read here: {names}")
    if settings.given and not settings.given.keys() & (settings.asked | shipped.keys()):
        raise InputError(
            f"--config: none of its settings ({', '.join(list(settings.given)[:3])}) is known; the names are "
            f"those of {version}. Check --trainer, and give the file or launch line that starts the trainer."
        )
    if any(Settings.follows(value) for finding in findings for value in finding.fix.values()):
        notes.append(
            "`gaincurate schedule run` fills in {data}, {round}, {checkpoint} and {output} in its command, "
            "not in files"
        )
    if run is not None:
        differing, note = compare_tokens(run, trainer, settings, context)
        findings += differing
        notes.append(f"tokens: {note}")
    findings.sort(key=lambda finding: list(SEVERITIES).index(finding.severity))
    style: Style = trainer.style if read.words else ""
    return Report(trainer.name, trainer.version, context.mode, findings, notes, style)


def written(style: Style, fix: Mapping[str, Any]) -> list[str]:
    """Settings in the style of the trainer's launch line; without a style as KEY=VALUE."""

    def flag(key: str, value: Any) -> str:
        name = "--" + (key.replace("_", "-") if style == "dashes" else key)
        is_switch = isinstance(value, bool) and style != "values"
        if value is None or (is_switch and not value):
            return f"without {name}"
        words = value if isinstance(value, list) else [value]
        return " ".join([name, *([] if is_switch else map(shown, words))])

    return [flag(key, value) if style else f"{key}={shown(value)}" for key, value in fix.items()]


def template_arguments(trainer: Profile, settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """The trainer must give the chat template the arguments that the prompts were scored with."""
    rendering = trainer.rendering
    if context.scored is None or (rendering.code and not rendering.arguments):
        return
    scored = context.scored.get("segmentation", {}).get("template_kwargs") or {}
    wanted = {key: value for key, value in flat(scored).items() if value is not None}
    key, given = rendering.arguments, _arguments(rendering, settings) if rendering.arguments else {}
    if given == wanted:
        return
    differing = sorted(name for name in {**given, **wanted} if given.get(name) != wanted.get(name))
    fix: dict[str, Any] = {}
    if rendering.argument:
        fix = {key: wanted.get(rendering.argument)} if differing == [rendering.argument] else {}
    elif key and "." not in key and not any(settings.below(f"{key}.")):
        fix = {key: json_text(wanted)}
    elif key:
        fix = {f"{key}.{name}": wanted.get(name) for name in differing}
    title = f"{key or f'{trainer.name}, which takes none,'} gives the chat template {json_text(given)}, but "
    title += f"prompts were scored with {json_text(wanted)}: the model reads other prompts than were scored"
    advice = f"or score the set again with --template-kwargs '{json_text(given)}'"
    source = settings.source(key, *settings.below(f"{key}."))
    yield Finding("template-arguments", "wrong", title, fix, advice, source)


def _arguments(rendering: Rendering, settings: Settings) -> dict[str, Any]:
    """The arguments of the chat template by dotted name; raises NotKnown if the value is no mapping."""
    key = rendering.arguments
    value = settings[key]
    if rendering.argument:
        return {} if value is None else {rendering.argument: value}
    # JSON, YAML, or a mapping as Hydra writes it, which needs no space after a colon.
    for form in (value, re.sub(r":(?=\S)", ": ", value)) if isinstance(value, str) else ():
        with suppress(ValueError):
            tree = yaml_value(form)
            if isinstance(tree, dict) and not any(":" in str(name) for name in tree):
                value = tree
                break
    if not isinstance(value, dict | None):
        raise NotKnown(key, shown(value), "which is no mapping")
    given = flat(value or {})
    given |= {below[len(key) + 1 :]: settings[below] for below in settings.below(f"{key}.")}
    return {name: value for name, value in given.items() if value is not None}


def tools(trainer: Profile, settings: Settings, context: RuleContext) -> Iterator[Finding]:
    """The trainer must render the tools that each row was scored with."""
    if context.scored is None:
        return
    rendering, column = trainer.rendering, context.scored["source"].get("tools_column")
    why, key = f"prompts were scored with the tools of column {column!r}", rendering.row_tools
    if column and not (key or rendering.code or additions(rendering, settings, context)):
        advice = "score the set again with --tools-column none, or with the tools in the trainer's settings"
        why += f", and {trainer.name} renders no tools of a row"
        yield Finding("tools", "wrong", why, advice=advice)
    elif key and column and settings[key] not in ("tools", column):
        yield find(settings, key, "tools", why, {key: "tools"})
    elif key and not column and settings[key] in list(context.columns or ()):  # it may be a list itself
        why = "the rows have that column, and prompts were scored without tools"
        advice = f"or score the set again with --tools-column {settings[key]}"
        yield find(settings, key, "tools", why, {key: "none"}, advice)


def additions(rendering: Rendering, settings: Settings, context: RuleContext) -> list[str]:
    """Clauses that name text which the trainer adds to the prompts and the doctor cannot see."""
    added = (key for key in rendering.adds if settings.is_set(key) and settings.known(key) != "default")
    clauses = [f"{settings.in_words(key)}, which adds to the prompts" for key in added]
    media = (name for name in rendering.media if name in (context.columns or ()))
    return clauses + [f"the trainer adds the column {name!r} to the prompts" for name in media]


def compare_tokens(
    run: Run, trainer: Profile, settings: Settings, context: RuleContext
) -> tuple[list[Finding], str]:
    """Render the newest round's first prompts as the trainer does, and compare their tokens with the scored.

    Returns a finding for the first prompt that differs, and a note on the comparison, or why there was none.
    """
    rendering, model, round_ = trainer.rendering, run.config.model, run.round
    rules: tuple[Rule, ...] = (partial(template_arguments, trainer), partial(tools, trainer))
    differing, unknown = ask(rules, settings, context)
    if not unknown:
        unknown += additions(rendering, settings, context)
        unknown += [f"{rendering.code} renders the prompts"] if rendering.code else []
        unknown += ["the trainer renders other prompts than were scored"] if differing else []
    unknown += ["the run has no round yet"] if round_ < 0 else []
    unknown += ["--without-system leaves out a part of the scored prompt"] if run.config.bare else []
    if model is None or not Path(model).is_dir():
        unknown.append(f"{model or 'the model'} is not a folder on this machine")
    if unknown or model is None:
        return [], f"not compared: {'; '.join(unknown)}"
    table = read_rows(run.data(round_)).slice(0, _ROWS)
    ids: list[Any] = table.column("gc_id").to_pylist() if "gc_id" in table.column_names else [None]
    if not all(isinstance(each, str) for each in ids) or set(ids) != set(run.ids(round_)[: len(ids)]):
        return [], f"not compared: {run.data(round_)} has other prompts than the plan"
    identity, rows = run.scored.identity, run.scored.rows(ids)
    arguments = identity.get("segmentation", {}).get("template_kwargs") or {}
    scored = zip(rows.column("gc_prompt_tokens").to_pylist(), chats_of(rows, identity), strict=True)
    column = Columns.of(identity).tools
    row_tools = column_values(table, column) if column else [None] * len(ids)
    # A trainer that reads JSON lines directly renders only the nulls that were scored; Arrow adds others.
    keeps = bool(rendering.nulls) and not str(settings.known(rendering.nulls)).endswith(".jsonl")
    try:
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(model)

        def tokens(messages: list[Any], tools: list[Any] | None) -> list[int]:
            text = tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True, **arguments
            )
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        prompts = zip(ids, table.column("prompt").to_pylist(), row_tools, scored, strict=True)
        for gc_id, messages, its_tools, (count, chat) in prompts:
            rendered = its_tools if keeps and isinstance(its_tools, list) and chat.tools else chat.tools
            trained = tokens(messages if keeps else to_messages(messages), rendered)
            if len(trained) == count and trained == tokens(chat.messages, chat.tools):
                continue
            how = "has other tokens than when it was scored"
            if len(trained) != count:
                how = f"is {len(trained)} tokens, but was scored as {count}"
            name, why = "tokens", "the trainer would read something else than was scored"
            advice = "score the set again with this model's tokenizer, or train with the one that scored it"
            if keeps and has_nulls([messages, rendered]):
                name, advice = "nulls", "store tool calls and tools as JSON text"
                why = f"{trainer.name} renders null for each key of tools that only other rows have"
                if rendering.nulls != "all":
                    lines = f"`gaincurate export RUN --trainer {trainer.name}`"
                    advice = f"export the rounds as lines of JSON: {lines}, or {advice}"
            title = f"by the chat template of {model} the prompt of {gc_id} {how}: {why}"
            return [Finding(name, "wrong", title, advice=advice)], f"{gc_id} differs"
    except BaseException as error:  # a template is a program, a file may be broken
        if not is_failure(error):
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        return [], f"not compared: {model} cannot render them ({why})"
    unseen = f"; tools that {context.script} adds are not seen" if context.script.endswith(".py") else ""
    return [], f"{len(ids)} prompts of round {round_} are token for token as they were scored{unseen}"
