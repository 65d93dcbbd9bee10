"""NeMo-RL: its columns, the settings that make it read a file, its prompts, checkpoints and logs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gaincurate.core.foreign_models import ForeignJson
from gaincurate.trainers.log_formats import Entry, objects, reward_name, reward_number, see_row, single_item
from gaincurate.trainers.profile import (
    Launch,
    Layout,
    LogFormat,
    Profile,
    Rendering,
    Sharded,
    View,
    hydra_value,
    system_file,
)

_NEMO = "uv run python examples/converters/convert_dcp_to_hf.py --config {checkpoint}/config.yaml "
_NEMO += "--dcp-ckpt-path {checkpoint}/policy/weights --hf-ckpt-path {checkpoint}/hf"
_NEMO_MEGATRON = (
    "uv run --extra mcore python examples/converters/convert_megatron_to_hf.py "
    "--config {checkpoint}/config.yaml --megatron-ckpt-path {checkpoint}/policy/weights/iter_0000000 "
    "--hf-ckpt-path {checkpoint}/hf"
)


def _launch(path: Path, view: View) -> Launch:
    system = "null" if view.parts.system is None else hydra_value(system_file(path))
    flags = [
        "++data.train.dataset_name=ResponseDataset",
        f"++data.train.data_path={hydra_value(path)}",
        "++data.train.input_key=input",
        "++data.train.output_key=output",
        "++data.train.split_validation_size=0",
        "++data.default.prompt_file=null",
        f"++data.default.system_prompt_file={system}",
        "++data.default.processor=math_hf_data_processor",
        "++data.shuffle=false",
    ]
    hint = (
        "only the answer reaches NeMo-RL's environment, and train_data_step*.jsonl has the prompt's text, on "
        "which rows are joined; --id-in-answer puts the id into the answer, for an environment of your own"
    )
    return Launch("flags", flags, [hint])


def _renamed(prefix: str) -> Callable[[Path, int], str | None]:
    """NeMo-RL: a checkpoint gets its name when it is complete."""

    def unfinished(path: Path, step: int) -> str | None:
        if path.name.startswith(prefix):
            return f"{path} is not finished: it is not yet renamed to {path.name.removeprefix(prefix)}"
        return None

    return unfinished


_Mask = list[Annotated[float, Field(ge=0, le=1)] | bool]


class _Row(ForeignJson):
    """What is read of a line of the log; more is checked as an outcome."""

    content: str | list[Any]
    idx: Any
    token_loss_mask: _Mask | Annotated[list[_Mask], Field(max_length=1)] | None = None


_MOST_PARTS = 16
"""Parts of a prompt: a system message, examples, the question. Each beginning is searched for prompts."""


def _read_log(path: Path, begin: int, reward_column: str | None) -> Iterator[Entry]:
    """The rows of a step's training data; every value there is a list with one item."""
    match = re.search(r"train_data_step(\d+)", path.name)
    for number, row in objects(path, begin):
        see_row(_Row, row, path, number)
        content = single_item(row["content"])
        parts = [str(part) for part in (content if isinstance(content, list) else [content])]
        mask = single_item(row.get("token_loss_mask"))
        yield Entry(
            f"{path.name}, line {number}",
            reward_number(single_item(row.get(reward_name(row, reward_column, "rewards", path, number)))),
            step=int(match[1]) if match else None,
            sample=row["idx"],
            # The prompt is the first part, or with a system message of its own the first two.
            texts=tuple("".join(parts[:end]) for end in range(1, min(len(parts), _MOST_PARTS) + 1)),
            tokens=int(sum(mask)) if isinstance(mask, list) else None,
        )


PROFILE = Profile(
    name="nemo-rl",
    version="7ea279ab (2026-08-22)",
    reserved=frozenset({"messages", "task_name"}),
    answer_needed=True,
    system_file=True,
    columns=lambda parts, _: {"input": parts.question(), "output": parts.answer_text()},
    launch=_launch,
    rendering=Rendering(
        {"policy.tokenizer.chat_template_kwargs": ""},
        adds={"policy.tokenizer.chat_template": "a chat template"},
    ),
    layout=Layout(
        folders=("step_*", "tmp_step_*"),
        step=r"(?:tmp_)?step_(\d+)",
        marker="`tmp_step_N` was renamed to `step_N`",
        unfinished=_renamed("tmp_"),
        weights=("policy/weights/model/consolidated", "hf"),
        setting="checkpointing.model_save_format=safetensors checkpointing.save_consolidated=true",
        adapters=("policy/weights/model",),
        sharded=(
            Sharded("policy/weights/iter_*", _NEMO_MEGATRON),
            Sharded("policy/weights/.metadata", _NEMO),
            Sharded("policy/weights/model/.metadata", _NEMO),
            Sharded("policy/weights/model/shard-*", _NEMO),
        ),
        tokenizer="policy/tokenizer",
    ),
    log=LogFormat(
        files="train_data_step*.jsonl", keys=frozenset({"content", "rewards", "idx"}), read=_read_log
    ),
)
