"""The parts of rules about a trainer's settings: findings, the facts of a run, and the two callers.

A rule is written once and applied twice: by the doctor to a file before a training, and by a live adapter to
the trainer's resolved settings at run time. The doctor lists all findings. The adapter refuses those that
break the schedule, in one error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from gaincurate.core.foreign import json_file
from gaincurate.errors import InputError
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.trainers.doctor.settings import NotKnown, Settings, shown

Mode = Literal["live", "segment", "export"]
Style = Literal["", "values", "switches", "dashes"]
Severity = Literal["wrong", "stale", "stops", "order", "cost"]
SEVERITIES: dict[Severity, str] = {
    "wrong": "trains on other rows than planned, or loses outcomes",
    "stale": "trains on rows of an older plan",
    "stops": "the run cannot go on",
    "order": "the rows are right, their order is not",
    "cost": "works, but costs something or means something else than it may seem",
}
"""Worst first."""
BREAKS: tuple[Severity, ...] = ("wrong", "stale", "stops")
"""With one of these, the doctor exits with 1."""


@dataclass(frozen=True)
class Finding:
    """One thing that would go wrong."""

    name: str
    """Short and stable, for programs."""
    severity: Severity
    title: str
    """The setting with its value, and the consequence."""
    fix: Mapping[str, Any] = field(default_factory=dict)
    """The settings that fix it, exactly; None takes a setting away. Empty: none does."""
    advice: str = ""
    """Other ways to fix it."""
    source: str = ""
    """The file of the setting, or the command line; empty for a default."""

    @property
    def breaks(self) -> bool:
        """Whether the doctor exits with 1 because of it."""
        return self.severity in BREAKS


@dataclass(frozen=True)
class Context:
    """The facts that a rule may use beside the settings.

    The numbers are None without a run.
    """

    mode: Mode = "segment"
    budget: int | None = None
    """Prompts in a round."""
    rounds: int | None = None
    """Rounds in the run."""
    longest: int | None = None
    """Tokens of the longest rendered prompt in the set."""
    longer_than: Callable[[float], list[str]] | None = None
    """The ids of the prompts with more tokens than a limit."""
    group_size: int | None = None
    """The mean of the group sizes in the newest plan; None where it has none."""
    step: int = 1
    """The prompts of a step, in each of which the group sizes have this mean."""
    columns: frozenset[str] | None = None
    """Columns of the newest round's file."""
    folder: str = "run"
    """The run's folder, as a setting of the trainer names it."""
    read_every: int = 0
    """In live mode, the rounds from one checkpoint that the run needs to the next; 0 where it needs none."""
    reader: str = ""
    """The option of the run that needs them."""
    running: bool = False
    """Our adapter asks at run time, so a class of another name that is plugged in inherits from ours."""

    scored: Mapping[str, Any] | None = None
    """The identity of the scored set."""
    script: str = ""
    """The Python script or module that the launch line starts, which may set more than the line does."""
    shell: str = ""
    """The whole shell text around the launch line, which may go on after the training."""

    @property
    def segment(self) -> bool:
        """One process of the trainer for each round."""
        return self.mode == "segment"

    @property
    def live(self) -> bool:
        """One long process, with our adapter in it."""
        return self.mode == "live"


def context_of(config: ScheduleConfig, mode: Mode, **more: Any) -> Context:
    """The context that a run's options give; `more` are other fields of it."""
    reader, every = "", 0
    if config.observes_with_checkpoint:
        reader, every = "--rollout without a server", 1
    elif config.rescore.what != "off" and config.rescore.every < config.rounds:
        reader, every = f"--rescore {config.rescore.what}", config.rescore.every
    return Context(mode, config.budget, config.rounds, read_every=every, reader=reader, **more)


Found = Finding | None
Rule = Callable[[Settings, Context], Found | Iterator[Finding]]


@cache
def _read() -> dict[str, dict[str, Any]]:
    """By trainer, the facts that `tests/trainer_defaults.py` reads from the trainers' sources."""
    stored: dict[str, dict[str, Any]] = json_file(Path(__file__).parent.with_name("defaults.json"))
    return stored


def defaults_of(trainer: str) -> Mapping[str, Any]:
    """The defaults of a trainer's settings, by dotted key."""
    defaults: Mapping[str, Any] = _read()[trainer]["defaults"]
    return defaults


@dataclass(frozen=True)
class TrainerRules:
    """How one trainer is set, and the rules on its settings: the `RULES` of its folder.

    Args:
        name: as in `gaincurate.trainers.profile`.
        launches: words that mark a launch line of it.
        rules: in the order in which their findings are listed.
        style: how its launch line writes a setting: "" key=value; `values` --key value, also true and false;
            `switches` --key alone for true; `dashes` the same with - for _.
        live: whether it can be steered in one long process.
        whole: the defaults in place of `defaults` where a file has all sections of them; None where a file
            has changes alone.
    """

    name: str
    launches: tuple[str, ...]
    rules: tuple[Rule, ...]
    style: Style = ""
    live: bool = False
    whole: Mapping[str, Any] | None = None

    @property
    def version(self) -> str:
        """The version whose source was read."""
        return str(_read()[self.name]["version"])

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The values of settings that a file does not set, of the keys that the rules read."""
        return defaults_of(self.name)


def ask(rules: Iterable[Rule], settings: Settings, context: Context) -> tuple[list[Finding], list[str]]:
    """The findings of rules, in their order, and a sentence for each value that could not be judged."""
    findings: list[Finding] = []
    unknown: list[str] = []
    for rule in rules:
        try:
            answer = rule(settings, context)
            findings += [answer] if isinstance(answer, Finding) else answer or ()
        except NotKnown as error:
            unknown.append(str(error))
    return findings, list(dict.fromkeys(unknown))


def refuse(findings: Iterable[Finding], write: Callable[[Any], str] = shown) -> None:
    """Refuse all findings that break the schedule at once.

    Args:
        findings: of which some may break it.
        write: takes a value, yields it as the trainer's settings have it.

    Raises:
        InputError: a sentence for each that does, with the settings that fix it.
    """
    breaking = [finding for finding in findings if finding.breaks]
    if breaking:
        sentences = [sentence(finding, write) for finding in breaking]
        raise InputError("\n".join(sentences), findings=[finding.name for finding in breaking])


def sentence(finding: Finding, write: Callable[[Any], str] = shown) -> str:
    """A finding as a line of an error: the consequence, and the fix."""
    settings = ", ".join(f"{key}={write(value)}" for key, value in finding.fix.items())
    advice = finding.advice
    if settings and advice.startswith("or "):
        return f"{finding.title}. Set {settings}, {advice}."
    advice = advice.removeprefix("or ")
    steps = [f"Set {settings}"] if settings else []
    steps += [advice[0].upper() + advice[1:]] if advice else []
    return ". ".join([finding.title, *steps]) + "."
