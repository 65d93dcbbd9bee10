"""Steps and prompts of a round by TRL's arithmetic, and every setting that would break the plan."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trl
from hypothesis import given
from hypothesis import strategies as st

import runs
import trl_run
from gaincurate.errors import InputError
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.trainers.doctor.examine import judge, trainer_named
from gaincurate.trainers.doctor.findings import context_of
from gaincurate.trainers.doctor.read import Read
from gaincurate.trainers.doctor.settings import flat
from gaincurate.trainers.session import RunSession
from gaincurate.trainers.trl.batching import BatchShape, shape_of
from gaincurate.trainers.trl.checks import check, newest, places_of, see_checkpoint
from trl_run import schedule as config

SIX = st.integers(1, 6)
SHAPES = st.builds(BatchShape, st.integers(1, 5), st.integers(2, 4), repeats=SIX, accumulation=SIX)


@given(SHAPES, st.integers(1, 8), st.data())
def test_steps_follow_trls_arithmetic(shape: BatchShape, generations: int, data: st.DataObject) -> None:
    budget = shape.prompts * generations
    batches = generations * shape.repeats
    steps = shape.steps(budget)
    assert steps == math.ceil(batches / shape.accumulation)
    if batches % shape.accumulation:
        return
    assert shape.taken(steps) == budget
    assert not shape.inside(steps)
    step = data.draw(st.integers(0, steps))
    # by brute force: walk through the micro-batches and see which generations were begun
    generated = len({batch // shape.repeats for batch in range(step * shape.accumulation)})
    if not shape.inside(step):
        assert shape.taken(step) == generated * shape.prompts
    assert shape.inside(shape.window * data.draw(st.integers(1, 5))) is False
    assert all(shape.inside(k) for k in range(1, shape.window))


def trainer(*, iterations: int = 1, processes: int = 1, rows: int = 16, **options: Any) -> Any:
    given: dict[str, Any] = {
        "output_dir": "out", "per_device_train_batch_size": 8, "num_generations": 2, "shuffle_dataset": False,
        "num_train_epochs": 3, "save_steps": 2, "use_cpu": True, "bf16": False, "report_to": "none",
    }  # fmt: skip
    args, ids = trl.GRPOConfig(**(given | options)), [f"id{k}" for k in range(rows)]
    made = trl_run.stub(args, ids, iterations=iterations, processes=processes)
    made.given = given | options | {"num_iterations": iterations}
    return made


def test_the_shape_is_read_from_trls_own_settings() -> None:
    made = trainer(gradient_accumulation_steps=2, steps_per_generation=4, iterations=3)
    assert shape_of(made) == BatchShape(prompts=16, group=2, repeats=12, accumulation=2)


def test_trls_defaults_but_for_what_must_be_set_are_fine() -> None:
    check(trainer(), config())
    check(trainer(save_strategy="no"), config())
    check(trainer(max_steps=12), config())
    check(trainer(max_steps=5), config())  # a part of the run
    check(trainer(save_only_model=True, save_strategy="no"), config())
    check(trainer(save_strategy="epoch"), config("window"))
    check(trainer(save_steps=4), config("window", 2))
    check(trainer(save_strategy="epoch"), config(options={"rollout": {"verifier": "math"}}))
    check(trainer(save_strategy="no"), config(options={"rollout": {"verifier": "math", "server": "u"}}))


ROLLS_OUT: dict[str, Any] = {"options": {"rollout": {"verifier": "math"}}}
BEST = {"save_strategy": "best", "metric_for_best_model": "loss", "eval_strategy": "steps"}
FOUR: dict[str, Any] = {"steps_per_generation": 4, "gradient_accumulation_steps": 1}


@pytest.mark.parametrize(
    ("options", "run", "begins", "ends"),
    [
        ({"remove_unused_columns": True}, config(), "gc_id is dropped", "=False"),
        ({"shuffle_dataset": True}, config(), "the adapter refuses to begin", "shuffle_dataset=False"),
        ({}, config(budget=18), "4 prompts a step, but a round has 18", "--align-to 4 --budget 16`"),
        ({"gradient_accumulation_steps": 3, "steps_per_generation": 2}, config(), "4 micro-batches", "=1"),
        ({"num_train_epochs": 5}, config(), "num_train_epochs is 5: the run has 3 rounds", "epochs=3"),
        ({"max_steps": 13}, config(), "max_steps is 13: the run has 12 steps", "Set max_steps=12"),
        ({"save_only_model": True}, config(), "has no optimizer", "False, or save_strategy='no'"),
        (FOUR | {"save_steps": 4, "max_steps": 10}, config(), "max_steps is 10: it is inside", "max_steps=12"),
        (BEST, config(), "save_strategy is best: the adapter refuses it", "save_strategy='steps'"),
        ({"save_steps": 0.5}, config(), "save_steps is 0.5: it is a share of all steps", "save_steps=12"),
        (FOUR | {"save_steps": 6}, config(), "inside a generation's window", "save_steps=8"),
        ({"save_steps": 3}, config("window", 2), "save_steps is 3: --rescore window", "divisor of 8"),
        ({"save_strategy": "no"}, config("full"), "is no, save_steps is 2: --rescore full", "divisor of 4"),
        ({"save_steps": 8}, config(**ROLLS_OUT), "is 8: --rollout without a server", "divisor of 4"),
        ({"ignore_data_skip": True}, config(), "ignore_data_skip is true", "ignore_data_skip=False"),
        ({"accelerator_config": {"split_batches": True}}, config(), "split_batches is true", "batches=False"),
    ],
)  # fmt: skip
def test_what_would_break_the_plan_is_refused_with_what_fixes_it(
    options: dict[str, Any], run: ScheduleConfig, begins: str, ends: str
) -> None:
    with pytest.raises(InputError) as caught:
        check(trainer(**options), run)
    assert begins in str(caught.value)
    assert str(caught.value).endswith(f"{ends}.")
    assert "\n" not in str(caught.value)
    assert said_before(trainer(**options), run) == caught.value.data["findings"]


def said_before(made: Any, run: ScheduleConfig) -> list[str]:
    """What the doctor finds in a file with the trainer's settings that breaks the schedule."""
    report = judge(trainer_named("trl"), Read(given=flat(made.given)), context_of(run, "live"))
    return [finding.name for finding in report.findings if finding.breaks]


def test_all_that_is_wrong_is_refused_at_once_and_the_doctor_said_so_before() -> None:
    made = trainer(
        shuffle_dataset=True, num_train_epochs=5, save_steps=3, steps_per_generation=4, ignore_data_skip=True
    )
    made.train_dataset = made.train_dataset.to_iterable_dataset()
    with pytest.raises(InputError) as caught:
        check(made, config("window"), outcome="length")
    lines = str(caught.value).splitlines()
    assert lines.pop() == "the reward function 'length' does not exist; the trainer has right."
    named = "shuffle_dataset save_steps save_strategy ignore_data_skip num_train_epochs train_dataset"
    assert [line.split(" is ")[0] for line in lines] == named.split()
    refused_now = caught.value.data["findings"]
    assert isinstance(refused_now, list)
    assert sorted(refused_now) == sorted([*said_before(made, config("window")), "dataset", "outcome"])
    check(trainer(dataloader_num_workers=2), config())
    assert not said_before(trainer(dataloader_num_workers=2), config())


def test_rows_that_are_not_the_runs_are_refused() -> None:
    rows = trainer().train_dataset
    assert places_of(rows, ["id3", "id1"]) == [3, 1]
    with pytest.raises(InputError, match="^train_dataset has no row for 'id99' of the plan"):
        places_of(rows, ["id1", "id99"])


def test_a_newest_checkpoint_of_another_batch_is_refused(tmp_path: Path) -> None:
    live, then = RunSession(runs.begin(tmp_path, budget=8).folder), BatchShape(4, 2, 1, 1)
    for step in (1, 2):
        folder = tmp_path / f"out/checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
        (folder / "rng_state.pth").touch()
        live.save_beside(folder, step, position=4 * step, batch=then.batch)
    assert newest(tmp_path / "out", live, then) == tmp_path / "out/checkpoint-2"
    with pytest.raises(InputError) as caught:
        newest(tmp_path / "out", live, BatchShape(2, 4, 1, 1))
    assert str(caught.value) == (
        f"cannot resume from {tmp_path / 'out/checkpoint-2'}: it has another batch, so no resume "
        "is exact: per_device_train_batch_size * processes * steps_per_generation / num_generations was 4, now "
        "2; num_generations was 2, now 4. Set these back, or start a new run."
    )
    assert newest(tmp_path / "none", live, then) is None
    between = BatchShape(4, 2, 2, 1)  # a generation feeds two steps, so step 1 lies inside one
    for step in (1, 2):
        live.save_beside(tmp_path / f"out/checkpoint-{step}", step, position=4, batch=between.batch)
    assert newest(tmp_path / "out", live, between) == tmp_path / "out/checkpoint-2"
    (tmp_path / "out/checkpoint-2/rng_state.pth").unlink()
    assert newest(tmp_path / "out", live, between) is None


def test_checkpoints_without_whole_weights_cannot_be_scored_with() -> None:
    made = trainer()
    made.is_fsdp_enabled = True
    made.accelerator.state.fsdp_plugin = SimpleNamespace(state_dict_type="StateDictType.SHARDED_STATE_DICT")
    check(made, config())  # nobody scores with them
    with pytest.raises(InputError, match="^--rescore window needs whole weights in every checkpoint, and"):
        check(made, config("window"))
    with pytest.raises(InputError, match="^--rollout without a server needs whole weights in every"):
        check(made, config(options={"rollout": {"verifier": "math"}}))
    made = trainer()
    made.is_deepspeed_enabled = True
    made.accelerator.state.deepspeed_plugin = SimpleNamespace(zero_stage=3, zero3_save_16bit_model=False)
    with pytest.raises(InputError, match=r"ZeRO-3 saves shards\. Set"):
        check(made, config("window"))
    made.accelerator.state.deepspeed_plugin.zero3_save_16bit_model = True
    check(made, config("window"))


@pytest.mark.parametrize("what", ["rollout", "rescore"])
def test_a_round_whose_next_one_takes_a_checkpoint_has_one_of_its_own_end(what: str) -> None:
    """By brute force over rounds and steps; four steps a round, of three rounds."""
    shape = BatchShape(prompts=4, group=2, repeats=1, accumulation=1)
    run = config("window", 2) if what == "rescore" else config(options={"rollout": {"verifier": "math"}})
    takes = {1: 8} if what == "rescore" else {0: 4, 1: 8}  # and none before the last round's end
    refused = {}
    for round_ in range(3):
        for saved in range(4 * round_ + 5):
            try:
                see_checkpoint(run, shape, round_, saved)
            except InputError as error:
                refused[round_, saved] = str(error)
    assert refused.keys() == {(round_, saved) for round_, end in takes.items() for saved in range(end)}
    for (round_, saved), said in refused.items():
        last = f"the newest checkpoint is of step {saved}" if saved else "no checkpoint was saved"
        assert said.startswith(f"round {round_} ended at step {takes[round_]}, and {last}: --r")
