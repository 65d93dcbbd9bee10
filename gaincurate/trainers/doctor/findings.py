"""What the doctor says: defines findings, their order, and the numbers of a run that rules read.

Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gaincurate.trainers.doctor.settings import Settings

Mode = Literal["live", "segment", "export"]
Style = Literal["hydra", "values", "switches", "dashes"]
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
"""With one of these, the doctor says no."""


@dataclass(frozen=True)
class Finding:
    """One thing that would go wrong."""

    name: str
    """Short and stable, for programs."""
    severity: Severity
    title: str
    """What would happen, with the setting's value in it."""
    mend: Mapping[str, Any] = field(default_factory=dict)
    """The settings that mend it, exactly; None takes a setting away. Empty: none does."""
    advice: str = ""
    """What else can be done."""
    source: str = ""
    """Where the trainer does it."""

    @property
    def breaks(self) -> bool:
        """Whether the doctor says no because of it."""
        return self.severity in BREAKS


@dataclass(frozen=True)
class About:
    """What a rule may know beside the settings.

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
    columns: frozenset[str] | None = None
    """Columns of the newest round's file."""
    folder: str = "run"
    """The run's folder, as the trainer would be told of it."""

    @property
    def segment(self) -> bool:
        """One process of the trainer for each round."""
        return self.mode == "segment"

    @property
    def live(self) -> bool:
        """One long process, with our adapter in it."""
        return self.mode == "live"


Found = Finding | None
Rule = Callable[[Settings, About], Found | Iterator[Finding]]


@dataclass(frozen=True)
class TrainerRules:
    """How one trainer is set, and what may be wrong with its settings: the `RULES` of its folder.

    Args:
        name: as in `gaincurate.trainers.profile`.
        version: what was read.
        launches: what a launch line of it has in it.
        style: how its launch line writes a setting: `hydra` key=value; `values` --key value, also true and
            false; `switches` --key alone for true; `dashes` the same with - for _.
        defaults: what it does where nothing is said, of the keys that the rules read.
        rules: what may be found.
        live: whether it can be steered in one long process.
        resolves: whether its files may have `${oc.env:NAME}` in them.
        toml: whether its files are TOML, which cannot hold null.
    """

    name: str
    version: str
    launches: tuple[str, ...]
    style: Style
    defaults: Mapping[str, Any]
    rules: tuple[Rule, ...]
    live: bool = False
    resolves: bool = False
    toml: bool = False
