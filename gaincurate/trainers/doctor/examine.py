"""The doctor: reads a trainer's settings, asks that trainer's rules, and lists the findings, worst first.

Rules see settings by the trainer's own keys and never run its code, so a trainer that is not installed can
be examined.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gaincurate.core.arrow import parquet_head
from gaincurate.core.artifact import broken
from gaincurate.errors import GaincurateError, InputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.doctor.findings import (
    SEVERITIES,
    Context,
    Finding,
    Mode,
    Style,
    TrainerRules,
    ask,
    context_of,
)
from gaincurate.trainers.doctor.read import Read, read_settings
from gaincurate.trainers.doctor.rendering import additions, compare_tokens, template_arguments, tools
from gaincurate.trainers.doctor.settings import Settings, shown
from gaincurate.trainers.names import folder_of, with_part
from gaincurate.trainers.profile import one_of, profile_of


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
    style: Style = ""

    @property
    def ok(self) -> bool:
        """Whether no finding would train on wrong rows, lose outcomes or stop the run."""
        return not any(finding.breaks for finding in self.findings)

    def lines(self, finding: Finding) -> list[str]:
        """The settings that fix a finding, as the trainer takes them."""
        return written(self.style, finding.fix)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values; `mend` is the format's name for a fix."""
        findings = [{**asdict(finding), "write": self.lines(finding)} for finding in self.findings]
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
    if run is not None:
        opened = Run(run)
        return judge(trainer, read, run_context(opened, mode), opened)
    report = judge(trainer, read, Context(mode))
    report.notes.append("sizes, lengths and tokens are not compared: --run RUN does that")
    return report


def judge(trainer: TrainerRules, read: Read, context: Context, run: Run | None = None) -> Report:
    """Ask every rule of a trainer, and whether it renders the scored prompts; with `run` by their tokens."""
    defaults, profile = trainer.defaults, profile_of(trainer.name)
    if trainer.whole is not None and {key.split(".")[0] for key in defaults} <= read.sections:
        defaults = trainer.whole
    settings = Settings(read.given, defaults, read.sources)
    if additions(profile.rendering, settings, context):
        context = replace(context, longest=None, longer_than=None)
    modules = [module for flag, module in pairwise(read.words) if flag == "-m"]
    scripts = [word for word in read.words if word.endswith(".py") and "=" not in word]
    script = (scripts or modules or [""])[0]
    context = replace(context, script=script, shell=read.shell)
    findings, unjudged = ask(
        [*trainer.rules, partial(template_arguments, profile), partial(tools, profile)], settings, context
    )
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
    if run is not None:
        finding, note = compare_tokens(run, profile, settings, context)
        findings += [finding] if finding else []
        notes.append(note)
    findings.sort(key=lambda finding: list(SEVERITIES).index(finding.severity))
    style = trainer.style if read.words else ""
    return Report(trainer.name, trainer.version, context.mode, findings, notes, style)


def written(style: Style, fix: Mapping[str, Any]) -> list[str]:
    """Settings as the trainer's launch line has them; without a style as KEY=VALUE."""
    return [_flag(style, key, value) if style else f"{key}={shown(value)}" for key, value in fix.items()]


def _flag(style: Style, key: str, value: Any) -> str:
    flag = "--" + (key.replace("_", "-") if style == "dashes" else key)
    is_switch = isinstance(value, bool) and style != "values"
    if value is None or (is_switch and not value):
        return f"without {flag}"
    words = value if isinstance(value, list) else [value]
    return " ".join([flag, *([] if is_switch else map(shown, words))])
