"""The doctor: reads a trainer's settings, asks that trainer's rules, and lists the findings, worst first.

Rules see settings by the trainer's own keys and never run its code, so a trainer that is not installed can
be examined.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gaincurate.core.arrow import parquet_head
from gaincurate.core.artifact import broken
from gaincurate.core.foreign import yaml_value
from gaincurate.errors import GaincurateError, InputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.doctor.findings import (
    SEVERITIES,
    Context,
    Finding,
    Found,
    Mode,
    TrainerRules,
    ask,
    context_of,
)
from gaincurate.trainers.doctor.read import Read, read_settings
from gaincurate.trainers.doctor.settings import NotKnown, Settings, flat, shown
from gaincurate.trainers.names import folder_of, with_part
from gaincurate.trainers.profile import Profile, Rendering, one_of, profile_of


def run_context(run: Run, mode: Mode, **more: Any) -> Context:
    """The facts of a run; `more` are other fields of the context.

    Without prompt lengths where `--without-system` makes the trainer's prompts shorter than the scored ones.

    Raises:
        OutputError: its scored set is not what it was.
    """
    try:
        data = run.data(run.round)
        more["columns"] = frozenset(parquet_head(data, broken(data))[0].names)
    except GaincurateError:  # no file that can be read
        pass
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

    @property
    def ok(self) -> bool:
        """Whether no finding would train on wrong rows, lose outcomes or stop the run."""
        return not any(finding.breaks for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values; `mend` is the format's name for a fix."""
        findings = [asdict(finding) for finding in self.findings]
        for finding in findings:
            finding["mend"] = finding.pop("fix")
        facts = {"trainer": self.trainer, "version": self.version, "mode": self.mode, "ok": self.ok}
        return {**facts, "findings": findings, "notes": self.notes}


def trainer_named(name: str) -> TrainerRules:
    """The rules of a trainer.

    Raises:
        InputError: there are none for this name.
    """
    folder = folder_of(one_of("--trainer", name, with_part("rules")))
    rules: TrainerRules = importlib.import_module(f"gaincurate.trainers.{folder}.rules").RULES
    return rules


def examine(
    name: str,
    sources: Sequence[str],
    mode: Mode = "segment",
    run: Path | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Read a trainer's settings and list what would go wrong.

    Args:
        name: the trainer's.
        sources: configuration files and scripts, later ones over earlier ones; `-` is standard input.
        mode: `segment` for one process a round, `live` for one long one with our adapter, `export`.
        run: a run's folder, to compare numbers with.
        command: words of the trainer's command, or its flags alone, over all sources.

    Raises:
        InputError: a trainer, a mode, a file or a run that cannot be used.
    """
    trainer = trainer_named(name)
    if mode == "live" and not trainer.live:
        raise InputError(
            f"--mode live: {name} has no place where a schedule could be plugged in while it runs; use "
            "--mode segment."
        )
    read = read_settings(sources, trainer.launches, command)
    report = judge(trainer, read, Context(mode) if run is None else run_context(Run(run), mode))
    if run is None:
        report.notes.append("sizes, lengths and prompts are not compared: --run RUN does that")
    return report


def judge(trainer: TrainerRules, read: Read, context: Context) -> Report:
    """Ask every rule of a trainer, and whether it renders the prompts that were scored."""
    defaults, profile = trainer.defaults, profile_of(trainer.name)
    if trainer.whole is not None and {key.split(".")[0] for key in defaults} <= read.sections:
        defaults = trainer.whole
    settings = Settings(read.given, defaults, read.sources)
    if _adds_text(profile.rendering, settings, context):
        context = replace(context, longest=None, longer_than=None)
    modules = [module for flag, module in pairwise(read.words) if flag == "-m"]
    script = next((word for word in read.words if word.endswith(".py")), (modules or [""])[0])
    context = replace(context, script=script, shell=read.shell)
    findings, unjudged = ask([*trainer.rules, partial(_template_arguments, profile)], settings, context)
    if context.group_size is not None and profile.group_size is None:
        title = (
            f"the plans of this run give each prompt a group size, and {profile.name} has one size for all"
        )
        advice = "start a run without group_sizes, or train with verl or a loop of your own"
        findings.append(Finding("group-sizes", "wrong", title, advice=advice))
    notes = list(dict.fromkeys([*read.notes, *unjudged]))
    unset = [key for key in settings.defaults if not settings.is_given(key)]
    unread = [key for key in settings.given if key not in settings.defaults]
    moved = [(key, other) for key in unread for other in unset if other.endswith(f".{key}")]
    if moved:
        names = ", ".join(f"{key} (did you mean {other}?)" for key, other in moved)
        notes.insert(0, f"not settings of {trainer.name} {trainer.version} that are read here: {names}")
    if settings.given and not settings.given.keys() & (settings.asked | trainer.defaults.keys()):
        raise InputError(
            f"--config: none of its settings ({', '.join(list(settings.given)[:3])}) is known; the names are "
            f"those of {trainer.name} {trainer.version}. Check --trainer, and give the file or launch line "
            "that the trainer is started with."
        )
    if any(Settings.follows(value) for finding in findings for value in finding.fix.values()):
        notes.append(
            "`gaincurate schedule run` fills in {data}, {round}, {checkpoint} and {output} in its command, "
            "not in files"
        )
    findings.sort(key=lambda finding: list(SEVERITIES).index(finding.severity))
    return Report(trainer.name, trainer.version, context.mode, findings, notes)


def _template_arguments(profile: Profile, settings: Settings, context: Context) -> Found:
    """The arguments of the chat template, where they are not those of the scored set."""
    rendering = profile.rendering
    if context.scored is None or (rendering.code and not rendering.arguments):
        return None
    scored = context.scored.get("segmentation", {}).get("template_kwargs") or {}
    wanted = {key: value for key, value in flat(scored).items() if value is not None}
    key, given = rendering.arguments, _arguments(rendering, settings) if rendering.arguments else {}
    if given == wanted:
        return None
    differing = {name for name in {**given, **wanted} if given.get(name) != wanted.get(name)}
    fix: dict[str, Any] = {}
    if rendering.argument:
        fix = {key: wanted.get(rendering.argument)} if differing == {rendering.argument} else {}
    elif key and "." not in key and not any(settings.below(f"{key}.")):
        fix = {key: _json(wanted)}
    elif key:
        fix = {f"{key}.{name}": wanted.get(name) for name in sorted(differing)}
    title = f"{key or f'{profile.name}, which takes none,'} gives the chat template {_json(given)}, but "
    title += f"prompts were scored with {_json(wanted)}: the model reads other prompts than were scored"
    advice = f"or score the set again with --template-kwargs '{_json(given)}'"
    source = settings.source(key, *settings.below(f"{key}."))
    return Finding("template-arguments", "wrong", title, fix, advice, source)


def _adds_text(rendering: Rendering, settings: Settings, context: Context) -> bool:
    """Whether a trainer adds text to the prompts that the doctor does not know."""
    if not set(rendering.media).isdisjoint(context.columns or ()):
        return True
    return any(settings.is_set(key) and settings.known(key) != "default" for key in rendering.adds)


def _arguments(rendering: Rendering, settings: Settings) -> dict[str, Any]:
    """The arguments of the chat template by dotted name.

    Raises:
        NotKnown: a value that only a shell knows, or that is no mapping.
    """
    key = rendering.arguments
    value = settings[key]
    if rendering.argument:
        return {} if value is None else {rendering.argument: value}
    value = _mapping(key, value) if isinstance(value, str) else value
    if not isinstance(value, dict | None):
        raise NotKnown(key, shown(value), "which is no mapping")
    given = flat(value or {})
    given |= {below[len(key) + 1 :]: settings[below] for below in settings.below(f"{key}.")}
    return {name: value for name, value in given.items() if value is not None}


def _mapping(key: str, text: str) -> Any:
    """JSON, YAML, or Hydra's form of a mapping, which needs no space after a colon."""
    for form in (text, re.sub(r":(?=\S)", ": ", text)):
        try:
            value = yaml_value(form)
        except ValueError:
            continue
        if isinstance(value, dict) and not any(":" in str(name) for name in value):
            return value
    raise NotKnown(key, text, "which is no mapping")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
