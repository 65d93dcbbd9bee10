"""TRL: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

from pathlib import Path

from gaincurate.core.schema import ID
from gaincurate.trainers.columns import Column, View
from gaincurate.trainers.markers import json_or_none
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, Sharded, load_line, words


def _columns(view: View) -> dict[str, Column]:
    columns = {"prompt": view.messages()}
    # Every column reaches the reward function under its own name; only one inside a struct would not.
    if view.id_in_answer or (view.answer and (view.options.answer_column or "." in view.answer)):
        columns["answer"] = view.answer_as_it_is()
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
    state = json_or_none(file)
    if not isinstance(state, dict) or "global_step" not in state:
        return f"{file} is not finished"
    saved = state["global_step"]
    return None if saved == step else f"{file} is of step {saved}, not {step}"


PROFILE = Profile(
    name="trl",
    version="1.16.0",
    reserved=words(
        "prompts completions completion completion_ids trainer_state log_extra log_metric environments"
    ),
    columns=_columns,
    launch=_launch,
    rendering=Rendering("chat_template_kwargs", media=("image", "images"), nulls="all"),
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
)
