"""TRL: its columns, the settings that make it read a file, its prompts, checkpoints and logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from gaincurate.core.arrow import read_parquet
from gaincurate.core.schema import ID
from gaincurate.errors import OutcomeError
from gaincurate.trainers.columns import Parts, ViewOptions
from gaincurate.trainers.log_formats import Entry, no_parquet, reward_number
from gaincurate.trainers.markers import json_or_none
from gaincurate.trainers.profile import (
    Columns,
    Launch,
    Layout,
    LogFormat,
    Profile,
    Rendering,
    Sharded,
    View,
    load_line,
    words,
)

_LOG_COLUMNS = frozenset({"step", "prompt", "completion", "advantage"})


def _columns(parts: Parts, options: ViewOptions) -> Columns:
    columns = {"prompt": parts.messages()}
    # Every column reaches the reward function under its own name; only one inside a struct would not.
    if parts.id_in_answer or (parts.answer and (options.answer_column or "." in parts.answer)):
        columns["answer"] = parts.answer_as_it_is()
    return columns


def _launch(path: Path, view: View) -> Launch:
    config = "shuffle_dataset=False, dataloader_num_workers=0, remove_unused_columns=False"
    hint = (
        f'log_extra("{ID}", {ID}) in the reward function puts the id into the completions that TRL logs with '
        "log_completions=True, logging_steps=1"
    )
    return Launch("python", [load_line(path), f"config = trl.GRPOConfig({config})"], [hint])


def _trainer_state(path: Path, step: int) -> str | None:
    """TRL: rank 0 writes `trainer_state.json` after everything else."""
    file = path / "trainer_state.json"
    if not file.is_file():
        return f"{path} has no trainer_state.json, which is written last"
    found = json_or_none(file)
    if not isinstance(found, dict) or "global_step" not in found:
        return f"{file} is not finished"
    if found["global_step"] != step:
        return f"{file} is of step {found['global_step']}, not {step}"
    return None


def _read_log(path: Path, begin: int, reward_column: str | None) -> Iterator[Entry]:
    """The rows of a completions table, all of them; `begin` says nothing here.

    Raises:
        OutcomeError: it is not clear which column is the reward.
    """
    table = read_parquet(path, no_parquet(path))
    if missing := _LOG_COLUMNS - set(table.column_names):
        raise OutcomeError(f"{path} has no column {min(missing)!r}, so TRL did not write it.", path=str(path))
    rewards = table.column(_reward_column(path, table, reward_column)).to_pylist()
    ids = table.column("gc_id").to_pylist() if "gc_id" in table.column_names else [None] * len(rewards)
    prompts, steps = table.column("prompt").to_pylist(), table.column("step").to_pylist()
    for place, (gc_id, prompt, step) in enumerate(zip(ids, prompts, steps, strict=True)):
        plain = isinstance(prompt, str)
        yield Entry(
            f"{path.name}, row {place + 1}",
            reward_number(rewards[place]),
            gc_id,
            step,
            texts=(prompt,) if plain else (),
            messages=None if plain else prompt,
        )


def _reward_column(path: Path, table: pa.Table, asked: str | None) -> str:
    others = (*sorted(_LOG_COLUMNS), "gc_id", "image", "images")
    numbers = [
        f.name
        for f in table.schema
        if f.name not in others and (pa.types.is_floating(f.type) or pa.types.is_integer(f.type))
    ]
    for name in (asked, "reward"):
        if name is not None and name in numbers:
            return str(name)
    if asked is not None or len(numbers) != 1:
        raise OutcomeError(
            f"{path} has {len(numbers)} columns that could be the reward ({', '.join(numbers) or 'none'})"
            + (f", and {asked!r} is not one of them" if asked is not None else "")
            + "; name it with --reward-column. With several reward functions, log_extra('reward', ...) in "
            "one of them puts the whole into the table.",
            path=str(path),
        )
    return str(numbers[0])


PROFILE = Profile(
    name="trl",
    version="1.16.0",
    reserved=words(
        "prompts completions completion completion_ids trainer_state log_extra log_metric environments"
    ),
    columns=_columns,
    launch=_launch,
    rendering=Rendering({"chat_template_kwargs": ""}, media=("image", "images"), nulls="all"),
    layout=Layout(
        folders=("checkpoint-*",),
        step=r"checkpoint-(\d+)",
        marker="`trainer_state.json`, written last, can be read and has step N",
        unfinished=_trainer_state,
        weights=(".",),
        setting="fsdp state_dict_type FULL_STATE_DICT, or stage3_gather_16bit_weights_on_model_save",
        adapters=(".",),
        sharded=(
            Sharded(
                "pytorch_model_fsdp_*/*",
                "accelerate merge-weights {checkpoint}/pytorch_model_fsdp_0 {checkpoint}",
            ),
            Sharded(
                "global_step*/*_model_states.pt",
                "python {checkpoint}/zero_to_fp32.py {checkpoint} {checkpoint} --safe_serialization",
            ),
        ),
    ),
    log=LogFormat(
        files="completions_*.parquet",
        keys=_LOG_COLUMNS,
        read=_read_log,
        table=True,
        loses="TRL keeps the rows of one generation only and writes them every logging_steps: with more "
        "steps than a generation lasts, the others are lost. Set logging_steps=1, or report from the reward "
        "function",
    ),
)
