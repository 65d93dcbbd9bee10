"""ms-swift: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

from pathlib import Path

from gaincurate.trainers.columns import View
from gaincurate.trainers.profile import Launch, Profile, words


def _launch(path: Path, view: View) -> Launch:
    hint = "a reward function gets the id as the keyword gc_id, and the answer as solution"
    return Launch("flags", ["--dataset", str(path), "--dataset_shuffle", "false"], [hint])


PROFILE = Profile(
    name="ms-swift",
    version="4.6.0",
    # The first line: other names of messages and of a system message, which is put before them.
    reserved=words(
        "conversation conversations system system_prompt "
        "images videos audios objects channel margin rejected_messages rejected_response "
        "completions trainer_state trajectory_inputs"
    ),
    suffixes=(".jsonl", ".parquet"),
    columns=lambda view: {"messages": view.messages(), **view.answers("solution")},
    launch=_launch,
)
