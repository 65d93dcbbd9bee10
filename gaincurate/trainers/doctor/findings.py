"""Findings about a trainer's settings, the facts that rules use, and the two callers of rules.

The doctor applies rules to a file before the training, and lists all findings. A live adapter applies them to
the trainer's resolved settings at run time, and raises one error for the findings that break the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gaincurate.core.foreign import json_file
from gaincurate.errors import InputError
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.trainers.doctor.settings import NotKnown, Settings, shown

Mode = Literal["live", "segment", "export"]
# How a launch line writes a setting: key=value; --key value; --key for true; the same with `-` for `_`.
Style = Literal["", "values", "switches", "dashes"]
Severity = Literal["wrong", "stale", "stops", "order", "cost"]
SEVERITIES: dict[Severity, str] = {
    "wrong": "trains on other rows than planned, or loses outcomes",
    "stale": "trains on rows of an older plan",
    "stops": "the run cannot go on",
    "order": "trains on the right rows in another order",
    "cost": "works, but costs something or means something else than it may seem",
}
"""Worst first. The doctor exits with 1 if there is a finding with one of the first three."""


@dataclass(frozen=True)
class Finding:
    """One thing that would go wrong in the training."""

    name: str  # short and stable, for programs
    severity: Severity
    title: str  # the setting with its value, and the consequence
    fix: Mapping[str, Any] = field(default_factory=dict)  # None removes a setting; empty: no setting fixes it
    advice: str = ""  # other ways to fix it
    source: str = ""  # the file of the setting, or the command line; empty for a default

    @property
    def breaks(self) -> bool:
        """Whether its severity is one of the first three, with which the doctor exits with 1."""
        return self.severity in ("wrong", "stale", "stops")


@dataclass(frozen=True)
class RuleContext:
    """The facts that a rule may use besides the settings; without a run, the numbers are None."""

    mode: Mode = "segment"
    budget: int | None = None  # prompts in a round
    rounds: int | None = None
    longest: int | None = None  # tokens of the longest rendered prompt in the set
    longer_than: Callable[[float], list[str]] | None = None  # the ids of prompts with more tokens
    group_size: int | None = None  # the mean group size in the newest plan; None if the plan has no sizes
    step: int = 1  # the prompts of a step; within each step, the group sizes have this mean
    columns: frozenset[str] | None = None  # of the newest round's file
    folder: str = "run"  # the run's folder, as a setting of the trainer names it
    read_every: int = 0  # live: the run needs a checkpoint every so many rounds; 0 if it needs none
    reader: str = ""  # the option of the run that needs them
    running: bool = False  # a live adapter is the caller, so a class with another name inherits from ours
    scored: Mapping[str, Any] | None = None  # the identity of the scored set
    script: str = ""  # the Python script or module that is started; it may set more than its flags do
    shell: str = ""  # the whole shell script with the launch line; it may do more after the training

    @property
    def segment(self) -> bool:
        """Whether each round is one process of the trainer."""
        return self.mode == "segment"

    @property
    def live(self) -> bool:
        """Whether one long process with a live adapter trains all rounds."""
        return self.mode == "live"

    def steps(self, prompts: float | None) -> int | None:
        """The steps of a round at `prompts` per step; None if they do not divide the round (see `tail`)."""
        if not self.budget or not prompts or self.budget % prompts:
            return None
        return int(self.budget // prompts)


def context_of(config: ScheduleConfig, mode: Mode, **more: Any) -> RuleContext:
    """The context from a run's options; `more` has further fields."""
    reader, every = "", 0
    if config.observes_with_checkpoint:
        reader, every = "--rollout without a server", 1
    elif config.rescore.what != "off" and config.rescore.every < config.rounds:
        reader, every = f"--rescore {config.rescore.what}", config.rescore.every
    return RuleContext(mode, config.budget, config.rounds, read_every=every, reader=reader, **more)


Rule = Callable[[Settings, RuleContext], Iterator[Finding]]
_FACTS: dict[str, dict[str, dict[str, Any]]] = json_file(Path(__file__).parent.with_name("defaults.json"))
"""Facts by trainer, which `tests/trainer_defaults.py` reads from the trainers' sources."""


def defaults_of(trainer: str) -> dict[str, Any]:
    """The defaults of the settings that a trainer's rules read, by dotted key; empty for a new trainer."""
    return _FACTS.get(trainer, {}).get("defaults", {})


def ask(rules: Iterable[Rule], settings: Settings, context: RuleContext) -> tuple[list[Finding], list[str]]:
    """The findings of the rules in their order, and a sentence for each value that is not known yet."""
    findings: list[Finding] = []
    unknown: list[str] = []
    for rule in rules:
        try:
            findings += rule(settings, context)
        except NotKnown as error:
            unknown.append(str(error))
    return findings, list(dict.fromkeys(unknown))


def refuse(findings: Iterable[Finding], write: Callable[[Any], str] = shown) -> None:
    """Raise one InputError with a sentence and a fix for each finding that breaks the schedule, if any does.

    `write` formats a value as the trainer's settings write it.
    """
    breaking = [finding for finding in findings if finding.breaks]
    sentences = []
    for finding in breaking:
        settings = ", ".join(f"{key}={write(value)}" for key, value in finding.fix.items())
        steps, advice = [f"Set {settings}"] if settings else [], finding.advice.removeprefix("or ")
        if steps and advice != finding.advice:
            steps = [f"{steps[0]}, or {advice}"]
        elif advice:
            steps.append(advice[0].upper() + advice[1:])
        sentences.append(". ".join([finding.title, *steps]) + ".")
    if breaking:
        raise InputError("\n".join(sentences), findings=[finding.name for finding in breaking])
