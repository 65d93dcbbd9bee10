"""ROLL: its columns, and the settings that make it read a file."""

import json

from gaincurate.trainers.profile import SHUFFLES, Launch, Profile

PROFILE = Profile(
    name="roll",
    version="8eb27cc2 (2026-08-18)",
    reserved=frozenset({"domain", "prompt", "input_ids", "attention_mask"}),
    suffixes=(".jsonl",),
    judge="tag",
    judge_needed=True,
    answer_needed=True,
    columns=lambda view: {
        "id": view.ids(),
        "messages": view.messages_json(),
        "ground_truth": view.gold(as_text=True),
    },
    launch=lambda path, view: Launch(
        "yaml",
        [
            "actor_train:",
            "  data_args:",
            "    dataset_type: json",
            f"    file_name: [{json.dumps(str(path), ensure_ascii=False)}]",
            "    id: id",
            "    messages: messages",
            "    tag: tag",
        ],
        [
            SHUFFLES.format("ROLL"),
            "rows longer than prompt_length are left out",
            "tag picks the domain, and with it the reward (tag_included)",
        ],
    ),
)
