from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import runs
from gaincurate.core.outcomes import Rules, read_outcomes
from gaincurate.difficulty.prompts import Completion
from gaincurate.difficulty.rollout import decoded, encoded
from gaincurate.difficulty.rollout_set import RolloutSet, outcome_lines, pass_rates, unmarked
from gaincurate.errors import InputError
from server_rollouts import write_set

Rewards = dict[str, list[float | None]]


def make(folder: Path, shards: list[Rewards], text: str = "text", verifier: str = "math") -> Path:
    judged = [
        {
            gc_id: [(f"{text} {k}", reward) for k, reward in enumerate(rewards)]
            for gc_id, rewards in prompts.items()
        }
        for prompts in shards
    ]
    return write_set(folder, judged, verifier={"name": verifier})


@pytest.mark.parametrize("success", [0.0, 1.5])
def test_a_success_is_a_reward_above_0_and_up_to_1(tmp_path: Path, success: float) -> None:
    with pytest.raises(InputError, match="expected a reward above 0 and up to 1"):
        pass_rates(tmp_path, success=success)


@pytest.mark.parametrize(
    ("verifier", "rewards", "text", "named"),
    [
        ("reasoning-gym", [0.01, 0.0], "it is 4", True),
        ("reasoning-gym", [0.01, 1.0], "it is 4", False),
        ("reasoning-gym", [0.0, 0.0], "<answer>4</answer>", False),
        ("math", [0.0, 0.0], r"it is \boxed{4}", False),
        ("math", [0.0, None], "it is 4", True),
        ("my:own", [0.0, 0.0], "it is 4", False),
    ],
)
def test_completions_without_the_marks_of_the_verifier_are_named_if_none_is_right(
    tmp_path: Path, verifier: str, rewards: list[float | None], text: str, named: bool
) -> None:
    made = make(tmp_path / "set", [{"a": rewards}, {"b": rewards}], text=text, verifier=verifier)
    assert (unmarked(RolloutSet(made)) is not None) == named


@given(
    shards=st.lists(
        st.lists(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=5), max_size=4), max_size=3
    ),
    success=st.none() | st.floats(0.01, 1),
)
@example(shards=[[[0.5, 1.0, 0.25, None]]], success=0.5)
@example(shards=[[[0.5, 1.0]]], success=1.0)
def test_pass_rates_are_sums_of_what_was_judged(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[list[float | None]]], success: float | None
) -> None:
    # The set's order is not that of the names: a seeded bootstrap over the prompts has other intervals otherwise.
    named = [{f"{9 - s}-{9 - p}": list(r) for p, r in enumerate(prompts)} for s, prompts in enumerate(shards)]
    folder = make(tmp_path_factory.mktemp("sets") / "set", named)
    unjudged = sum(reward is None for prompts in shards for rewards in prompts for reward in rewards)
    assert RolloutSet(folder).manifest["unjudged"] == unjudged
    found = pass_rates(folder, success=success)
    rows = {row["gc_id"]: row for row in found.to_pylist()}
    assert list(rows) == [gc_id for prompts in named for gc_id in prompts]
    for prompts in named:
        for gc_id, rewards in prompts.items():
            judged = [r if success is None else float(r >= success) for r in rewards if r is not None]
            assert rows[gc_id]["samples"] == len(judged)
            assert rows[gc_id]["wins"] == pytest.approx(sum(judged), abs=1e-12)
            assert rows[gc_id]["wins"] + rows[gc_id]["losses"] == pytest.approx(len(judged), abs=1e-12)


def test_the_lines_of_a_rollout_set_are_taken_by_a_schedule(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    ids = run.ids(0)
    made = make(tmp_path / "rollouts", [{gc_id: [1.0, 0.0, None] for gc_id in ids}])
    runs.write(run, 0, list(outcome_lines(made, 0)))
    taken = read_outcomes(run.outcomes(0), 0, lambda round_: ids, Rules())
    assert [taken.tallies[gc_id].successes for gc_id in ids] == [[1.0, 0.0]] * len(taken.tallies)
    assert taken.unjudged == len(ids)
    assert taken.tokens == 6 * len(ids)
    assert taken.repeated == 0


def test_a_completion_survives_the_journal_bit_for_bit() -> None:
    logprobs = -np.random.default_rng(0).exponential(size=50).astype(np.float32)
    done = Completion("a", 3, "text ü", None, None, 7, logprobs, np.arange(50, dtype=np.int32))
    back = decoded(json.loads(json.dumps(encoded(done))))
    assert (back.key, back.text, back.finish_reason, back.tokens, back.prompt_tokens) == (
        ("a", 3), "text ü", None, None, 7,
    )  # fmt: skip
    assert back.logprobs is not None
    assert back.token_ids is not None
    assert back.logprobs.tobytes() == logprobs.tobytes()
    assert back.token_ids.dtype == np.int32
    bare = decoded(json.loads(json.dumps(encoded(Completion("a", 0, "", "stop", 0, 1)))))
    assert bare.logprobs is None
    assert bare.token_ids is None
