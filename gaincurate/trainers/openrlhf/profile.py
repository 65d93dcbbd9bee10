"""OpenRLHF: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

from pathlib import Path

from gaincurate.core.schema import ID
from gaincurate.trainers.markers import number_in, tokenizer_unfinished
from gaincurate.trainers.profile import SHUFFLES, Launch, Layout, Profile, Rendering, Sharded, View


def _launch(path: Path, view: View) -> Launch:
    flags = ["--data.prompt_dataset", str(path), "--data.prompt_split", "train"]
    flags += ["--data.input_key", "prompt", "--data.apply_chat_template"]
    flags += ["--data.label_key", "label"] if "label" in view.own else []
    hints = [SHUFFLES.format("OpenRLHF")]
    if view.parts.id_in_answer:
        hints.append(f'a label is JSON: {{"{ID}": ..., "answer": ...}}')
    return Launch("flags", flags, hints)


def _tokenizer_last(path: Path, step: int) -> str | None:
    """OpenRLHF: the tokenizer is saved after the weights. Of its DeepSpeed folders `latest` tells."""
    if not path.name.endswith("_hf"):
        file = path.parent / "latest"
        number = number_in(file, "global_step")
        return (
            None
            if number is not None and number >= step
            else f"{path} is not finished: {file} does not say so"
        )
    return tokenizer_unfinished(path)


PROFILE = Profile(
    name="openrlhf",
    version="0.11.2",
    judge="datasource",
    id_in_answer=True,
    refused_in_path=",@",
    columns=lambda parts, _: (
        {"prompt": parts.messages()} | ({"label": parts.answer_text()} if parts.has_answer else {})
    ),
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
