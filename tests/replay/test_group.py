from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.errors import OutcomeError, OutputError
from gaincurate.replay.group import RolloutGroup
from gaincurate.replay.rows import decode, encode
from rollouts import digest, digests, group

BAD: list[tuple[dict[str, Any], str]] = [
    ({"gc_id": 3}, "a rollout group's gc_id is 3, not a text."),
    ({"policy_version": -1}, "policy_version is -1, not a whole number from 0."),
    ({"step": 1.0}, "step is 1.0, not a whole number from 0."),
    ({"temperature": 0.0}, "temperature is 0.0; it must be above 0 (greedy has no log-probs)"),
    ({"temperature": float("inf")}, "temperature is inf; it must be above 0"),
    ({"extra": {"a": {1}}}, "extra is no JSON: Object of type set is not JSON serializable."),
    ({"extra": {"a": float("nan")}}, "extra is no JSON: Out of range float values are not JSON compliant"),
    ({"prompt_ids": []}, "has an empty prompt."),
    ({"prompt_ids": [[1]]}, "prompt_ids is int64 (1, 1), not 1-D int32."),
    ({"prompt_ids": [-1]}, "has token ids below 0: remove the padding first."),
    ({"prompt_ids": [0.5]}, "prompt_ids is float64 (1,), not 1-D int32."),
    ({"completion_ids": [[1], [-100, 2]]}, "has token ids below 0: remove the padding first."),
    ({"mask": [[1], [1]]}, "rollout 1: 2 completion_ids, 1 mask, 2 logprobs."),
    ({"logprobs": [[-0.5], [-1.0]]}, "rollout 1: 2 completion_ids, 2 mask, 1 logprobs."),
    ({"logprobs": [[-0.5], [-0.5, float("nan")]]}, "logprobs of rollout 1 has a value that is not finite"),
    ({"logprobs": [[-0.5], [-1e300, -1.0]]}, "logprobs of rollout 1 has a value that is not finite"),
    ({"logprobs": [[-0.5], [-1.0, 2e-3]]}, "logprobs of rollout 1 has a value that is not finite or above 0"),
    ({"rewards": [1.0, float("nan")]}, "rewards has a value that is not finite."),
    ({"advantages": [float("inf"), 1.0]}, "advantages has a value that is not finite."),
    ({"correct": [0.0, 2.0]}, "correct has values outside 0 to 1; give it before any shaping."),
    ({"correct": [-1.0, 1.0]}, "correct has values outside 0 to 1; give it before any shaping."),
    ({"advantages": [0.5]}, "has 2 rewards and 1 advantages: a group is stored whole or not at all."),
    ({"rewards": [1.0]}, "has 1 rollouts; without two there is nothing to compare."),
]


def small(**other: Any) -> RolloutGroup:
    about: dict[str, Any] = {
        "gc_id": "a",
        "prompt_ids": [5, 6],
        "completion_ids": [[1], [2, 3]],
        "mask": [[1], [1, 0]],
        "logprobs": [[-0.5], [-1.0, 9e-4]],  # a log-softmax in half precision may be above 0
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
    assert sentence in str(caught.value)


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
    before = digest(one)
    logprobs[1][:] = -9
    extra["list"].append(4)
    assert digest(one) == before
    assert one.extra == {"list": [3], "pair": [1, 2]}  # as it comes back from a file
    with pytest.raises(ValueError, match="read-only"):
        one.logprobs[0][0] = -9
    with pytest.raises(AttributeError):
        one.step = 3  # type: ignore[misc]


def test_a_group_stays_read_only_in_another_process() -> None:
    copy = pickle.loads(pickle.dumps(small()))
    assert digest(copy) == digest(small())
    assert not copy.logprobs[0].flags.writeable


def test_informative_compares_raw_correctness_exactly() -> None:
    assert small().informative
    assert not small(correct=[1, 1], rewards=[1.0, 0.5]).informative  # shaping alone tells nothing
    assert not small(correct=[0.1 + 0.2, 0.1 + 0.2]).informative
    assert small(correct=[0.1 + 0.2, 0.3]).informative  # not equal, however near


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
        each(st.floats(-1e6, 0, width=32), np.float32),  # type: ignore[arg-type]
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
    assert digests(back) == digests(made)
    for was, now in zip(made, back, strict=True):
        assert was.key == now.key
        assert [a.tobytes() for a in was.logprobs] == [a.tobytes() for a in now.logprobs]
        assert [a.tolist() for a in was.completion_ids] == [a.tolist() for a in now.completion_ids]


def test_bytes_that_are_no_groups_are_refused() -> None:
    whole = encode([group("a"), group("b")])
    place = whole.index(group("b").logprobs[1].tobytes())
    changed = whole[:place] + b"\x01" + whole[place + 1 :]
    for data in (b"nothing", whole[: len(whole) // 2], changed):
        with pytest.raises(OutputError, match="^here is damaged: "):
            decode(data, "here")
    other = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(whole)).replace_schema_metadata({"gaincurate": "1"}), other)
    with pytest.raises(OutputError, match="^here has no groups of format 2; use the gaincurate version"):
        decode(other.getvalue(), "here")
