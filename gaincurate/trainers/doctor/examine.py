"""The doctor itself: takes a trainer's name, its settings and a run, yields what goes wrong, worst first."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gaincurate.errors import InputError
from gaincurate.schedule.driver import NAMES
from gaincurate.trainers.doctor import areal, nemo_rl, openrlhf, prime_rl, skyrl, slime, trinity, trl, verl
from gaincurate.trainers.doctor.findings import SEVERITIES, About, Finding, Mode, Trainer
from gaincurate.trainers.doctor.read import Read, read_settings
from gaincurate.trainers.doctor.settings import NotKnown, Settings, shown

_NAME = re.compile(rf"\{{({'|'.join(NAMES)})\}}")
_MODULES = (trl, verl, openrlhf, nemo_rl, skyrl, slime, prime_rl, trinity, areal)
DOCTORED: dict[str, Trainer] = {module.TRAINER.name: module.TRAINER for module in _MODULES}
"""The trainers whose settings are known."""
_CLOSE = 0.7  # of the words that differ
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
        """The settings that mend a finding, as the trainer's launch line or file has them."""
        return written(DOCTORED[self.trainer], finding.mend, self.launched)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        found = [{**asdict(one), "mend": dict(one.mend), "write": self.lines(one)} for one in self.findings]
        return {
            "trainer": self.trainer,
            "version": self.version,
            "mode": self.mode,
            "ok": self.ok,
            "findings": found,
            "notes": self.notes,
        }


def trainer_named(name: str) -> Trainer:
    """A trainer that the doctor knows.

    Raises:
        InputError: there is none of that name.
    """
    if name in DOCTORED:
        return DOCTORED[name]
    close = difflib.get_close_matches(name, DOCTORED, n=1, cutoff=0.6)
    meant = f" Did you mean {close[0]}?" if close else ""
    raise InputError(f"--trainer {name}: its settings are not known; {', '.join(DOCTORED)} are.{meant}")


def examine(name: str, sources: Sequence[str], mode: Mode = "segment", run: Path | None = None) -> Report:
    """Read a trainer's settings and say what would go wrong.

    Args:
        name: the trainer's.
        sources: configuration files and launch lines, later ones over earlier ones; `-` is standard input.
        mode: `segment` for one process a round, `live` for one long one with our adapter, `export`.
        run: a run's folder, to compare numbers with.

    Raises:
        InputError: a trainer, a mode, a file or a run that cannot be used.
    """
    trainer = trainer_named(name)
    if mode == "live" and not trainer.live:
        raise InputError(
            f"--mode live: {name} has no place where a schedule could be plugged in while it runs; use "
            "--mode segment."
        )
    read = read_settings(sources, trainer.launches)
    about = About(mode)
    if run is not None:
        from gaincurate.trainers.doctor.facts import facts_of

        about = facts_of(run, mode)
    report = judge(trainer, read, about)
    if run is None:
        report.notes.append("sizes, lengths and tokens are not compared: --run RUN does that")
        return report
    from gaincurate.trainers.doctor.tokens import compare_tokens

    finding, note = compare_tokens(run)
    report.notes.append(note)
    found = report.findings if finding is None else worst_first([*report.findings, finding])
    return Report(report.trainer, report.version, mode, found, report.notes, report.launched)


def judge(trainer: Trainer, read: Read, about: About) -> Report:
    """Ask every rule of a trainer."""
    settings = Settings(read.given, trainer.defaults)
    findings: list[Finding] = []
    notes = list(read.notes)
    for rule in trainer.rules:
        try:
            found = rule(settings, about)
            if isinstance(found, Finding):
                findings.append(found)
            elif found is not None:
                findings.extend(found)
        except NotKnown as unknown:
            if str(unknown) not in notes:
                notes.append(str(unknown))
    if unread := misspelt(trainer, settings):
        notes.insert(0, unread)
    if not any(key in settings.defaults for key in settings.given):
        notes.insert(0, "none of the settings that the rules read is set: all of this is about the defaults")
    if any(Settings.follows(value) for finding in findings for value in finding.mend.values()):
        notes.append(_FILLED_IN)
    return Report(trainer.name, trainer.version, about.mode, worst_first(findings), notes, read.launched)


def misspelt(trainer: Trainer, settings: Settings) -> str | None:
    """Settings that no rule reads and that look like one that a rule does and that is not set; as a note.

    A trainer has many more settings than the rules read, so only a close one is named, and none that differs
    by another word (`eval_steps` is not meant to be `save_steps`).
    """
    free = [key for key in settings.defaults if not settings.is_given(key)]
    meant = {key: _meant(key, free) for key in settings.given if key not in settings.defaults}
    named = [
        f"{_option(trainer, key)} (did you mean {_option(trainer, near)}?)"
        for key, near in meant.items()
        if near
    ]
    if not named:
        return None
    return f"not settings of {trainer.name} {trainer.version} that are read here: {', '.join(named)}"


def _meant(key: str, known: Iterable[str]) -> str | None:
    """The known key that an unknown one stands for, if one is close."""
    head, _, last = key.rpartition(".")
    for one in known:
        if one.endswith(f".{key}") or one.replace(".", "_") == key:
            return one
    parts: dict[str, str] = {}
    for one in known:
        before, _, end = one.rpartition(".")
        if (not head or before == head) and _one_word(last, end):
            parts.setdefault(end, one)
    close = difflib.get_close_matches(last, parts, n=1, cutoff=0.8)
    return parts[close[0]] if close else None


def _one_word(left: str, right: str) -> bool:
    """Whether what differs could be one word: `data` and `dataset`, but not `micro` and `mini`."""
    ours, theirs = left.split("_"), right.split("_")
    for end in (0, -1):
        while ours and theirs and ours[end] == theirs[end]:
            del ours[end], theirs[end]
    return difflib.SequenceMatcher(None, "_".join(ours), "_".join(theirs)).ratio() >= _CLOSE


def _option(trainer: Trainer, key: str) -> str:
    """A key as the trainer's launch line names it."""
    if trainer.style == "hydra":
        return key
    return "--" + (key.replace("_", "-") if trainer.style == "dashes" else key)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by severity, in the rules' order within one."""
    ranks = {severity: rank for rank, severity in enumerate(SEVERITIES)}
    return sorted(findings, key=lambda finding: ranks[finding.severity])


def written(trainer: Trainer, mend: Mapping[str, Any], launched: bool) -> list[str]:
    """Settings as a launch line of the trainer, or a file, has them."""
    return [_written(trainer, key, value, launched) for key, value in mend.items()]


def _written(trainer: Trainer, key: str, value: Any, launched: bool) -> str:
    if not launched and Settings.follows(value) and not trainer.resolves:
        return f"on the command line: {_written(trainer, key, value, launched=True)}"
    if not launched and Settings.follows(value):
        value = _NAME.sub(lambda found: f"${{oc.env:GAINCURATE_{found[1].upper()}}}", shown(value))
    if not launched:
        equals = " = " if trainer.name == "prime-rl" else ": "
        if trainer.name == "prime-rl" and value is None:
            return f"without {key}"
        return f"{key}{equals}{shown(value)}"
    if trainer.style == "hydra":
        return f"{key}={shown(value)}"
    flag = _option(trainer, key)
    if value is None or (value is False and trainer.style != "values"):
        return f"without {flag}"
    if value is True and trainer.style != "values":
        return flag
    return f"{flag} {' '.join(map(shown, value)) if isinstance(value, list) else shown(value)}"
