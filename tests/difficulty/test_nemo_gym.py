"""NeMo Gym's rollouts and reward profiles as pass rates of a set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import exports
from gaincurate.core.files import write_lines
from gaincurate.core.outcomes import Rules
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.pass_rates import read_pass_rates
from gaincurate.errors import InputError, OutcomeError

# The last two prompts are equal, so that NeMo Gym would give rows that are equal throughout one index.
ROWS = [
    {"question": text, "answer": str(k)}
    for k, text in enumerate(["One?", "Two?", "Three?", "Same?", "Same?"])
]
REWARDS: list[list[float]] = [[0, 0], [0, 1], [1, 1], [1, 0.5], [0, 0]]


def params(place: int, form: str = "messages") -> dict[str, Any]:
    """Both forms of the Responses API's input, with the keys that NeMo Gym writes beside it."""
    text = ROWS[place]["question"]
    parts: Any = [{"type": "input_text", "text": text}] if form == "parts" else text
    given = text if form == "text" else [{"content": parts, "role": "user", "type": "message"}]
    return {"background": None, "input": given, "tools": [], "temperature": 1.0}


def rollouts(form: str = "messages", order: list[int] | None = None) -> list[dict[str, Any]]:
    """The lines of `gym eval run`, in the order in which rollouts are done."""
    return [
        {
            "responses_create_params": params(place, form),
            "response": {"output": [], "usage": {"input_tokens": 9, "output_tokens": 7 + index}},
            "reward": REWARDS[place][index],
            "_ng_task_index": place,
            "_ng_rollout_index": index,
            "agent_ref": {"name": "a"},
        }
        for index in (1, 0)
        for place in order or range(5)
    ]


BARE = [{k: v for k, v in row.items() if k != "responses_create_params"} for row in rollouts()]


def profile(*, prompts: bool = True) -> list[dict[str, Any]]:
    """The lines of `gym eval profile`."""
    return [
        {
            "_ng_task_index": place,
            "mean/reward": sum(REWARDS[place]) / 2,
            "num_rollouts": 2,
            "sample": {"responses_create_params": params(place)} if prompts else {},
            "rollout_infos": [
                {"_ng_task_index": place, "_ng_rollout_index": k, "reward": REWARDS[place][k]} for k in (0, 1)
            ],
        }
        for place in range(5)
    ]


FORMS: dict[str, tuple[list[dict[str, Any]], int]] = {
    "messages": (rollouts(), 5),
    "text": (rollouts("text"), 5),
    "parts": (rollouts("parts"), 5),
    "without prompts": (BARE, 5),
    "profile": (profile(), 5),
    "profile without prompts": (profile(prompts=False), 5),
    # Indexes of another file, where prompts alone tell which task is whose.
    "another file": ([{**row, "_ng_task_index": row["_ng_task_index"] + 70} for row in rollouts(order=[0, 1, 2])], 3),
    "with ids": ([{**row, "gc_id": f"id{row['_ng_task_index']:04d}", "_ng_task_index": 0} for row in BARE], 5),
    "with a failure": ([*rollouts(), {"_ng_task_index": 0, "_ng_rollout_index": 9, "_ng_failure_class": "x"}], 5),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_pass_rates_of_a_set(tmp_path: Path, form: str) -> None:
    scored = ScoredSet(exports.make_set(tmp_path / "set", ROWS))
    rows, count = FORMS[form]
    write_lines(tmp_path / "a.jsonl", rows)
    (rates,) = read_pass_rates(tmp_path / "a.jsonl", scored=scored)
    assert rates.ids == [f"id{k:04d}" for k in range(count)]
    assert rates.wins.tolist() == [sum(rewards) for rewards in REWARDS[:count]]
    assert (rates.wins + rates.losses).tolist() == [2] * count
    assert rates.counted


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"_ng_task_index": 0}, "line 1 is no rollout or reward profile of NeMo Gym .KeyError: 'reward'"),
        ({"_ng_task_index": "0", "reward": 1}, "line 1: there is no _ng_task_index"),
        ({"_ng_task_index": -1, "reward": 1}, "line 1: there is no _ng_task_index"),
        ({"_ng_task_index": 0, "reward": "good"}, "line 1 is no rollout .* of NeMo Gym .ValueError"),
        ({"_ng_task_index": 0, "rollout_infos": 3}, "line 1 is no rollout .* of NeMo Gym .TypeError"),
        (
            {"_ng_task_index": 0, "rollout_infos": [{"reward": 1}], "sample": [["a", 1]]},
            "of NeMo Gym .TypeError",
        ),
        ({"_ng_task_index": 0, "reward": 10**400}, "line 1 is no rollout .* .OverflowError"),
        ({"_ng_task_index": 99, "reward": 1}, "no judged rollout of NeMo Gym is of a prompt of"),
        ({"_ng_task_index": 0, "reward": 7}, "reward of 'id0000' is 7, outside 0 to 1"),
    ],
)
def test_lines_that_cannot_be_used_are_refused(tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    scored = ScoredSet(exports.make_set(tmp_path / "set", ROWS))
    write_lines(tmp_path / "a.jsonl", [row])
    with pytest.raises(OutcomeError, match=sentence):
        read_pass_rates(tmp_path / "a.jsonl", Rules(), scored=scored)


def test_a_command_without_a_set_says_what_it_needs(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", rollouts())
    with pytest.raises(InputError, match="which have no gc_id; give them to a command that is also"):
        read_pass_rates(tmp_path / "a.jsonl")
