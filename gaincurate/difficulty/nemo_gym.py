"""NeMo Gym's rollouts and reward profiles: lines of JSON with `_ng_task_index` (NVIDIA-NeMo/Gym 07d6b0d0).

A line is matched to a prompt by its messages, because NeMo Gym gives equal rows one index, and by the index
only where it has no messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gaincurate.core.files import json_lines
from gaincurate.core.prompts import Message, PromptProblem, chats_of, to_messages
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import OutcomeError

TASK = "_ng_task_index"


def is_nemo_gym(path: Path) -> bool:
    """Whether a file of JSON lines is NeMo Gym's."""
    return TASK in (next(json_lines(path), (0, None))[1] or {})


def _rollouts(path: Path) -> Iterator[tuple[int, float | None, dict[str, Any]]]:
    """Each rollout's task index, its reward (None: not judged), and what the line has of its prompt.

    A line is one rollout or, of a reward profile, one for each of its `rollout_infos`.
    """
    for number, row in json_lines(path):
        where = f"{path}, line {number}"
        if row is None or type(row.get(TASK)) is not int or row[TASK] < 0:
            raise OutcomeError(f"{where}: there is no {TASK}, so NeMo Gym did not write it.", line=number)
        sample = (row.get("sample") if "rollout_infos" in row else row) or {}
        try:
            for info in row.get("rollout_infos", [row]):
                value = info["reward"] if "_ng_failure_class" not in info else info.get("reward")
                yield row[TASK], None if value is None or value != value else float(value), {**sample}
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise OutcomeError(
                f"{where} is no rollout or reward profile of NeMo Gym ({type(error).__name__}: {error}); its "
                "inputs have no reward.",
                line=number,
            ) from error


def _messages(sample: dict[str, Any]) -> list[Message] | None:
    params = sample.get("responses_create_params")
    if not isinstance(params, dict):
        return None
    try:
        messages = to_messages(params.get("input"))
    except PromptProblem:
        return None
    system = params.get("instructions")
    return [{"role": "system", "content": system}, *messages] if isinstance(system, str) else messages


def prompt_key(messages: Sequence[Message]) -> str:
    """Roles and contents as a text that can be compared."""
    return json.dumps([[message.get("role"), message.get("content")] for message in messages], default=str)


def rewards_of(path: Path, scored: ScoredSet) -> list[tuple[str, float]]:
    """The id and reward of each judged rollout whose prompt is in a scored set.

    Raises:
        OutcomeError: a line that is no JSON object, has no index, or no reward; or no rollout's prompt is in
            the set.
        StorageError: the file cannot be read.
    """
    ids = scored.column(ID).to_pylist()
    # Where the set has each row of its source, an index means a row.
    known, whole, first = set(ids), not scored.manifest.get("rejected"), 0
    places: dict[str, list[int]] = {}
    for table in scored.tables():
        for bare in (True, False):  # NeMo Gym was given the source's rows, or exported ones
            for place, chat in enumerate(chats_of(table, scored.identity, bare=bare), first):
                of_prompt = places.setdefault(prompt_key(chat.messages), [])
                of_prompt += [place] if place not in of_prompt else []
        first += table.num_rows
    rewards, last = [], ""
    for task, reward, sample in _rollouts(path):
        last = f"; the last is of task {task}"
        gc_id, messages = sample.get(ID), _messages(sample)
        if not isinstance(gc_id, str) or gc_id not in known:
            equal = places.get(prompt_key(messages), []) if messages is not None else []
            by_index = task < len(ids) if messages is None and whole else task in equal
            gc_id = ids[equal[0]] if len(equal) == 1 else ids[task] if by_index else None
        if gc_id is not None and reward is not None:
            rewards.append((gc_id, reward))
    if not rewards:
        raise OutcomeError(
            f"{path}: no judged rollout of NeMo Gym is of a prompt of {scored.folder}{last}. Give the file "
            "of this set's prompts.",
            path=str(path),
        )
    return rewards
