"""As much of NeMo-RL (git 7ea279abf, 2026-08-22) as a custom dataloader meets, with its names and signatures.

nemo_rl/data/dataloader.py:50-114 (MultipleDataloaderWrapper), examples/custom_dataloader/custom_dataloader.py:22
(the function), nemo_rl/data/collate_fn.py:30 (rl_collate_fn), nemo_rl/data/interfaces.py:35 (DatumSpec),
nemo_rl/data/datasets/processed_dataset.py:32 (AllTaskProcessedDataset), nemo_rl/environments/interfaces.py:24-86
(EnvironmentReturn, step); torchdata's StatefulDataLoader for `batch_size`, `dataset` and `state_dict`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from adapters import Table, module


def rl_collate_fn(data_batch: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("message_log", "length", "loss_multiplier", "extra_env_info", "idx", "task_name")
    return {name: [one.get(name) for one in data_batch] for name in names}


class AllTaskProcessedDataset:
    """`dataset` is what was loaded; an item is a DatumSpec."""

    def __init__(self, dataset: Table) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        question = self.dataset[idx]["question"]
        return {
            "message_log": [{"role": "user", "content": question}],
            "length": 3,
            "extra_env_info": {"ground_truth": question[-1]},
            "loss_multiplier": 1.0,
            "idx": idx,
            "task_name": "the-task",
        }


class StatefulDataLoader:
    def __init__(self, dataset: Any, batch_size: int | None = 1) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self.loaded: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        while True:
            raise AssertionError("a planned batch is not read from the loader's own iterator")
            yield

    def state_dict(self) -> dict[str, Any]:
        return {"_num_yielded": 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loaded = state_dict


class MultipleDataloaderWrapper:
    """`custom_dataloader` takes the place of the look-up by name."""

    def __init__(self, expected_num_prompts: int, data_config: dict[str, Any], dataloaders: dict[str, Any]):
        self.expected_num_prompts, self.dataloaders = expected_num_prompts, dataloaders
        self.data_iterators = {name: iter(loader) for name, loader in dataloaders.items()}
        self.custom_dataloader_func = data_config["custom_dataloader"]
        self.records: dict[str, Any] = {}

    def __iter__(self) -> MultipleDataloaderWrapper:
        return self

    def __next__(self) -> Any:
        result, self.data_iterators = self.custom_dataloader_func(
            self.data_iterators, self.dataloaders, **self.records
        )
        assert len(result["message_log"]) == self.expected_num_prompts
        return result


class EnvironmentReturn(NamedTuple):
    observations: list[dict[str, str]]
    metadata: list[Any]
    next_stop_strings: list[Any]
    rewards: Any
    terminateds: Any
    answers: list[Any] | None


def modules() -> dict[str, Any]:
    names = ("nemo_rl", "nemo_rl.data")
    collate = module("nemo_rl.data.collate_fn", rl_collate_fn=rl_collate_fn)
    return {name: module(name) for name in names} | {"nemo_rl.data.collate_fn": collate}
