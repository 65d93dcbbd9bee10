"""The trainers by name, and what a file for each must keep to: takes a name, yields its facts.

Facts are names and habits of one version, which `read` says; docs/export.md has the table. Knows nothing of
rows or files.
"""

from __future__ import annotations

from dataclasses import dataclass

from gaincurate.errors import InputError

TRAINERS = (
    "trl",
    "verl",
    "openrlhf",
    "nemo-rl",
    "skyrl",
    "slime",
    "prime-rl",
    "trinity",
    "areal",
    "roll",
    "open-instruct",
)
_BOTH = (".parquet", ".jsonl")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Trainer:
    """One trainer.

    `read` is the version that was read. `suffixes` are the files that it reads and that are written here.
    `reserved` are column names to which it gives a meaning of its own or which it overwrites. `judge` is the
    column by which it picks a reward function, None where it has none, and `judge_needed` says that it fails
    without one. `id_in_answer`: the answer is the one thing that reaches its reward function, so the id goes
    there. `answer_needed`: it cannot read rows without an answer.
    """

    read: str
    reserved: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = _BOTH
    judge: str | None = None
    judge_needed: bool = False
    id_in_answer: bool = False
    answer_needed: bool = False


FACTS = {
    "trl": Trainer(
        "1.16.0",
        # Arguments that reward functions get besides the columns, and the columns that it reads as pictures.
        _names(
            "prompts completions completion completion_ids trainer_state log_extra log_metric environments "
            "image images"
        ),
    ),
    "verl": Trainer(
        "0.9.1",
        # What its data set class and its agent loop set beside the columns.
        _names(
            "raw_prompt dummy_tensor index tools_kwargs interaction_kwargs images videos audios uid "
            "sampling_params trajectory trace session_id global_steps prompts responses input_ids "
            "attention_mask position_ids rm_scores"
        ),
        judge="data_source",
        judge_needed=True,
    ),
    "openrlhf": Trainer("0.11.2", frozenset({"images"}), judge="datasource", id_in_answer=True),
    # A column `messages` makes it take the rows as they are, input_key or not.
    "nemo-rl": Trainer("7ea279abf (2026-08-22)", frozenset({"messages", "task_name"}), answer_needed=True),
    "skyrl": Trainer("a9564572e (2026-08-21)", judge="data_source"),
    # `tools` goes into the chat template by default.
    "slime": Trainer("624b824a8 (2026-08-21)", frozenset({"tools"})),
    # The other fields of verifiers' TaskData.
    "prime-rl": Trainer(
        "559b44772 (2026-08-21) with verifiers 0.4.0",
        _names(
            "description image workdir agent_user skills network_allow network_block artifacts "
            "artifact_max_bytes timeout resources"
        ),
    ),
    "trinity": Trainer("0.6.0"),
    # Its reward functions get the row as keywords behind these four.
    "areal": Trainer(
        "4aef98d8d (2026-05-21)", frozenset({"prompt", "completions", "prompt_ids", "completion_ids"})
    ),
    "roll": Trainer(
        "8eb27cc2 (2026-08-18)",
        frozenset({"domain", "prompt", "input_ids", "attention_mask"}),
        suffixes=(".jsonl",),
        judge="tag",
        judge_needed=True,
        answer_needed=True,
    ),
    "open-instruct": Trainer(
        "e6c3044aa (2026-08-20)",
        _names(
            "prompt index input_ids_prompt input_ids attention_mask labels tools env_config dataset_source"
        ),
        judge="dataset",
        judge_needed=True,
        answer_needed=True,
    ),
}


def find_trainer(name: str) -> Trainer:
    """A trainer's facts.

    Raises:
        InputError: no such trainer; lists those there are.
    """
    if name not in FACTS:
        raise InputError(f"--trainer {name}: there is no such trainer here; there are {', '.join(TRAINERS)}.")
    return FACTS[name]
