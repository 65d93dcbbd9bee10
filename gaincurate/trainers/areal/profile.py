"""AReaL: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

from pathlib import Path

from gaincurate.core.schema import ID
from gaincurate.trainers.columns import View
from gaincurate.trainers.markers import json_or_none, tokenizer_unfinished
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, load_line


def _launch(path: Path, view: View) -> Launch:
    hints = [
        "these lines go into your training script; with train_dataset.shuffle=false and "
        "train_dataset.num_workers=0 the rows keep their order",
        f"a reward function gets the id as the keyword {ID}",
    ]
    return Launch("python", [load_line(path)], hints)


def _areal(path: Path, step: int) -> str | None:
    """AReaL: no marker; the recovery's state comes later than the weights, and so does the tokenizer."""
    for above in path.parents[:2]:
        step_info = json_or_none(above / "recover_info" / "step_info.json")
        if isinstance(step_info, dict) and isinstance(step_info.get("global_step"), int):
            if step_info["global_step"] >= step:
                return None
            break
    return tokenizer_unfinished(path)


PROFILE = Profile(
    name="areal",
    version="4aef98d8 (2026-05-21)",
    reserved=frozenset({"prompt", "completions", "prompt_ids", "completion_ids"}),
    columns=lambda view: {"messages": view.messages(), **view.answers("answer")},
    launch=_launch,
    rendering=Rendering(code="the workflow of the training script", nulls="all"),
    layout=Layout(
        folders=(
            "epoch*globalstep*",
            "default/epoch*globalstep*",
            "*/*/*/default/epoch*globalstep*",
            "checkpoints/*/*/*/default/epoch*globalstep*",
        ),
        step=r"epoch\d+epochstep\d+globalstep(\d+)",
        marker="none of its own: `recover_info/step_info.json` has step N or more, or "
        "the tokenizer's files, written after the weights, can be read",
        unfinished=_areal,
        weights=(".",),
        setting="saver.freq_steps",
        adapters=(".",),
    ),
)
