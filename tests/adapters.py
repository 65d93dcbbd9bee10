"""What the tests of live adapters share: imports with a trainer's fake modules, and rows as a file."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

from gaincurate.schedule.run import Run
from gaincurate.trainers import session


def module(name: str, **content: Any) -> ModuleType:
    """A module that was never a file."""
    made = ModuleType(name)
    vars(made).update(content)
    return made


def adapter(monkeypatch: pytest.MonkeyPatch, name: str, fakes: Mapping[str, ModuleType]) -> Any:
    """An adapter of `gaincurate.trainers` imported anew, with fakes in the place of its trainer, for one test."""
    for module_name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, module_name, fake)
    full = f"gaincurate.trainers.{name}"
    monkeypatch.setitem(sys.modules, full, ModuleType(full))
    del sys.modules[full]
    return importlib.import_module(full)


def forget() -> None:
    """Let all followed runs go, as the end of this process would."""
    for _, live in session._FOLLOWED.values():
        live.close()
    session._FOLLOWED.clear()


def reward_of(gc_id: str) -> float:
    """A trainer's reward that is the same whenever it is asked: two of three prompts succeed."""
    return float(int(gc_id.removeprefix("id")) % 3 > 0)


class Table:
    """As much of `datasets.Dataset` as the adapters use."""

    def __init__(self, columns: Mapping[str, list[Any]]) -> None:
        self.columns = dict(columns)
        self.column_names = list(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        return {name: values[key] for name, values in self.columns.items()}


def exported(run: Run) -> dict[str, list[Any]]:
    """The scored set's rows as a trainer reads them, in another order than the plan's."""
    taken = run.scored.take(list(range(len(run.scored)))[::-1])
    return {name: taken.column(name).to_pylist() for name in ("gc_id", "question")}


def parameters(function: Any) -> list[str]:
    """The names of its parameters, with a star before those that take the rest."""
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [stars.get(each.kind, "") + each.name for each in inspect.signature(function).parameters.values()]
