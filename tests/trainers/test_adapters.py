"""Live adapters against fakes of their trainers, which have the trainers' signatures."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fake_nemo_rl
import fake_slime
import fake_trinity
import fake_verifiers
import runs
from adapters import Table, exported, parameters, reward_of
from gaincurate.errors import InputError, LockedError, OutcomeError, OutputError
from gaincurate.schedule.run import Run
from live_trainers import Driver, Nemo, Prime, Slime, Trace, Trinity

# What holds for all of them.

DRIVERS: tuple[type[Driver], ...] = (Nemo, Slime, Trinity, Prime)


@pytest.fixture(params=DRIVERS)
def trainer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return request.param(monkeypatch)


def planned(run: Run) -> list[str]:
    return [gc_id for round_ in range(run.config.rounds) for gc_id in run.ids(round_)]


def lines_of(run: Run, round_: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.outcomes(round_).read_text().splitlines()]


def test_rounds_are_trained_as_planned_and_every_rollout_is_reported(trainer: Driver, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=3)
    loop = trainer.begin(run, tmp_path)
    loop.steps(6)
    assert loop.trained == planned(run)
    for round_ in range(3):
        lines = [(x["gc_id"], x["round"], x["reward"]) for x in lines_of(run, round_) if "gc_id" in x]
        expected = [(gc_id, round_, reward_of(gc_id)) for gc_id in run.ids(round_)]
        assert lines == [line for line in expected for _ in range(trainer.rollouts)]
    if trainer.resumes_unseen:  # the stream goes on, and is not reported
        loop.steps(2)
        assert loop.trained[24:] == run.ids(2)
        assert len(lines_of(run, 2)) == 16
        return
    with pytest.raises((StopIteration, InputError)):
        loop.steps(1)
    assert run.state["finished"]


@pytest.mark.parametrize(("saved_at", "killed_at"), [(1, 2), (2, 2), (3, 5), (2, 6), (5, 6)])
def test_resumed_plans_are_the_same(trainer: Driver, tmp_path: Path, saved_at: int, killed_at: int) -> None:
    whole, run = (runs.begin(tmp_path / name, rounds=3) for name in ("whole", "cut"))
    trainer.begin(whole, tmp_path / "whole").steps(6)
    killed = trainer.begin(run, tmp_path / "cut")
    killed.steps(killed_at)
    killed.end()
    again = trainer.begin(run, tmp_path / "cut", saved_at)
    again.steps(6 - saved_at)
    assert killed.trained[: 4 * saved_at] + again.trained == planned(run)
    assert runs.plans(run) == runs.plans(whole)


def test_a_training_that_begins_anew_takes_round_0_back_and_no_more(trainer: Driver, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    for name, steps in (("a", 1), ("b", 3)):
        (tmp_path / name).mkdir()
        loop = trainer.begin(run, tmp_path / name)
        loop.steps(steps)
        loop.end()
    assert run.plan(1)["inputs"]["rollouts"] == 8 * trainer.rollouts
    if not trainer.resumes_unseen:
        (tmp_path / "c").mkdir()
        with pytest.raises(OutputError, match="is at round 1 and the trainer begins at step 0"):
            trainer.begin(run, tmp_path / "c").steps(1)


def test_other_runs_are_refused(trainer: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaincurate.core.process._FREED", 0.0)
    run = runs.begin(tmp_path)
    sizes = {"strategy": "posterior", "options": {"group_sizes": "2,16"}}
    refused: list[tuple[Any, type[Exception], str]] = [
        (None, InputError, f"given: set its folder by {trainer.where}"),
        ({"rescore": {"what": "round"}}, InputError, r"\(--rescore round\), which is not done live with"),
        (sizes, InputError, "give each prompt a group size, and .* has one size for all prompts. Start"),
    ]
    for number, (options, error, sentence) in enumerate(refused):
        folder = tmp_path / str(number)
        other = None if options is None else runs.begin(folder, **options)
        with pytest.raises(error, match=sentence):
            trainer.begin(other, folder if other else tmp_path).steps(1)
    loop = trainer.begin(run, tmp_path)
    loop.steps(1)
    with pytest.raises(LockedError, match="still at work"):
        trainer.begin(run, tmp_path).steps(1)


@pytest.mark.parametrize(
    ("package", "missing", "public", "version"),
    [
        ("slime", "slime.utils.data", "report", r"slime 624b824a8 \(2026-08-21\)"),
        ("trinity", "trinity.buffer.selector.selector", "RunSelector", "Trinity-RFT 0.6"),
        ("prime_rl", "verifiers.v1", "RunTask", r"verifiers a60a606ec \(2026-08-21\)"),
        ("verl", "verl", "RunDataset", "verl 0.9.1"),
    ],
)
def test_without_its_trainer_an_adapter_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, package: str, missing: str, public: str, version: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, f"gaincurate.trainers.{package}.live", raising=False)
    with pytest.raises(InputError, match=f"^this adapter is for {version} and only works inside it"):
        getattr(importlib.import_module(f"gaincurate.trainers.{package}"), public)


def test_missing_outcomes_have_the_trainers_reason(trainer: Driver, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=12)
    loop = trainer.begin(run, tmp_path)
    loop.steps(2)
    with pytest.raises(OutcomeError) as caught:
        loop.ask_ahead()
    assert str(caught.value).startswith("round 0 has outcomes for 8 of its 12 prompts and 100% of them")
    assert f"lacks {', '.join(run.ids(0)[8:])}. " in str(caught.value)
    assert str(caught.value).endswith(
        f"{trainer.ahead} A run started with --min-coverage 0.6666 continues here; later outcomes are late."
    )


# What holds for one.


@pytest.fixture
def nemo(monkeypatch: pytest.MonkeyPatch) -> Nemo:
    return Nemo(monkeypatch)


@pytest.mark.parametrize("keep_id", [True, False])
def test_nemo_rl_finds_rows_by_id_or_by_place(nemo: Nemo, tmp_path: Path, keep_id: bool) -> None:
    run = runs.begin(tmp_path)
    loop = nemo.begin(run, tmp_path, keep_id=keep_id)
    loop.steps(2)
    assert loop.questions == [f"question {int(gc_id[2:])}" for gc_id in run.ids(0)]
    info = next(loop.batches)["extra_env_info"][0]
    made = {"gc_id": run.ids(1)[0], "gc_round": 1, "gc_step": 3, "gc_run": str(run.folder)}
    assert info == {"ground_truth": info["ground_truth"], **made}


def test_nemo_rls_environment_reports_what_ended_from_any_process(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    info = {"gc_id": run.ids(0)[0], "gc_round": 0, "gc_step": 1, "gc_run": str(run.folder)}
    validation = {"gc_id": run.ids(0)[1]}  # rows that keep their id
    program = (
        "import json, sys\nfrom gaincurate.trainers.nemo_rl import report\n"
        "report(json.loads(sys.argv[1]), [1.0, 1.0, 0.25, 0.5, 1.0], [True, True, False, True, True])"
    )
    infos = json.dumps([None, {"ground_truth": "4"}, info, info, validation])
    subprocess.run([sys.executable, "-c", program, infos], check=True)
    assert lines_of(run, 0) == [{"round": 0, "gc_id": run.ids(0)[0], "reward": 0.5, "step": 1}]


def test_a_bad_set_up_of_nemo_rl_is_said(nemo: Nemo, tmp_path: Path) -> None:
    run, results = runs.begin(tmp_path), tmp_path / "results"
    table, fewer = Table(exported(run)), Table({"question": exported(run)["question"]})
    other = tmp_path / "other.jsonl"
    other.write_text('{"gc_id": "id0000", "input": "why?"}\n')
    for sentence, *given in (
        ("^set GAINCURATE_CHECKPOINTS to checkpointing.checkpoint_dir: a resume", None, table, None),
        ("data.train have no gc_id, so GAINCURATE_DATA is needed: there is no file", results, fewer, None),
        ("jsonl has 1 rows with gc_id, input, not the 60 that were read", results, fewer, other),
    ):
        with pytest.raises(InputError, match=sentence):
            next(nemo.batches(run, *given)[0])
    (results / "step_3").mkdir(parents=True)
    torch.save({}, results / "step_3/train_dataloader_the-task.pt")
    with pytest.raises(OutputError, match=r"step_3/train_dataloader_the-task\.pt has no place in a run"):
        next(nemo.batches(run, results, table, None)[0])


@pytest.fixture
def slime(monkeypatch: pytest.MonkeyPatch) -> Slime:
    return Slime(monkeypatch)


def test_slimes_samples_carry_number_prompt_label_and_round(slime: Slime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    loop = slime.begin(run, tmp_path, label_key="question")
    assert len(loop.source) == 8  # slime's epoch: two rollouts
    loop.steps(1)
    loop.end()
    again = slime.begin(run, tmp_path, start=1, label_key="question")
    again.steps(2)
    for number, group in enumerate([*loop.groups, *again.groups]):
        assert [sample.group_index for sample in group] == [number] * 2
        assert [sample.index for sample in group] == [2 * number, 2 * number + 1]
        question = f"question {int(group[0].metadata['gc_id'][2:])}"
        assert group[1].prompt == [{"role": "user", "content": question}]
        assert group[1].label == question
        assert group[1].metadata["gc_round"] == number // 8
        assert group[0].metadata is not group[1].metadata
    assert [(line["sample"], line["tokens"]) for line in lines_of(run, 1)] == [(0, 7), (1, 7)] * 4


def test_slimes_place_is_that_of_the_trained_rollout(slime: Slime, tmp_path: Path) -> None:
    """train_async.py: rollout 1 is there already when 0 is saved."""
    run = runs.begin(tmp_path)
    loop = slime.begin(run, tmp_path)
    loop.steps(2, save=False)
    loop.source.save(0)
    loop.end()
    again = slime.begin(run, tmp_path, start=1)
    again.steps(2)
    assert again.trained == [*run.ids(0)[4:], *run.ids(1)[:4]]
    assert run.plan(1)["inputs"]["rollouts"] == 16


def test_a_reward_of_slimes_that_is_missing_or_one_of_many_is_read(slime: Slime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    loop = slime.begin(run, tmp_path, reward_key="score")
    groups = loop.source.get_samples(2)
    groups[0][0].reward, groups[0][1].reward = {"score": 1, "format": 0}, None
    # One rollout in two training samples, of which the last has the reward.
    split = [[copy.deepcopy(sample), sample] for sample in groups[1]]
    for sample in groups[1]:
        sample.reward = {"score": 0.5}
    slime.live.report(loop.args, [groups[0], split], loop.source.get_samples)
    assert [line["reward"] for line in lines_of(run, 0)] == [1.0, None, 0.5, 0.5]


@pytest.mark.parametrize(
    ("wrong", "findings"),
    [
        ("rollout_all_samples_process_path=None rollout_batch_size=3 input_key='input' num_epoch=7", "adapter-missing epochs tail over-sampling prompt-key"),
        ("over_sampling_batch_size=6 partial_rollout=True dynamic_sampling_filter_path='my.filter'", "over-sampling dynamic-sampling partial-rollout"),
    ],
)  # fmt: skip
def test_wrong_settings_of_slime_are_refused(slime: Slime, tmp_path: Path, wrong: str, findings: str) -> None:
    run = runs.begin(tmp_path)
    with pytest.raises(InputError) as caught:
        slime.begin(run, tmp_path, **eval(f"dict({wrong.replace(' ', ', ')})"))
    assert caught.value.data["findings"] == findings.split()
    slime.begin(run, tmp_path)  # the refused one let the run go


def test_a_rollout_that_slime_did_not_report_is_said(slime: Slime, tmp_path: Path) -> None:
    loop = slime.begin(runs.begin(tmp_path), tmp_path)
    with pytest.raises(InputError, match="^rollout 0 was not reported: give --rollout-all-samples-process-"):
        loop.source.save(0)
    with pytest.raises(OutputError, match=r"gaincurate_state_4\.json is missing: rollout 4 did not follow"):
        loop.source.load(4)


@pytest.fixture
def trinity(monkeypatch: pytest.MonkeyPatch) -> Trinity:
    return Trinity(monkeypatch)


def test_with_enough_coverage_trinity_goes_on_and_the_rest_is_late(trinity: Trinity, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=12, min_coverage=0.6666)
    loop = trinity.begin(run, tmp_path, interval=2)
    loop.steps(6)
    assert loop.trained == [*run.ids(0), *run.ids(1)]
    assert [line["gc_id"] for line in lines_of(run, 1) if line["round"] == 0] == run.ids(0)[8:]
    loop.steps(1)
    assert run.plan(2)["inputs"]["late"] == 4


def test_a_failed_batch_of_trinitys_takes_no_outcomes_of_the_next(trinity: Trinity, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, min_coverage=0.5)
    loop = trinity.begin(run, tmp_path, interval=100)
    loop.steps(2)
    loop.tasks.feedback({"other": 1.0})
    del loop.open[0]
    loop.finish(1)
    assert [(line["gc_id"], line["step"]) for line in lines_of(run, 0)] == [(i, 2) for i in run.ids(0)[4:]]
    loop.steps(1)
    assert run.plan(1)["inputs"]["prompts"] == 4


def test_batches_on_their_way_when_trinity_saves_are_explored_again(trinity: Trinity, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    killed = trinity.begin(run, tmp_path, interval=100)
    killed.steps(2)
    killed.finish(1)
    killed.save()
    killed.end()
    again = trinity.begin(run, tmp_path, start=2)
    again.steps(2)
    assert again.trained == [*run.ids(0)[4:], *run.ids(1)[:4]]
    assert run.plan(1)["inputs"]["rollouts"] == 8


def test_a_bad_set_up_of_trinity_is_said(trinity: Trinity, tmp_path: Path) -> None:
    run = runs.begin(tmp_path / "a")
    with pytest.raises(OutputError, match="the task set 'the-set' has no column gc_id; write it with"):
        trinity.tasks(run, tmp_path, {}, {"question": ["why?"]})
    run = runs.begin(tmp_path / "b")
    with pytest.raises(OutputError, match="the explorer's saved state is another selector's, with no place"):
        trinity.tasks(run, tmp_path, {"latest_iteration": 2, "taskset_states": [{"current_index": 8}]})
    run = runs.begin(tmp_path / "c")
    columns = exported(run)
    at = columns["gc_id"].index(run.ids(0)[1])
    fewer = {name: values[:at] + values[at + 1 :] for name, values in columns.items()}
    with pytest.raises(InputError, match=f"^'{run.ids(0)[1]}' of the run is not in the task set"):
        asyncio.run(trinity.tasks(run, tmp_path, {}, fewer).read())


@pytest.fixture
def prime(monkeypatch: pytest.MonkeyPatch) -> Prime:
    return Prime(monkeypatch)


def test_prime_rls_fast_forward_changes_nothing(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    killed = prime.begin(run, tmp_path)
    killed.groups(16)
    killed.end()

    def seen() -> dict[str, bytes]:
        paths = [path for path in run.folder.rglob("*") if path.is_file() and path.name != "execution.jsonl"]
        return {str(path): path.read_bytes() for path in paths}

    before = seen()
    again = prime.begin(run, tmp_path, start=4)  # a whole round, whose outcomes are in, is not turned
    assert seen() == before
    assert run.state["round"] == 1
    again.groups(1)
    assert run.state["round"] == 2


def test_with_enough_coverage_prime_rl_goes_on_and_the_rest_is_late(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, min_coverage=0.75, rounds=4)
    loop = prime.begin(run, tmp_path, ahead=2)
    loop.groups(20)
    assert loop.trained == [*run.ids(0), *run.ids(1), *run.ids(2)[:4]]
    late = [line["gc_id"] for line in lines_of(run, 1) if line["round"] == 0]
    assert late == [gc_id for gc_id in run.ids(0)[6:] for _ in range(2)]
    assert run.plan(2)["inputs"]["late"] == 2


def test_a_key_of_prime_rls_is_the_prompts_and_no_score_is_in_the_data(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rows=8, with_scores=True, strategy="uniform")
    loop = prime.begin(run, tmp_path)
    tasks = []
    for _ in range(16):
        tasks.append(next(loop.sampler))
        loop.serve(tasks[-1])
    assert {task.key for task in tasks[:8]} == {task.key for task in tasks[8:]} == set(run.ids(0))
    fields = {"gc_id", "gc_round", "gc_attempt", "gc_run"}
    assert {name for name in type(tasks[0].data).model_fields if name.startswith("gc_")} == fields


def test_a_rollout_of_prime_rls_that_cannot_be_scored_is_unjudged(prime: Prime, tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    task = next(prime.begin(run, tmp_path).sampler)
    broken = prime.task(task.data.model_copy(update={"answer": "question 999"}))
    with pytest.raises(Exception, match="the judge is gone"):
        asyncio.run(broken.score(Trace("a")))
    assert [line["reward"] for line in lines_of(run, 0)] == [None]


FAKES: dict[str, list[type]] = {
    "trinity.buffer.selector.selector": [fake_trinity.BaseSelector],
    "slime.rollout.data_source": [fake_slime.DataSource],
    "slime.utils.data": [fake_slime.Dataset],
    "slime.utils.types": [fake_slime.Sample],
    "verifiers.v1": [fake_verifiers.Task, fake_verifiers.Taskset, fake_verifiers.TaskData],
    "prime_rl.orchestrator.curriculum.samplers.standard": [fake_verifiers.StandardSampler],
    "nemo_rl.data.dataloader": [fake_nemo_rl.MultipleDataloaderWrapper],
    "nemo_rl.environments.interfaces": [fake_nemo_rl.EnvironmentReturn],
}


@pytest.mark.parametrize("module", FAKES)
def test_a_fake_has_the_signatures_and_fields_of_its_trainer(module: str) -> None:
    there = pytest.importorskip(module, reason=f"{module} is not installed")
    for fake in FAKES[module]:
        real = getattr(there, fake.__name__)
        assert set(vars(fake).get("__annotations__", {})) <= set(real.__annotations__)
        for name, method in vars(fake).items():
            if inspect.isfunction(method) and not hasattr(fake, "__dataclass_fields__"):
                assert parameters(method) == parameters(getattr(real, name)), name
