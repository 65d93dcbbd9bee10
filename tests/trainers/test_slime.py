"""slime's rollouts on a run: against a fake with its signatures, and where it is installed, its own classes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import fake_slime
import runs
from adapters import adapter, parameters, reward_of
from gaincurate.errors import InputError, LockedError, OutcomeError, OutputError
from gaincurate.schedule.run import Run

NAMES = ["slime.live"]


@pytest.fixture(params=["fake", "real"])
def slime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The adapter."""
    if request.param == "fake":
        return adapter(monkeypatch, NAMES, fake_slime.modules())[0]
    pytest.importorskip("slime.rollout.data_source", reason="slime is not installed")
    (found,) = adapter(monkeypatch, NAMES, {})
    monkeypatch.setattr(found, "load_tokenizer", fake_slime.load_tokenizer)  # there is no model here
    monkeypatch.setattr(found, "load_processor", fake_slime.load_processor)
    return found


class Training:
    """What slime's train.py does with its rollout manager's data source."""

    def __init__(self, slime: Any, run: Run, folder: Path, start: int = 0, **given: Any) -> None:
        self.args = fake_slime.arguments(run.folder, save=str(folder), load=str(folder), **given)
        self.slime, self.source, self.next = slime, slime.RunDataSource(self.args), start
        self.source.load(start - 1)
        self.trained: list[str] = []
        self.groups: list[Any] = []

    def rollouts(self, count: int, dropped: Any = lambda group: False, save: bool = True) -> None:
        for _ in range(count):
            groups = fake_slime.generate(self.args, self.source, self.slime.report, dropped)
            self.groups += groups
            self.trained += [group[0].metadata["gc_id"] for group in groups]
            if save:
                self.source.save(self.next)
            self.next += 1


def planned(run: Run) -> list[str]:
    return [gc_id for round_ in range(run.config.rounds) for gc_id in run.ids(round_)]


def lines_of(run: Run, round_: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.outcomes(round_).read_text().splitlines()]


def test_three_rounds_are_rolled_out_as_planned(slime: Any, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=3)
    training = Training(slime, run, tmp_path)
    assert len(training.source) == 8  # slime's epoch: two rollouts
    training.rollouts(6)
    assert training.trained == planned(run)
    for round_ in range(3):
        expected = [(gc_id, round_, k, reward_of(gc_id), 7) for gc_id in run.ids(round_) for k in range(2)]
        lines = [line for line in lines_of(run, round_) if "gc_id" in line]
        found = [(x["gc_id"], x["round"], x["sample"], x["reward"], x["tokens"]) for x in lines]
        assert found == expected
    with pytest.raises(InputError, match="/run is finished: give slime --num-epoch 3, no more.$"):
        training.rollouts(1)
    assert run.state["finished"]


def test_groups_and_samples_are_numbered_and_carry_prompt_label_and_round(slime: Any, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    training = Training(slime, run, tmp_path, label_key="question")
    training.rollouts(3)
    for number, group in enumerate(training.groups):
        assert [sample.group_index for sample in group] == [number] * 2
        assert [sample.index for sample in group] == [2 * number, 2 * number + 1]
        question = f"question {int(group[0].metadata['gc_id'][2:])}"
        assert group[1].prompt == [{"role": "user", "content": question}]
        assert group[1].label == question
        assert group[1].metadata["gc_round"] == number // 8
    assert group[0].metadata is not group[1].metadata


@pytest.mark.parametrize(("saved_at", "killed_at"), [(1, 2), (2, 2), (3, 5), (2, 6), (5, 6)])
def test_resumed_in_the_middle_of_a_round_the_plans_are_those_of_a_run_that_never_stopped(
    slime: Any, tmp_path: Path, saved_at: int, killed_at: int
) -> None:
    whole = runs.begin(tmp_path / "whole", rounds=3)
    Training(slime, whole, tmp_path / "whole").rollouts(6)
    run = runs.begin(tmp_path / "cut", rounds=3)
    killed = Training(slime, run, tmp_path / "cut")
    killed.rollouts(killed_at)
    killed.source.live.close()
    again = Training(slime, run, tmp_path / "cut", start=saved_at)
    again.rollouts(6 - saved_at)
    assert killed.trained[: 4 * saved_at] + again.trained == planned(run)
    assert runs.plans(run) == runs.plans(whole)
    numbers = [group[0].group_index for group in again.groups]
    assert numbers == list(range(4 * saved_at, 24))


def test_saved_while_the_next_rollout_is_generated_the_place_is_the_trained_ones(
    slime: Any, tmp_path: Path
) -> None:
    """train_async.py: rollout 1 is there already when 0 is saved."""
    run = runs.begin(tmp_path)
    training = Training(slime, run, tmp_path)
    training.rollouts(2, save=False)
    training.source.save(0)
    training.source.live.close()
    again = Training(slime, run, tmp_path, start=1)
    again.rollouts(1)
    assert again.trained == run.ids(0)[4:]
    again.rollouts(1)
    assert run.plan(1)["inputs"]["rollouts"] == 16


def test_a_reward_that_is_missing_or_one_of_many_is_read(slime: Any, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    training = Training(slime, run, tmp_path, reward_key="score")
    groups = training.source.get_samples(2)
    groups[0][0].reward, groups[0][1].reward = {"score": 1, "format": 0}, None
    split = [[sample, sample] for sample in groups[1]]  # one rollout in two training samples
    for sample in groups[1]:
        sample.reward = {"score": 0.5}
    slime.report(training.args, [groups[0], split], training.source.get_samples)
    assert [line["reward"] for line in lines_of(run, 0)] == [1.0, None, 0.5, 0.5]


def test_all_settings_that_break_the_schedule_are_refused_at_once(slime: Any, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    wrong = {
        "rollout_all_samples_process_path": None,
        "rollout_batch_size": 3,
        "input_key": "input",
        "num_epoch": 7,
    }
    with pytest.raises(InputError) as caught:
        slime.RunDataSource(fake_slime.arguments(run.folder, **wrong))
    assert caught.value.data["findings"] == [
        "adapter-missing",
        "epochs",
        "tail",
        "over-sampling",
        "prompt-key",
    ]
    lines = str(caught.value).split("\n")
    assert lines[0] == (
        "rollout_all_samples_process_path is null: the adapter never hears of a reward. Set "
        "rollout_all_samples_process_path=gaincurate.trainers.slime.report."
    )
    assert lines[2].startswith("rollout_batch_size is 3: 3 prompts a step, but a round has 8: ")
    slime.RunDataSource(fake_slime.arguments(run.folder)).live.close()  # the refused one let the run go


def test_what_takes_more_prompts_than_a_step_trains_is_refused(slime: Any, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    more = {
        "over_sampling_batch_size": 6,
        "partial_rollout": True,
        "dynamic_sampling_filter_path": "my.filter",
        "rollout_max_prompt_len": 1,
    }
    with pytest.raises(InputError) as caught:
        slime.RunDataSource(fake_slime.arguments(run.folder, **more))
    assert caught.value.data["findings"] == ["over-sampling", "dynamic-sampling", "partial-rollout"]


def test_a_round_without_outcomes_is_not_left(slime: Any, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    training = Training(slime, run, tmp_path)
    training.rollouts(1)
    training.source.get_samples(4)
    with pytest.raises(
        OutcomeError, match="slime reports where a rollout ends; the prompts of a group that it"
    ):
        training.source.get_samples(4)


def test_a_bad_set_up_is_said(slime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaincurate.core.process._FREED", 0.0)
    run = runs.begin(tmp_path)
    with pytest.raises(InputError, match="not said: give its folder by --prompt-data FOLDER"):
        slime.RunDataSource(fake_slime.arguments(None))
    with pytest.raises(OutputError, match=r"set is no run: it has no run\.json"):
        slime.RunDataSource(fake_slime.arguments(tmp_path / "set"))
    training = Training(slime, run, tmp_path)
    with pytest.raises(
        InputError, match="^rollout 0 was not reported: give --rollout-all-samples-process-path"
    ):
        training.source.save(0)
    with pytest.raises(
        OutputError, match=r"gaincurate_state_4\.json is not there: rollout 4 did not follow a"
    ):
        training.source.load(4)
    with pytest.raises(LockedError, match="still at work"):
        slime.RunDataSource(training.args)


def test_a_training_that_begins_anew_takes_round_0_back_and_no_more(slime: Any, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    training = Training(slime, run, tmp_path)
    training.rollouts(1)
    training.source.live.close()
    again = Training(slime, run, tmp_path)
    again.rollouts(3)
    assert run.plan(1)["inputs"]["rollouts"] == 16
    again.source.live.close()
    with pytest.raises(OutputError, match="stands at round 1 and the trainer begins at step 0"):
        Training(slime, run, tmp_path)


def test_without_slime_the_adapter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slime.utils.data", None)
    with pytest.raises(
        InputError, match=r"^this adapter is for slime 624b824a8 \(2026-08-21\) and works inside"
    ):
        adapter(monkeypatch, NAMES, {})


@pytest.mark.parametrize("name", ["get_samples", "add_samples", "save", "load", "__len__"])
def test_the_source_has_the_signatures_of_its_base(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (slime,) = adapter(monkeypatch, NAMES, fake_slime.modules())
    expected = parameters(getattr(fake_slime.DataSource, name))
    assert parameters(getattr(slime.RunDataSource, name)) == expected
    assert parameters(slime.RunDataSource) == ["args"]
    assert parameters(slime.report) == ["args", "all_samples", "data_source"]


def test_the_fake_has_the_signatures_of_slime() -> None:
    real = pytest.importorskip("slime.rollout.data_source", reason="slime is not installed")
    from slime.utils.data import Dataset
    from slime.utils.types import Sample

    for name in ("get_samples", "add_samples", "save", "load", "__len__"):
        assert parameters(getattr(fake_slime.DataSource, name)) == parameters(getattr(real.DataSource, name))
    assert parameters(fake_slime.Dataset.__init__) == parameters(Dataset.__init__)
    assert set(fake_slime.Sample.__dataclass_fields__) <= set(Sample.__dataclass_fields__)
    assert parameters(fake_slime.Sample.get_reward_value) == parameters(Sample.get_reward_value)
    rollout = Path(real.__file__).with_name("sglang_rollout.py").read_text()
    assert "process_func(args, all_samples, data_source)" in rollout
    assert "samples = data_source(args.over_sampling_batch_size)" in rollout
