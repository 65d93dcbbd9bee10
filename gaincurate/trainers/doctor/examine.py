"""The doctor: reads a trainer's settings, asks that trainer's rules, and lists the findings, worst first.

Rules see settings by the trainer's own keys and never run its code, so a trainer that is not installed can
be examined.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gaincurate.core.arrow import parquet_head
from gaincurate.core.artifact import broken
from gaincurate.errors import GaincurateError, InputError
from gaincurate.schedule.driver import NAMES
from gaincurate.schedule.run import Run
from gaincurate.trainers.doctor.findings import (
    SEVERITIES,
    Context,
    Finding,
    Mode,
    TrainerRules,
    ask,
    context_of,
)
from gaincurate.trainers.doctor.read import Read, read_settings
from gaincurate.trainers.doctor.rendering import compare_tokens, differences, unknown
from gaincurate.trainers.doctor.settings import Settings, shown
from gaincurate.trainers.names import folder_of, with_part
from gaincurate.trainers.profile import one_of, profile_of

_NAME = re.compile(rf"\{{({'|'.join(NAMES)})\}}")


def run_context(run: Run, mode: Mode, **more: Any) -> Context:
    """The facts of a run; `more` are other fields of the context.

    Without prompt lengths where `--without-system` makes the trainer's prompts shorter than the scored ones.

    Raises:
        OutputError: its scored set is not what it was.
    """
    try:
        data = run.data(run.round)
        columns = frozenset(parquet_head(data, broken(data))[0].names)
    except GaincurateError:  # no file that can be read
        columns = None
    more |= {"columns": columns, "folder": str(run.folder.resolve()), "scored": run.scored.identity}
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
    launched: bool = False

    @property
    def ok(self) -> bool:
        """Whether no finding would train on wrong rows, lose outcomes or stop the run."""
        return not any(finding.breaks for finding in self.findings)

    def lines(self, finding: Finding) -> list[str]:
        """The settings that fix a finding, as the trainer's launch line or file has them."""
        return written(trainer_named(self.trainer), finding.fix, self.launched)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values; `mend` is the format's name for a fix."""
        findings = [
            {**asdict(finding), "mend": dict(finding.fix), "write": self.lines(finding)}
            for finding in self.findings
        ]
        for finding in findings:
            del finding["fix"]
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
    read = read_settings(sources, trainer.launches, trainer.whole is not None, command)
    context = run_context(Run(run), mode) if run is not None else Context(mode)
    report = judge(trainer, read, context)
    if run is None:
        report.notes.append("sizes, lengths and tokens are not compared: --run RUN does that")
        return report
    settings, context = settings_of(trainer, read), _with_script(context, read)
    finding, note = compare_tokens(run, profile_of(name), settings, context)
    report.notes.append(note)
    return report if finding is None else replace(report, findings=worst_first([*report.findings, finding]))


def settings_of(trainer: TrainerRules, read: Read) -> Settings:
    """Settings over the defaults that hold for all other keys."""
    defaults = trainer.defaults
    if trainer.whole is not None and {key.split(".")[0] for key in defaults} <= read.sections:
        defaults = trainer.whole
    return Settings(read.given, defaults, read.sources)


def _with_script(context: Context, read: Read) -> Context:
    modules = [module for flag, module in pairwise(read.words) if flag == "-m"]
    script = next((word for word in read.words if word.endswith(".py")), (modules or [""])[0])
    return replace(context, script=script, shell=read.shell)


def judge(trainer: TrainerRules, read: Read, context: Context) -> Report:
    """Ask every rule of a trainer, and whether it renders the prompts that were scored."""
    settings, profile = settings_of(trainer, read), profile_of(trainer.name)
    if context.longest is not None and unknown(replace(profile.rendering, code=""), settings, context):
        context = replace(context, longest=None, longer_than=None)  # the trainer adds to the prompts
    context = _with_script(context, read)
    findings, unjudged = ask(trainer.rules, settings, context)
    rendered, unrendered = ask([lambda *asked: differences(profile, *asked)], settings, context)
    findings += rendered
    if context.group_size is not None and profile.group_size is None:
        title = (
            f"the plans of this run give each prompt a group size, and {profile.name} has one size for all"
        )
        advice = "start a run without group_sizes, or train with verl or a loop of your own"
        findings.append(Finding("group-sizes", "wrong", title, advice=advice))
    notes = list(dict.fromkeys([*read.notes, *unjudged, *unrendered]))
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
            "`gaincurate schedule run` fills in {data}, {round}, {checkpoint} and {output} in its command"
        )
    ordered = worst_first(findings)
    return Report(trainer.name, trainer.version, context.mode, ordered, notes, read.launched)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by severity, in the rules' order within one."""
    return sorted(findings, key=lambda finding: list(SEVERITIES).index(finding.severity))


def written(trainer: TrainerRules, fix: Mapping[str, Any], launched: bool) -> list[str]:
    """Settings as a launch line of the trainer, or a file, has them."""
    return [(_as_flag if launched else _as_line)(trainer, key, value) for key, value in fix.items()]


def _as_line(trainer: TrainerRules, key: str, value: Any) -> str:
    if Settings.follows(value):
        if not trainer.resolves:
            return f"on the command line: {_as_flag(trainer, key, value)}"
        value = _NAME.sub(lambda name: f"${{oc.env:GAINCURATE_{name[1].upper()}}}", shown(value))
    if trainer.toml:
        return f"without {key}" if value is None else f"{key} = {shown(value)}"
    return f"{key}: {shown(value)}"


def _as_flag(trainer: TrainerRules, key: str, value: Any) -> str:
    if trainer.style == "hydra":
        return f"{key}={shown(value)}"
    flag = "--" + (key.replace("_", "-") if trainer.style == "dashes" else key)
    is_switch = isinstance(value, bool) and trainer.style != "values"
    if value is None or (is_switch and not value):
        return f"without {flag}"
    words = value if isinstance(value, list) else [value]
    return " ".join([flag, *([] if is_switch else map(shown, words))])
