"""The doctor itself: reads a trainer's settings, asks that trainer's rules, and says what goes wrong, worst
first.

Rules see settings by the trainer's own keys and never run its code, so a trainer that is not installed can
be examined.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gaincurate.core.arrow import parquet_head
from gaincurate.core.artifact import broken
from gaincurate.core.options import near
from gaincurate.errors import GaincurateError, InputError
from gaincurate.schedule.driver import NAMES
from gaincurate.schedule.run import Run
from gaincurate.trainers.doctor.findings import (
    SEVERITIES,
    Context,
    Finding,
    Mode,
    Rule,
    TrainerRules,
    ask,
    context_of,
)
from gaincurate.trainers.doctor.read import Read, read_settings
from gaincurate.trainers.doctor.rendering import compare_tokens, differences, unknown
from gaincurate.trainers.doctor.settings import Settings, shown
from gaincurate.trainers.profile import profile_of, rules_module, with_rules


def facts_of(folder: Path, mode: Mode) -> Context:
    """What is known of a run.

    Without prompt lengths where `--without-system` makes the trainer's prompts shorter than the scored ones.

    Raises:
        InputError: it is no run.
        OutputError: its scored set is not what it was.
    """
    return run_context(Run(folder), mode)


def run_context(run: Run, mode: Mode, **more: Any) -> Context:
    """The same of an open run; `more` are other fields of the context."""
    more |= {"columns": _columns(run.data(run.round)), "folder": str(run.folder.resolve())}
    more["scored"] = run.scored.identity
    if not run.config.bare:
        lengths = run.scored.column("gc_prompt_tokens").combine_chunks().to_numpy(zero_copy_only=False)

        def longer_than(limit: float) -> list[str]:
            rows = np.flatnonzero(lengths > limit)
            return [str(gc_id) for gc_id in run.scored.column("gc_id").take(rows).to_pylist()]

        more |= {"longest": int(lengths.max()), "longer_than": longer_than}
    return context_of(run.config, mode, **more)


def _columns(data: Path) -> frozenset[str] | None:
    """What a round's file has; None where there is none that can be read."""
    try:
        return frozenset(parquet_head(data, broken(data))[0].names)
    except GaincurateError:
        return None


_NAME = re.compile(rf"\{{({'|'.join(NAMES)})\}}")
_FILLED_IN = (
    "{data}, {round}, {checkpoint} and {output} are what `gaincurate schedule run` fills in, in its command"
)


@dataclass(frozen=True)
class Report:
    """What the doctor says of one trainer's settings."""

    trainer: str
    version: str
    mode: Mode
    findings: list[Finding]
    notes: list[str]
    launched: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing would train on wrong rows, lose outcomes or stop the run."""
        return not any(finding.breaks for finding in self.findings)

    def lines(self, finding: Finding) -> list[str]:
        """The settings that fix a finding, as the trainer's launch line or file has them."""
        return written(trainer_named(self.trainer), finding.fix, self.launched)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        findings = [
            {
                "name": finding.name,
                "severity": finding.severity,
                "title": finding.title,
                "mend": dict(finding.fix),  # the format's name for it
                "advice": finding.advice,
                "write": self.lines(finding),
            }
            for finding in self.findings
        ]
        return {
            "trainer": self.trainer,
            "version": self.version,
            "mode": self.mode,
            "ok": self.ok,
            "findings": findings,
            "notes": self.notes,
        }


def trainer_named(name: str) -> TrainerRules:
    """A trainer that the doctor knows.

    Raises:
        InputError: there is none of that name.
    """
    names = with_rules()
    if name in names:
        rules: TrainerRules = rules_module(name).RULES
        return rules
    raise InputError(f"--trainer {name}: it must be one of {', '.join(names)}{near(name, names)}.")


def examine(
    name: str,
    sources: Sequence[str],
    mode: Mode = "segment",
    run: Path | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Read a trainer's settings and say what would go wrong.

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
    context = Context(mode)
    if run is not None:
        context = facts_of(run, mode)
    report = judge(trainer, read, context)
    if run is None:
        report.notes.append("sizes, lengths and tokens are not compared: --run RUN does that")
        return report
    finding, note = compare_tokens(
        run, profile_of(name), settings_of(trainer, read), _with_script(context, read)
    )
    report.notes.append(note)
    found = report.findings if finding is None else worst_first([*report.findings, finding])
    return replace(report, findings=found)


def settings_of(trainer: TrainerRules, read: Read) -> Settings:
    """Settings over the defaults that hold where they say nothing."""
    defaults = trainer.defaults
    if trainer.whole is not None and {key.split(".")[0] for key in defaults} <= read.sections:
        defaults = trainer.whole
    return Settings(read.given, defaults)


def _with_script(context: Context, read: Read) -> Context:
    modules = [module for flag, module in pairwise(read.words) if flag == "-m"]
    script = next((word for word in read.words if word.endswith(".py")), (modules or [""])[0])
    return replace(context, script=script, shell=read.shell)


def judge(trainer: TrainerRules, read: Read, context: Context) -> Report:
    """Ask every rule of a trainer, and whether it renders what was scored."""
    settings, rendering = settings_of(trainer, read), profile_of(trainer.name).rendering
    if context.longest is not None and unknown(replace(rendering, code=""), settings, context):
        context = replace(context, longest=None, longer_than=None)  # of prompts without what it adds
    rules: tuple[Rule, ...] = (*trainer.rules, partial(differences, profile_of(trainer.name)))
    findings, unjudged = ask(rules, settings, _with_script(context, read))
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
            f"those of {trainer.name} {trainer.version}. Check "
            "--trainer, and give the file or launch line that the trainer is started with."
        )
    if any(Settings.follows(value) for finding in findings for value in finding.fix.values()):
        notes.append(_FILLED_IN)
    findings = worst_first(findings)
    return Report(trainer.name, trainer.version, context.mode, findings, notes, read.launched)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by severity, in the rules' order within one."""
    ranks = {severity: rank for rank, severity in enumerate(SEVERITIES)}
    return sorted(findings, key=lambda finding: ranks[finding.severity])


def written(trainer: TrainerRules, fix: Mapping[str, Any], launched: bool) -> list[str]:
    """Settings as a launch line of the trainer, or a file, has them."""
    return [_written(trainer, key, value, launched) for key, value in fix.items()]


def _written(trainer: TrainerRules, key: str, value: Any, launched: bool) -> str:
    if not launched and Settings.follows(value) and not trainer.resolves:
        return f"on the command line: {_written(trainer, key, value, launched=True)}"
    if not launched and Settings.follows(value):
        value = _NAME.sub(lambda found: f"${{oc.env:GAINCURATE_{found[1].upper()}}}", shown(value))
    if not launched:
        equals = " = " if trainer.toml else ": "
        if trainer.toml and value is None:
            return f"without {key}"
        return f"{key}{equals}{shown(value)}"
    if trainer.style == "hydra":
        return f"{key}={shown(value)}"
    flag = "--" + (key.replace("_", "-") if trainer.style == "dashes" else key)
    if value is None or (value is False and trainer.style != "values"):
        return f"without {flag}"
    if value is True and trainer.style != "values":
        return flag
    return f"{flag} {' '.join(map(shown, value)) if isinstance(value, list) else shown(value)}"
