"""OpenRLHF: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

from pathlib import Path

from gaincurate.core.schema import ID
from gaincurate.trainers.columns import View
from gaincurate.trainers.markers import number_in, tokenizer_unfinished
from gaincurate.trainers.profile import SHUFFLES, Launch, Layout, Profile, Rendering, Sharded


def _launch(path: Path, view: View) -> Launch:
    flags = ["--data.prompt_dataset", str(path), "--data.prompt_split", "train"]
    flags += ["--data.input_key", "prompt", "--data.apply_chat_template"]
    flags += ["--data.label_key", "label"] if "label" in view.columns else []
    hints = [SHUFFLES.format("OpenRLHF")]
    if view.id_in_answer:
        hints.append(f'a label is JSON: {{"{ID}": ..., "answer": ...}}')
    return Launch("flags", flags, hints)


def _tokenizer_last(path: Path, step: int) -> str | None:
    """OpenRLHF: the tokenizer is saved after the weights. Of its DeepSpeed folders `latest` tells."""
    if path.name.endswith("_hf"):
        return tokenizer_unfinished(path)
    file = path.parent / "latest"
    number = number_in(file, "global_step")
    is_newest = number is not None and number >= step
    return None if is_newest else f"{path} is not finished: {file} does not say so"


PROFILE = Profile(
    name="openrlhf",
    version="0.11.2",
    judge="datasource",
    id_in_answer=True,
    refused_in_path=",@",
    columns=lambda view: {"prompt": view.messages(), **view.answers("label", as_text=True)},
    launch=_launch,
    rendering=Rendering(media=("images",), nulls="all"),
    layout=Layout(
        folders=("global_step*_hf", "*/global_step*_hf", "_actor/global_step*"),
        step=r"global_step(\d+)(?:_hf)?",
        marker="the tokenizer's files, written after the weights, can be read",
        unfinished=_tokenizer_last,
        weights=(".",),
        setting="--ckpt.save_hf",
        adapters=(".",),
        sharded=(Sharded("*_model_states.pt", None, apart=True),),
    ),
)
