"""open-instruct: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

from pathlib import Path

from gaincurate.trainers.columns import View
from gaincurate.trainers.profile import SHUFFLES, Launch, Profile, words


def _launch(path: Path, view: View) -> Launch:
    flags = ["--dataset_mixer_list", str(path), "1.0", "--dataset_mixer_list_splits", "train"]
    hint = "only the answer reaches its verifiers; --id-in-answer puts the id there, for one of your own"
    return Launch("flags", flags, [SHUFFLES.format("open-instruct"), hint])


PROFILE = Profile(
    name="open-instruct",
    version="e6c3044aa (2026-08-20)",
    reserved=words(
        "prompt index input_ids_prompt input_ids attention_mask labels tools env_config dataset_source"
    ),
    judge="dataset",
    judge_needed=True,
    answer_needed=True,
    columns=lambda view: {"messages": view.messages(), "ground_truth": view.gold(as_text=True)},
    launch=_launch,
)
