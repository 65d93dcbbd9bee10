"""As much of verifiers (git a60a606ec, 2026-08-21) and prime-rl (git 559b44772) as a taskset meets.

verifiers/v1/taskset.py:38-95 (Taskset), verifiers/v1/task.py:69-175 (TaskData, Task: key, hash, score),
verifiers/v1/configs/taskset.py:11 (TasksetConfig), verifiers/v1/configs/task.py:32 (TaskConfig);
src/prime_rl/orchestrator/curriculum/samplers/standard.py:14-50 (StandardSampler).
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from adapters import module


class TaskConfig(BaseModel):
    judges: list[Any] = []


class TasksetConfig(BaseModel):
    id: str = ""
    task: TaskConfig = TaskConfig()
    system_prompt: str | None = None


class TaskData(BaseModel):
    model_config = ConfigDict(frozen=True)

    idx: int | None = None
    name: str | None = None
    prompt: Any = None
    system_prompt: str | None = None


DataT = TypeVar("DataT")
TaskT = TypeVar("TaskT")
ConfigT = TypeVar("ConfigT")


def reward(function: Any) -> Any:
    function.is_reward = True
    return function


class Task(Generic[DataT]):
    def __init__(self, data: Any, config: Any = None) -> None:
        self.data, self.config = data, config

    @property
    def hash(self) -> str:
        text = json.dumps(self.data.model_dump(mode="json", exclude_none=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def key(self) -> str:
        return self.hash

    async def score(self, trace: Any, runtime: Any = None) -> None:
        for name in dir(type(self)):
            if getattr(getattr(type(self), name), "is_reward", False):
                trace.record_reward(name, await getattr(self, name)(trace=trace), 1.0)


class Taskset(ABC, Generic[TaskT, ConfigT]):
    INFINITE: bool = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def load(self) -> Iterable[Any]: ...

    def __iter__(self) -> Iterator[Any]:
        yield from self.load()


class StandardSampler:
    def __init__(self, tasks: Iterator[Any]) -> None:
        self.task_iterator = tasks
        self.cursor = 0

    def __next__(self) -> Any:
        task = next(self.task_iterator)
        self.cursor += 1
        return task

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self.cursor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for _ in range(state_dict["cursor"]):
            next(self.task_iterator)
        self.cursor = state_dict["cursor"]


def modules() -> dict[str, Any]:
    parts = (TaskConfig, TasksetConfig, TaskData, Task, Taskset)
    named = {part.__name__: part for part in parts}
    return {"verifiers": module("verifiers"), "verifiers.v1": module("verifiers.v1", reward=reward, **named)}
