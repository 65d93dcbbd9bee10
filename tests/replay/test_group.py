from __future__ import annotations

import pickle
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.errors import OutcomeError, OutputError
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.rows import SCHEMA, batch_of, decode, encode, groups_of
from rollouts import group

BAD: list[tuple[dict[str, Any], str]] = [
    ({"gc_id": ""}, "a rollout group's gc_id is '', not a text."),
    ({"gc_id": 3}, "a rollout group's gc_id is 3, not a text."),
    ({"policy_version": -1}, "rollout group of prompt 'a': policy_version is -1, not a whole number from 0."),
    ({"step": 1.0}, "rollout group of prompt 'a': step is 1.0, not a whole number from 0."),
    ({"step": True}, "rollout group of prompt 'a': step is True, not a whole number from 0."),
    (
        {"temperature": 0.0},
        "rollout group of prompt 'a': temperature is 0.0; it is above 0, because a greedy rollout has no log-probs to compare with.",
    ),
    ({"top_p": 1.5}, "rollout group of prompt 'a': top_p is 1.5; it is above 0 and at most 1."),
    (
        {"logprobs_of": "x"},
        "rollout group of prompt 'a': logprobs_of is 'x'; it is one of sampled, tempered, raw.",
    ),
    (
        {"extra": {"a": {1}}},
        "rollout group of prompt 'a': extra is no JSON: Object of type set is not JSON serializable.",
    ),
    (
        {"extra": {"a": float("nan")}},
        "rollout group of prompt 'a': extra is no JSON: Out of range float values are not JSON compliant.",
    ),
    ({"prompt_ids": []}, "rollout group of prompt 'a' has an empty prompt."),
    ({"prompt_ids": [[1]]}, "rollout group of prompt 'a': prompt_ids has shape [1, 1], not one dimension."),
    ({"prompt_ids": [0.5]}, "rollout group of prompt 'a': prompt_ids has float64 in it, not token ids."),
    (
        {"completion_ids": [[1], [-100, 2]]},
        "rollout group of prompt 'a': completion_ids of rollout 1 has -100 to 2 in it; token ids are from 0 to 2^31 - 1, so take the padding off first.",
    ),
    (
        {"mask": [[1], [2, 1]]},
        "rollout group of prompt 'a': mask of rollout 1 has other values than 0 and 1.",
    ),
    (
        {"mask": [[1], [1]]},
        "rollout group of prompt 'a': rollout 1 has 2 completion_ids and 1 mask.",
    ),
    (
        {"logprobs": [[-0.5], [-0.5, float("nan")]]},
        "rollout group of prompt 'a': logprobs of rollout 1 has nan at token 1; put 0 where the mask is False and there is none.",
    ),
    (
        {"logprobs": [[-0.5], [-1e300, -1.0]]},
        "rollout group of prompt 'a': logprobs of rollout 1 has -inf at token 0; put 0 where the mask is False and there is none.",
    ),
    (
        {"logprobs": [[-0.5], [-1.0, 0.5]]},
        "rollout group of prompt 'a': logprobs of rollout 1 has 0.5 in it, and a log-prob is 0 at most; are these probabilities, or negated?",
    ),
    (
        {"logprobs": [[-1], [-1, -1]]},
        "rollout group of prompt 'a': logprobs of rollout 0 has int64 in it, not log-probs.",
    ),
    (
        {"rewards": [1.0, float("nan")]},
        "rollout group of prompt 'a': rewards of rollout 1 is nan. A rollout that could not be judged has no place in a group: leave its group out.",
    ),
    ({"correct": ["1", "0"]}, "rollout group of prompt 'a': correct has <U1 in it, not numbers."),
    (
        {"correct": [0.0, 2.0]},
        "rollout group of prompt 'a': correct is from 0 to 2; it is from 0 to 1, before any shaping.",
    ),
    (
        {"advantages": [0.5]},
        "rollout group of prompt 'a' has 2 rewards and 1 advantages: a group is stored whole or not at all. Where processes share a group, gather it first.",
    ),
    (
        {"rewards": [1.0]},
        "rollout group of prompt 'a' has 1 rollouts; without two there is nothing to compare.",
    ),
]


def small(**other: Any) -> RolloutGroup:
    about: dict[str, Any] = {
        "gc_id": "a",
        "prompt_ids": [5, 6],
        "completion_ids": [[1], [2, 3]],
        "mask": [[1], [1, 0]],
        "logprobs": [[-0.5], [-1.0, 0.0]],
        "rewards": [1.0, 0.0],
        "correct": [True, False],
        "advantages": [0.5, -0.5],
        "policy_version": 4,
        "step": 2,
    }
    return RolloutGroup(**{**about, **other})


@pytest.mark.parametrize(("given", "sentence"), BAD, ids=[sentence[-40:] for _, sentence in BAD])
def test_what_is_wrong_is_said(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OutcomeError) as caught:
        small(**given)
    assert str(caught.value).replace(" compliant: nan.", " compliant.") == sentence  # Python 3.13 says which


def test_a_group_knows_its_size_its_tokens_and_its_bytes() -> None:
    one = small()
    assert (one.size, one.tokens, one.key) == (2, 3, ("a", 4, 2))
    assert one.nbytes == 2 * 4 + 3 * 9 + 2 * 24
    assert one.logprobs[1].dtype == np.float32
    assert one.correct.tolist() == [1.0, 0.0]


def test_nothing_of_a_group_changes_when_what_it_was_made_of_does() -> None:
    logprobs = [np.array([-0.5], np.float32), np.array([-1.0, -2.0], np.float32)]
    extra: dict[str, Any] = {"list": [3], "pair": (1, 2)}
    one = small(logprobs=logprobs, extra=extra)
    before = one.digest()
    logprobs[1][:] = -9
    extra["list"].append(4)
    assert one.digest() == before
    assert one.extra == {"list": [3], "pair": [1, 2]}  # as it comes back from a file
    with pytest.raises(ValueError, match="read-only"):
        one.logprobs[0][0] = -9
    with pytest.raises(AttributeError):
        one.step = 3  # type: ignore[misc]


def test_a_group_stays_read_only_in_another_process() -> None:
    copy = pickle.loads(pickle.dumps(small()))
    assert copy.digest() == small().digest()
    assert not copy.logprobs[0].flags.writeable


def test_informative_compares_raw_correctness_exactly() -> None:
    assert small().informative
    assert not small(correct=[1, 1], rewards=[1.0, 0.5]).informative  # shaping alone tells nothing
    assert not small(correct=[0.1 + 0.2, 0.1 + 0.2]).informative
    assert small(correct=[0.1 + 0.2, 0.3]).informative  # not equal, however near


CHANGES: dict[str, Any] = {
    "gc_id": "b",
    "prompt_ids": [5, 7],
    "completion_ids": [[1], [3, 2]],
    "mask": [[1], [0, 1]],
    "logprobs": [[-0.5], [-1.0, -1e-6]],
    "rewards": [1.0, 1e-9],
    "correct": [True, 1e-9],
    "advantages": [0.5, -0.5000001],
    "policy_version": 5,
    "step": 3,
    "temperature": 0.9,
    "top_p": 0.9,
    "logprobs_of": "raw",
    "extra": {"x": 1},
}


def test_the_digest_sees_every_field() -> None:
    assert set(CHANGES) == {field.name for field in fields(RolloutGroup)}
    found = {small().digest(), *[small(**{name: value}).digest() for name, value in CHANGES.items()]}
    assert len(found) == len(CHANGES) + 1
    # The same tokens, divided another way.
    assert (
        small(completion_ids=[[1, 2], [3]], mask=[[1, 1], [0]], logprobs=[[-0.5, -1.0], [0.0]]).digest()
        not in found
    )


floats = st.floats(-1e6, 0, width=32)


@st.composite
def groups(draw: st.DrawFn) -> RolloutGroup:
    size = draw(st.integers(2, 4))
    lengths = [draw(st.integers(0, 3)) for _ in range(size)]

    def each(value: st.SearchStrategy[Any], kind: Any) -> list[Any]:
        return [np.array(draw(st.lists(value, min_size=n, max_size=n)), kind) for n in lengths]

    def numbers(low: float, high: float) -> list[float]:
        return draw(st.lists(st.floats(low, high), min_size=size, max_size=size))

    return RolloutGroup(
        draw(st.text(min_size=1, max_size=5).filter(lambda text: text.isprintable())),
        draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4)),  # type: ignore[arg-type]
        each(st.integers(0, 2**31 - 1), np.int64),  # type: ignore[arg-type]
        each(st.booleans(), bool),  # type: ignore[arg-type]
        each(floats, np.float32),  # type: ignore[arg-type]
        numbers(-1e9, 1e9),  # type: ignore[arg-type]
        numbers(0, 1),  # type: ignore[arg-type]
        numbers(-1e9, 1e9),  # type: ignore[arg-type]
        draw(st.integers(0, 2**40)),
        draw(st.integers(0, 2**40)),
        draw(st.floats(1e-3, 10)),
        draw(st.floats(1e-3, 1)),
        draw(st.sampled_from(["sampled", "tempered", "raw"])),
        draw(st.dictionaries(st.text(max_size=3), st.integers() | st.none(), max_size=2)),
    )


@given(st.lists(groups(), max_size=4))
def test_rows_give_back_the_groups_to_the_bit(made: list[RolloutGroup]) -> None:
    back = decode(encode(made), "here")
    assert [one.digest() for one in back] == [one.digest() for one in made]
    for was, now in zip(made, back, strict=True):
        assert was.key == now.key
        assert [a.tobytes() for a in was.logprobs] == [a.tobytes() for a in now.logprobs]
        assert [a.tolist() for a in was.completion_ids] == [a.tolist() for a in now.completion_ids]


def test_a_row_whose_parts_are_of_two_groups_is_refused() -> None:
    mixed = batch_of([group("a"), group("b", right=2)])
    place = SCHEMA.get_field_index("logprobs")
    mixed = mixed.set_column(place, SCHEMA.field(place), mixed.column(place).take([1, 0]))
    with pytest.raises(OutputError, match="^here, rollout group 0, is damaged: "):
        list(groups_of(mixed, "here"))


def test_bytes_that_are_no_groups_are_refused() -> None:
    with pytest.raises(OutputError, match="^here holds no rollout groups: "):
        decode(b"nothing", "here")
    whole = encode([group("a")])
    with pytest.raises(OutputError, match="^here holds no rollout groups"):
        decode(whole[: len(whole) // 2], "here")
