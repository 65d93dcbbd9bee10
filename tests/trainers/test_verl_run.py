"""One verl training by a run, without verl: positions in, rows out, there and back again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dots_runs
import runs
from gaincurate.errors import InputError, OutputError
from gaincurate.trainers.session import PLACE, reward_of
from gaincurate.trainers.verl import run as verl_run
from gaincurate.trainers.verl.run import Training, begin, current, verl_row

BATCH = 4


@pytest.fixture(autouse=True)
def nothing_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verl_run, "_current", None)


def one_step(training: Training, failing: frozenset[str] = frozenset()) -> list[str]:
    """Fetch, then report, as verl does; the ids."""
    live, first = training.live, training.live.position % training.live.budget
    for position in range(first, first + BATCH):
        training.hand_out(position)
    ids = live.ids[live.position - BATCH : live.position]
    reported = [(i, k) for i in ids if i not in failing for k in (0, 1)]
    lines = [{"gc_id": i, "reward": k, "sample": k, "round": live.round} for i, k in reported]
    training.report(training.step, lines)
    return ids


def train(training: Training, steps: int) -> list[str]:
    return [gc_id for _ in range(steps) for gc_id in one_step(training)]


def checkpoint(training: Training, folder: Path) -> Any:
    """What verl writes at a step's end: data.pt first, the callback's file then."""
    folder.mkdir(exist_ok=True)
    state = json.loads(json.dumps(training.state()))
    training.saved(training.step, folder)
    return state


@settings(max_examples=12)
@given(saved_at=st.integers(1, 8), trained_to=st.integers(0, 8))
def test_resumed_anywhere_each_planned_prompt_is_trained_once_in_the_history_that_survives(
    tmp_path_factory: pytest.TempPathFactory, saved_at: int, trained_to: int
) -> None:
    folder = tmp_path_factory.mktemp("verl")
    whole = runs.begin(folder / "whole", rounds=4)
    history = train(Training(whole.folder, BATCH), 8)
    run = runs.begin(folder / "cut", rounds=4)
    first = Training(run.folder, BATCH)
    before = train(first, saved_at)
    state = checkpoint(first, folder / "global_step")
    if trained_to > saved_at:
        train(first, trained_to - saved_at)
    second = Training(run.folder, BATCH, folder / "global_step")
    second.restore(state)
    rest = train(second, 8 - saved_at)
    assert before + rest == history
    assert runs.plans(run) == runs.plans(whole)
    assert history == [gc_id for round_ in range(4) for gc_id in run.ids(round_)]


def test_the_last_checkpoint_finishes_the_run(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=2)
    training = Training(run.folder, BATCH)
    train(training, 4)
    checkpoint(training, tmp_path / "global_step_4")
    assert run.state["finished"]
    assert run.state["inputs"]["rollouts"] == 16
    with pytest.raises(InputError, match=r"^all 2 rounds of .* are done and verl asks for more: set"):
        training.hand_out(0)


def test_a_prompt_whose_rollouts_all_failed_could_not_be_judged(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=2)
    training = Training(run.folder, BATCH)
    failing = frozenset(run.ids(0)[1:2])
    one_step(training, failing)
    one_step(training)
    training.hand_out(0)
    assert run.plan(1)["inputs"]["unjudged"] == 1
    assert run.plan(1)["inputs"]["rollouts"] == 15
    line = next(json.loads(t) for t in run.outcomes(0).read_text().splitlines() if '"reward": null' in t)
    assert line == {"round": 0, "gc_id": run.ids(0)[1], "reward": None, "step": 1}


@pytest.mark.parametrize("position", [1, 5, 8])
def test_positions_out_of_order_are_refused(tmp_path: Path, position: int) -> None:
    run = runs.begin(tmp_path)
    training = Training(run.folder, BATCH)
    with pytest.raises(InputError, match=rf"^verl asks for prompt {position} of round 0 and 0 were handed"):
        training.hand_out(position)
    training.hand_out(0)
    with pytest.raises(InputError, match=r"each is handed out once, in order. Set data.shuffle=False"):
        training.hand_out(0)


def test_another_batch_size_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    first = Training(run.folder, BATCH)
    train(first, 2)
    state = checkpoint(first, tmp_path / "global_step_2")
    second = Training(run.folder, 8, tmp_path / "global_step_2")
    second.restore(state)
    for position in range(8):
        second.hand_out(position)
    with pytest.raises(InputError, match=r"^verl is at step 3 and the prompts that .* handed out make 2:"):
        second.report(3, [])


def test_a_resume_without_a_place_is_refused(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    (tmp_path / "global_step_1").mkdir()
    training = Training(run.folder, BATCH, tmp_path / "global_step_1")
    with pytest.raises(OutputError, match=r"^verl resumed from .*global_step_1, whose data.pt is missing or"):
        training.hand_out(0)


def test_a_checkpoint_of_another_run_is_refused_before_models_are_loaded(tmp_path: Path) -> None:
    one = Training(runs.begin(tmp_path / "one").folder, BATCH)
    train(one, 1)
    checkpoint(one, tmp_path / "global_step_1")
    other = runs.begin(tmp_path / "other", seed=1)
    with pytest.raises(OutputError, match="was saved with another run than"):
        Training(other.folder, BATCH, tmp_path / "global_step_1")


@pytest.mark.parametrize("where", ["actor/huggingface", "actor/model/huggingface"])
def test_the_last_checkpoint_is_scored(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    given: list[str | None] = []
    monkeypatch.setattr(
        "gaincurate.trainers.session.advance", lambda run, path, note, held: given.append(path)
    )
    run = runs.begin(tmp_path, rescore={"what": "round"})
    training = Training(run.folder, BATCH)
    train(training, 1)
    shutil.copytree(tiny_model, tmp_path / "global_step_1" / where)
    checkpoint(training, tmp_path / "global_step_1")
    train(training, 1)
    shutil.copytree(tiny_model, tmp_path / "global_step_2" / where)
    state = checkpoint(training, tmp_path / "global_step_2")
    # Killed here and resumed: the checkpoint that verl resumes from is the one to score.
    training = Training(run.folder, BATCH, tmp_path / "global_step_2")
    training.restore(state)
    with pytest.raises(InputError, match="asks for more"):  # the stand-in planned nothing
        training.hand_out(0)
    assert given == [str(tmp_path / "global_step_2" / where)]


@pytest.mark.parametrize(
    ("whole", "why"), [(True, "actor/huggingface is no folder"), (False, "it is still being written")]
)
def test_a_re_scoring_without_weights_says_what_to_save(tmp_path: Path, whole: bool, why: str) -> None:
    run = runs.begin(tmp_path, rescore={"what": "round"})
    training = Training(run.folder, BATCH)
    (tmp_path / "c").mkdir()
    train(training, 1)
    training.saved(1, tmp_path / "c", whole=whole)  # in the middle of a round nothing is due
    train(training, 1)
    with pytest.raises(InputError, match=rf"and its checkpoint cannot be scored: .*{why}. Set actor_roll"):
        training.saved(2, tmp_path / "c", whole=whole)
    assert json.loads((tmp_path / "c" / PLACE).read_text())["step"] == 2


def test_a_row_with_verls_columns_goes_as_it_is_and_carries_its_id() -> None:
    columns = {"prompt": [], "data_source": "s", "reward_model": {"style": "rule", "ground_truth": "1"}}
    extra = {"index": 17, "split": "train", "none": None}
    row = {"gc_id": "a", "gc_round": 3, **columns, "extra_info": extra}
    info = {"index": 17, "split": "train", "gc_id": "a", "gc_round": 3}
    assert verl_row(row, 5, None, None) == {"gc_id": "a", **columns, "extra_info": info}
    sized = verl_row({**row, "gc_rollouts": 12}, 5, None, None)  # the group size is where verl reads it
    assert sized == {"gc_id": "a", **columns, "extra_info": info, "__rollout_n__": 12}


def test_a_row_without_them_gets_them_from_what_was_named() -> None:
    row = {"gc_id": "a", "gc_round": 0, "prompt": [], "answer": "42"}
    made = verl_row(row, 5, "answer", "openai/gsm8k")
    assert made["reward_model"] == {"style": "rule", "ground_truth": "42"}
    assert made["data_source"] == "openai/gsm8k"
    assert made["extra_info"] == {"index": 5, "gc_id": "a", "gc_round": 0}
    for answer, source, sentence in (
        ("answer", None, "^prompt a has no data_source, by which verl picks the reward function"),
        (None, "s", "no column for the right answer: set .* to one of answer, gc_id, gc_round, prompt.$"),
        ("solution", "s", "^prompt a has no reward_model and solution for the right answer"),
    ):
        with pytest.raises(InputError, match=sentence):
            verl_row(row, 5, answer, source)


def test_the_rows_take_the_answer_that_the_set_knows(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    training = Training(run.folder, BATCH)
    rows = training.rows("question", "s")
    assert [row["gc_id"] for row in rows] == run.ids(0)
    assert [row["reward_model"]["ground_truth"] for row in rows] == [row["question"] for row in rows]
    assert [row["extra_info"]["index"] for row in rows] == list(range(8))


@given(st.integers(-10_000, 10_000), st.sampled_from([1, 10, 100, 1000]))
def test_a_reward_is_what_the_reward_function_said(number: int, parts: int) -> None:
    assert reward_of(float(np.float32(number / parts))) == number / parts


def test_nothing_follows_a_run_without_the_callback(tmp_path: Path) -> None:
    run, other = runs.begin(tmp_path / "a").folder, runs.begin(tmp_path / "b").folder
    for folder in (run, None):
        with pytest.raises(InputError, match="only together with its checkpoint callback, which sees all"):
            current(folder)
    training = begin(run, BATCH, None)
    assert current(run) is current() is training
    with pytest.raises(InputError, match="only together with its checkpoint callback"):
        current(other)


def test_killed_between_data_pt_and_the_callback_the_checkpoint_is_good(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    first = Training(run.folder, BATCH)
    train(first, 1)
    state = first.state()
    train(first, 1)
    (tmp_path / "global_step_1").mkdir()
    second = Training(run.folder, BATCH, tmp_path / "global_step_1")
    second.restore(state)
    assert train(second, 1) == run.ids(0)[BATCH:]
    second.hand_out(0)
    assert run.plan(1)["inputs"]["rollouts"] == 16


def test_references_that_are_rolled_out_with_checkpoints_are_for_other_trainers(tmp_path: Path) -> None:
    rollout = {"verifier": "exact", "answer_column": "question"}
    run = dots_runs.begin(tmp_path, rollout=rollout)
    with pytest.raises(InputError, match="observes references between rounds, and a trainer that follows it"):
        Training(run.folder, BATCH)
