"""open-instruct: its columns, and the settings that make it read a file."""

from gaincurate.trainers.profile import SHUFFLES, Launch, Profile, words

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
    launch=lambda path, view: Launch(
        "flags",
        ["--dataset_mixer_list", str(path), "1.0", "--dataset_mixer_list_splits", "train"],
        [
            SHUFFLES.format("open-instruct"),
            "only the answer reaches its verifiers; --id-in-answer puts the id there, for one of your own",
        ],
    ),
)
