from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gaincurate.errors import InputError, OutcomeError
from gaincurate.replay.group import RolloutGroup
from gaincurate.trainers.verl.replay_settings import Trajectory, groups_of, rows_of


def row(uid: str = "u", place: int = 0, reward: float = 1.0, index: int = 0, **other: Any) -> Trajectory:
    tokens = torch.tensor([3, 4, 5 + place])
    mask = torch.tensor([1, 0, 1])
    fields = {
        "uid": uid,
        "prompts": torch.tensor([1, 2]),
        "responses": tokens,
        "input_ids": torch.tensor([1, 2, *tokens.tolist()]),
        "position_ids": torch.arange(5),
        "response_mask": mask,
        "loss_mask": mask,
        "rm_scores": torch.tensor([0.0, 0.0, reward]),
        "rollout_log_probs": torch.tensor([-0.25, 0.0, -1.5 - place]),
        "extra_info": {"index": 4, "gc_id": "p4"},
        "raw_prompt": [{"role": "user", "content": "?"}],
        "multi_modal_inputs": {},
        "num_turns": np.int64(2),
        "old_log_probs": torch.zeros(3),
        "advantages": torch.ones(3),
        **other,
    }
    tag = {"min_global_steps": 6, "max_global_steps": 6, "status": "success", "global_steps": 7}
    return Trajectory(f"{uid}_{place}_{index}", tag, {k: v for k, v in fields.items() if v is not None})


def grouped(rows: list[Trajectory], span: tuple[float, float] = (0.0, 1.0)) -> list[RolloutGroup]:
    return groups_of(rows, 7, 2, span, temperature=0.6, top_p=1.0)


def test_a_group_has_what_the_rows_have() -> None:
    (found,) = grouped([row(place=1, reward=0.0), row()])
    assert (found.gc_id, found.step, found.policy_version, found.size) == ("p4", 7, 7, 2)
    assert found.prompt_ids.tolist() == [1, 2]
    assert [one.tolist() for one in found.completion_ids] == [[3, 4, 5], [3, 4, 6]]  # by place
    assert [one.tolist() for one in found.mask] == [[True, False, True]] * 2
    assert [one.tolist() for one in found.logprobs] == [[-0.25, 0.0, -1.5], [-0.25, 0.0, -2.5]]
    assert (found.rewards.tolist(), found.advantages.tolist()) == ([1.0, 0.0], [0.5, -0.5])
    assert (found.temperature, found.logprobs_of) == (0.6, "sampled")


def test_rows_come_back_without_what_a_step_computes() -> None:
    given = [row(), row(place=1, reward=0.0)]
    (group,) = grouped(given)
    back = rows_of(group, "replay9-0", 9)
    assert [one.key for one in back] == ["replay9-0_0_0", "replay9-0_1_0"]
    for was, now in zip(given, back, strict=True):
        assert set(now.fields) == set(was.fields) - {"old_log_probs", "advantages"}
        for name, value in now.fields.items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == was.fields[name].dtype
                assert torch.equal(value, was.fields[name])
            elif name != "uid":
                assert value == was.fields[name]
        assert now.fields["uid"] == "replay9-0"
        assert now.tag == {
            "status": "success",
            "prompt_len": 2,
            "response_len": 3,
            "seq_len": 5,
            "global_steps": 9,
            "min_global_steps": 6,  # the versions that generated it
            "max_global_steps": 6,
        }


def test_a_prompt_some_of_whose_rollouts_failed_is_left_out() -> None:
    given = [row("a"), row("b"), row("b", 1, 0.0)]
    assert [one.size for one in grouped(given)] == [2]
    assert grouped([]) == []


def test_without_an_id_the_prompts_tokens_name_it() -> None:
    names = [
        grouped([row(place=n, extra_info=extra, prompts=torch.tensor([1, k])) for n in (0, 1)])[0].gc_id
        for extra, k in ((None, 2), ({"index": 3}, 2), (None, 3))
    ]
    assert names[0] == names[1] != names[2]


def test_rewards_are_correct_by_their_range() -> None:
    given = [row(reward=-1.0), row(place=1, reward=1.0)]
    (found,) = grouped(given, (-1.0, 1.0))
    assert found.correct.tolist() == [0.0, 1.0]
    with pytest.raises(OutcomeError, match="correct has values outside 0 to 1"):
        grouped(given)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([row(), row(index=1)], "^rollout u_0 is of several trajectories; replay keeps one a rollout. Train"),
        ([row(rollout_log_probs=None), row(place=1)], "^u_0_0 has no rollout_log_probs: set "),
        ([row(), row(place=1, rm_scores=None)], "^u_0_0 has no rm_scores: set "),
        (
            [row(routed_experts=torch.zeros(3)), row(place=1)],
            "^the field routed_experts of a rollout is a tensor, which replay does",
        ),
    ],
)
def test_rows_that_replay_cannot_keep_are_refused(rows: list[Trajectory], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        grouped(rows)
