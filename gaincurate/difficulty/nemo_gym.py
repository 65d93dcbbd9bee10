"""NeMo Gym's rollouts and reward profiles: lines of JSON with `_ng_task_index` (NVIDIA-NeMo/Gym 07d6b0d0).

A line is matched to a prompt by its messages, because NeMo Gym gives equal rows one index, and by the index
only where it has no messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaincurate.core.files import json_lines
from gaincurate.core.prompts import Message, PromptProblem, chats_of, to_messages
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import OutcomeError

TASK = "_ng_task_index"


@dataclass(frozen=True, slots=True)
class GymRollout:
    """One rollout: its task's index, its reward (None: not judged), and what the line has of its prompt."""

    task: int
    reward: float | None
    messages: list[Message] | None
    gc_id: str | None


def is_nemo_gym(path: Path) -> bool:
    """Whether a file of JSON lines is NeMo Gym's."""
    return TASK in (next(json_lines(path), (0, None))[1] or {})


def read_rollouts(path: Path) -> Iterator[GymRollout]:
    """The rollouts of a file, one for each line or, of a reward profile, for each of its `rollout_infos`.

    Raises:
        OutcomeError: a line that is no JSON object, has no index, or no reward.
        StorageError: the file cannot be read.
    """
    for number, row in json_lines(path):
        where = f"{path}, line {number}"
        if row is None or type(row.get(TASK)) is not int or row[TASK] < 0:
            raise OutcomeError(f"{where}: there is no {TASK}, so NeMo Gym did not write it.", line=number)
        sample = (row.get("sample") if "rollout_infos" in row else row) or {}
        try:
            for info in row.get("rollout_infos", [row]):
                value = info["reward"] if "_ng_failure_class" not in info else info.get("reward")
                yield GymRollout(
                    row[TASK],
                    None if value is None or value != value else float(value),
                    _messages(sample),
                    gc_id if isinstance(gc_id := sample.get(ID), str) else None,
                )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise OutcomeError(
                f"{where} is no rollout or reward profile of NeMo Gym ({type(error).__name__}: {error}); its "
                "inputs have no reward.",
                line=number,
            ) from error


def _messages(sample: Any) -> list[Message] | None:
    params = sample.get("responses_create_params") if isinstance(sample, dict) else None
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
        OutcomeError: see `read_rollouts`; or no rollout's prompt is in the set.
    """
    ids = scored.column(ID).to_pylist()
    places: dict[str, list[int]] = {}
    first = 0
    for table in scored.tables():
        for bare in (True, False):  # NeMo Gym was given the source's rows, or exported ones
            for place, chat in enumerate(chats_of(table, scored.identity, bare=bare), first):
                of_prompt = places.setdefault(prompt_key(chat.messages), [])
                of_prompt += [place] if place not in of_prompt else []
        first += table.num_rows
    known, found, last = set(ids), [], None
    for rollout in read_rollouts(path):
        last = rollout
        gc_id = rollout.gc_id if rollout.gc_id in known else None
        gc_id = gc_id or _find(rollout, ids, places, whole=not scored.manifest.get("rejected"))
        if gc_id is not None and rollout.reward is not None:
            found.append((gc_id, rollout.reward))
    if not found:
        task = "" if last is None else f"; the last is of task {last.task}"
        raise OutcomeError(
            f"{path}: no judged rollout of NeMo Gym is of a prompt of {scored.folder}{task}. Give the file "
            "of this set's prompts.",
            path=str(path),
        )
    return found


def _find(
    rollout: GymRollout, ids: Sequence[str], places: Mapping[str, list[int]], *, whole: bool
) -> str | None:
    """The id of a rollout's prompt; `whole`: the set has each row of its source, so an index means a row."""
    if rollout.messages is None:
        return ids[rollout.task] if whole and rollout.task < len(ids) else None
    found = places.get(prompt_key(rollout.messages), [])
    if len(found) == 1 or rollout.task in found:
        return ids[found[0] if len(found) == 1 else rollout.task]
    return None
