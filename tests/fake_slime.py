"""As much of slime (git 624b824a8, 2026-08-21) as a data source meets, with its names and signatures.

slime/rollout/data_source.py:17-47 (DataSource), slime/utils/types.py:84-150 and 197 (Sample),
slime/utils/data.py:188-290 (Dataset), slime/utils/processing_utils.py:18 and 85; the arguments are of
slime/utils/arguments.py. `generate` does what slime/rollout/sglang_rollout.py:374-470 does with a data source.
"""

from __future__ import annotations

import abc
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq

from adapters import module, reward_of


class DataSource(abc.ABC):
    @abc.abstractmethod
    def get_samples(self, num_samples: int) -> list[list[Any]]: ...

    @abc.abstractmethod
    def add_samples(self, samples: list[list[Any]]) -> None: ...

    @abc.abstractmethod
    def save(self, rollout_id: int) -> None: ...

    @abc.abstractmethod
    def load(self, rollout_id: int | None = None) -> None: ...

    @abc.abstractmethod
    def __len__(self) -> int: ...


@dataclass
class Sample:
    group_index: int | None = None
    index: int | None = None
    prompt: Any = ""
    response: str = ""
    response_length: int = 0
    label: str | None = None
    reward: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def get_reward_value(self, args: Namespace) -> Any:
        return self.reward if not args.reward_key else self.reward[args.reward_key]


class Dataset:
    def __init__(
        self,
        path: str,
        tokenizer: Any,
        processor: Any,
        max_length: int | None,
        *,
        prompt_key: str = "text",
        multimodal_keys: Any = None,
        label_key: str | None = None,
        tool_key: str | None = None,
        metadata_key: str = "metadata",
        seed: int = 42,
        apply_chat_template: bool = False,
        apply_chat_template_kwargs: Any = None,
    ) -> None:
        self.samples = [
            Sample(
                prompt=row[prompt_key],
                label=row[label_key] if label_key is not None else None,
                metadata=row.get(metadata_key) or {},
            )
            for row in pq.read_table(path).to_pylist()
        ]


def load_tokenizer(name_or_path: str, **kwargs: Any) -> Any:
    """A tokenizer whose template leaves the messages as they are."""
    return SimpleNamespace(apply_chat_template=lambda prompt, **more: prompt)


def load_processor(name_or_path: str, **kwargs: Any) -> Any:
    return None


def modules() -> dict[str, Any]:
    names = ("slime", "slime.rollout", "slime.utils")
    tools = {"load_tokenizer": load_tokenizer, "load_processor": load_processor}
    return {name: module(name) for name in names} | {
        "slime.rollout.data_source": module("slime.rollout.data_source", DataSource=DataSource),
        "slime.utils.data": module("slime.utils.data", Dataset=Dataset),
        "slime.utils.processing_utils": module("slime.utils.processing_utils", **tools),
    }


def arguments(run: Any, **given: Any) -> Namespace:
    """The arguments that a data source reads, with slime's defaults."""
    made: dict[str, Any] = {
        "prompt_data": run and str(run), "data_source_path": "gaincurate.trainers.slime.RunDataSource",
        "rollout_all_samples_process_path": "gaincurate.trainers.slime.report", "hf_checkpoint": "the-model",
        "input_key": "prompt", "label_key": None, "multimodal_keys": None, "metadata_key": "metadata",
        "tool_key": "tools", "apply_chat_template": True, "apply_chat_template_kwargs": {}, "reward_key": None,
        "rollout_batch_size": 4, "over_sampling_batch_size": 4, "n_samples_per_prompt": 2,
        "partial_rollout": False, "save": None, "load": None,
    }  # fmt: skip
    return Namespace(**(made | given))


def generate(args: Namespace, source: Any, process: Callable[[Namespace, list[Any], Any], None]) -> list[Any]:
    """One rollout: the groups that are trained."""
    groups: list[Any] = []
    while len(groups) < args.rollout_batch_size:
        groups += source.get_samples(args.over_sampling_batch_size)
    for group in groups:
        assert len(group) == args.n_samples_per_prompt
        for sample in group:
            sample.reward, sample.response_length = reward_of(sample.metadata["gc_id"]), 7
    process(args, sorted(groups, key=lambda group: group[0].index), source.get_samples)
    return groups
