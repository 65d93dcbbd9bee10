"""As much of Trinity-RFT 0.6.0 (wheel) as a selector meets, with its names and signatures.

trinity/buffer/selector/selector.py:15-75 (BaseSelector), trinity/buffer/reader/file_reader.py:24-92 and 160-180
(_HFBatchReader, FileReader), trinity/common/config.py:119-130 (DataSelectorConfig),
trinity/buffer/task_scheduler.py:85-265 (TasksetScheduler of one task set), trinity/common/constants.py:10.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from adapters import Table, module

SELECTOR_METRIC = "selector_metric"


class BaseSelector:
    def __init__(self, data_source: Any, config: Any) -> None:
        self.data_source = data_source
        self.config = config

    def get_indices(self, batch_size: int, return_extra_info: bool = False) -> list[int]:
        raise NotImplementedError  # abstract in Trinity too

    def feedback(self, indices: list[int], values: list[float]) -> None:
        raise NotImplementedError  # abstract in Trinity too

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError  # abstract in Trinity too

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        raise NotImplementedError  # abstract in Trinity too


@dataclass
class DataSelectorConfig:
    selector_type: str | None = "sequential"
    seed: int = 42
    feature_keys: list[str] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)


class TasksetScheduler:
    """One task set; `selector` takes the place of the registry's look-up."""

    def __init__(self, explorer_state: dict[str, Any], selector: Any, table: Table, batch: int) -> None:
        source = SimpleNamespace(dataset=table, dataset_size=len(table), name="the-set")
        config = DataSelectorConfig(kwargs={"run": selector[1]} if selector[1] else {})
        self.selector, self.table, self.batch = selector[0](source, config), table, batch
        state = explorer_state.get("taskset_states", [{"current_index": 0}])[0]
        self.selector.load_state_dict(state)

    async def read(self) -> list[Any]:
        try:
            indices = self.selector.get_indices(self.batch)
        except StopIteration as error:
            raise StopAsyncIteration from error
        rows = [self.table[int(index)] for index in indices]
        return [
            SimpleNamespace(raw_task=row, index={"index": int(index), "taskset_id": 0})
            for row, index in zip(rows, indices, strict=True)
        ]

    def feedback(self, pipeline_metrics: dict[str, Any]) -> None:
        for one in pipeline_metrics.pop(SELECTOR_METRIC, {}).values():
            self.selector.feedback(**one)

    def state_dict(self) -> list[dict[str, Any]]:
        return [self.selector.state_dict()]


def modules() -> dict[str, Any]:
    selector = module("trinity.buffer.selector.selector", BaseSelector=BaseSelector)
    names = ("trinity", "trinity.buffer", "trinity.buffer.selector")
    return {name: module(name) for name in names} | {"trinity.buffer.selector.selector": selector}
