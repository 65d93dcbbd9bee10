"""verl's settings for a run: what to set, and a sentence for each that is wrong. verl itself is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import runs
from gaincurate.errors import InputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.doctor.examine import judge, run_context, trainer_named
from gaincurate.trainers.doctor.findings import defaults_of
from gaincurate.trainers.doctor.read import Read
from gaincurate.trainers.verl.settings import check, overrides, run_in

DEFAULTS = dict(defaults_of("verl"))


def settings(run: Run, **changed: Any) -> dict[str, Any]:
    """The defaults with a run's overrides, and then with what a person changed (dots as two underscores)."""
    given = dict(one.split("=", 1) for one in overrides(run.folder, 4))
    found: dict[str, Any] = DEFAULTS | given
    for name in ("data.train_batch_size", "trainer.total_epochs", "trainer.save_freq"):
        found[name] = int(found[name])
    found |= {"data.shuffle": False, "data.dataloader_num_workers": 0}
    contents = found["actor_rollout_ref.actor.checkpoint.save_contents"]
    if isinstance(contents, str):
        found["actor_rollout_ref.actor.checkpoint.save_contents"] = contents.strip("[]").split(",")
    return found | {name.replace("__", "."): value for name, value in changed.items()}


def refused(run: Run, **changed: Any) -> str:
    with pytest.raises(InputError) as caught:
        check(settings(run, **changed).get, run)
    return str(caught.value)


def test_the_overrides_name_the_run_and_are_all_that_is_needed(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=8, rounds=3)
    assert overrides(run.folder, 4) == [
        f"data.train_files={run.folder}",
        "data.custom_cls.path=pkg://gaincurate.trainers.verl",
        "data.custom_cls.name=RunDataset",
        "data.shuffle=False",
        "data.dataloader_num_workers=0",
        "data.train_batch_size=4",
        "trainer.total_epochs=3",
        "trainer.v1.sampler.custom_sampler.path=pkg://gaincurate.trainers.verl",
        "trainer.v1.sampler.custom_sampler.name=RunReplayBuffer",
        "trainer.checkpoint_callback_class=gaincurate.trainers.verl.RunCheckpoint",
    ]
    check(settings(run).get, run)


def test_a_run_that_scores_anew_wants_weights_at_the_end_of_its_rounds(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=8, rounds=5, rescore={"what": "round", "every": 2})
    assert overrides(run.folder, 4)[-2:] == [
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        "trainer.save_freq=4",
    ]
    check(settings(run).get, run)
    check(settings(run, trainer__save_freq=2).get, run)


def test_group_sizes_want_their_mean_as_the_trainers_and_whole_batches(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"strategy": "posterior", "options": {"group_sizes": "2,16", "group_size": 5}}
    run = runs.begin(tmp_path, align_to=4, **sizes)
    check(settings(run, actor_rollout_ref__rollout__n=5).get, run)
    assert refused(run) == (
        "actor_rollout_ref.rollout.n is 1, data.train_batch_size is 4: the group sizes of the plans have a mean "
        "of 5 in each 4 prompts, and verl counts mini-batches by it. Set actor_rollout_ref.rollout.n=5, "
        "data.train_batch_size=4."
    )
    half = {"actor_rollout_ref__rollout__n": 5, "data__train_batch_size": 2}
    assert "data.train_batch_size is 2" in refused(run, **half)
    given = {"actor_rollout_ref.rollout.n": 5, "data.train_batch_size": 4}
    for shuffle, wrong in ((True, True), (False, False)):
        report = judge(
            trainer_named("verl"), Read(given=given | {"data.shuffle": shuffle}), run_context(run, "segment")
        )
        assert ("group-sizes" in {finding.name for finding in report.findings}) == wrong
    report = judge(trainer_named("trl"), Read(given={"max_steps": 1}), run_context(run, "segment"))
    assert "group-sizes" in {finding.name for finding in report.findings}


def test_the_batch_is_the_runs_alignment_or_a_round(tmp_path: Path) -> None:
    assert "data.train_batch_size=8" in overrides(runs.begin(tmp_path / "a").folder)
    assert "data.train_batch_size=2" in overrides(runs.begin(tmp_path / "b", align_to=2).folder)
    with pytest.raises(InputError, match=r"^data.train_batch_size is 3 and a round has 8 prompts, which is"):
        overrides(tmp_path / "a/run", 3)


def test_a_path_is_quoted_where_hydra_would_read_it_otherwise(tmp_path: Path) -> None:
    run = runs.begin(tmp_path / "it's, odd=1")
    assert overrides(run.folder)[0] == f"data.train_files='{tmp_path}/it\\'s, odd=1/run'"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"data__shuffle": True},
            "data.shuffle is true: the adapter refuses to begin, because the order would not be the "
            "plan's. Set data.shuffle=false.",
        ),
        (
            {"data__dataloader_num_workers": 8},
            "data.dataloader_num_workers is 8: its loader fetches ahead, so prompts are chosen before"
            " the rewards that should choose them. Set data.dataloader_num_workers=0.",
        ),
        (
            {"data__train_batch_size": 3},
            "data.train_batch_size is 3: 3 prompts a step, but a round has 8: the last 2 of each "
            "round are never trained, and report nothing. Set data.train_batch_size=2, "
            "actor_rollout_ref.actor.ppo_mini_batch_size=2, or start the run with `gaincurate "
            "schedule start --align-to 3 --budget 9`.",
        ),
        (
            {"data__train_max_samples": 100},
            "data.train_max_samples is 100: rows are left out, at random where data.shuffle is on. "
            "Set data.train_max_samples=-1.",
        ),
        (
            {"data__custom_cls__path": None},
            "data.custom_cls.path is null: the rows are the file's, whatever the schedule plans. Set "
            "data.custom_cls.path=pkg://gaincurate.trainers.verl, data.custom_cls.name=RunDataset.",
        ),
        (
            {"trainer__v1__sampler__custom_sampler__path": None},
            "trainer.v1.sampler.custom_sampler.path is null: the adapter never hears of a reward. Set"
            " trainer.v1.sampler.custom_sampler.path=pkg://gaincurate.trainers.verl, "
            "trainer.v1.sampler.custom_sampler.name=RunReplayBuffer.",
        ),
        (
            {"trainer__v1__trainer_mode": "colocate_async"},
            "trainer.v1.trainer_mode is colocate_async: prompts are fetched ahead, before the "
            "rollouts of the last step are in. Set trainer.v1.trainer_mode=sync.",
        ),
        (
            {"algorithm__filter_groups__enable": True},
            "algorithm.filter_groups.enable is true: groups are replaced by further prompts, so steps"
            " and rows do not agree. Set algorithm.filter_groups.enable=false.",
        ),
        (
            {"trainer__v1__sync__parameter_sync_step": 2},
            "trainer.v1.sync.parameter_sync_step is 2: a step's prompts are taken apart, and the "
            "adapter takes rollouts one step at a time. Set trainer.v1.sync.parameter_sync_step=1.",
        ),
        (
            {"reward__reward_model__enable": True},
            "reward.reward_model.enable_resource_pool is null: the reward model rewards rollouts "
            "after the adapter takes them. Set reward.reward_model.enable_resource_pool=true.",
        ),
        (
            {"trainer__total_epochs": 30},
            "trainer.total_epochs is 30, but the run has 3 rounds, and a round is one pass here. Set "
            "trainer.total_epochs=3.",
        ),
        (
            {"trainer__total_training_steps": 7},
            "trainer.total_training_steps is 7, but the run has 6 steps: there are no rows for the "
            "rest. Set trainer.total_training_steps=6.",
        ),
        (
            {"data__max_prompt_length": 80},
            "data.max_prompt_length is 80: OVER prompts of the set are longer (FIRST and so on), and are cut from the "
            "left, so they are not what was scored. Set data.max_prompt_length=MOST. The longest has MOST tokens; or "
            "leave them out: `gaincurate score --max-length`.",
        ),
        (
            {"data__filter_overlong_prompts": True, "data__max_prompt_length": 80},
            "data.max_prompt_length is 80: OVER prompts of the set are longer (FIRST and so on), and are dropped in "
            "silence, so they never report. Set data.max_prompt_length=MOST. The longest has MOST tokens; or leave "
            "them out: `gaincurate score --max-length`.",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_setting_that_breaks_the_plan_has_its_sentence(
    tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    run = runs.begin(tmp_path, budget=8, rounds=3)
    counts = dict(
        zip(
            run.scored.column("gc_id").to_pylist(),
            run.scored.column("gc_prompt_tokens").to_pylist(),
            strict=True,
        )
    )
    over = [gc_id for gc_id, count in counts.items() if count > 80]
    facts = {"OVER": len(over), "FIRST": ", ".join(over[:3]), "MOST": max(counts.values())}
    for name, value in facts.items():
        sentence = sentence.replace(name, str(value))
    assert refused(run, **changed) == sentence


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"actor_rollout_ref__actor__checkpoint__save_contents": ["model"]},
            "actor_rollout_ref.actor.checkpoint.save_contents is [model]: no Hugging Face weights, "
            "which scoring and the next round begin with. Set "
            "actor_rollout_ref.actor.checkpoint.save_contents=[model,hf_model].",
        ),
        (
            {"actor_rollout_ref__actor__checkpoint__async_save": True},
            "actor_rollout_ref.actor.checkpoint.async_save is true: checkpoints are not whole yet "
            "when the run scores again. Set "
            "actor_rollout_ref.actor.checkpoint.async_save=false.",
        ),
        (
            {"trainer__save_freq": 3},
            "trainer.save_freq is 3: --rescore round needs a checkpoint every 4 steps, and none is "
            "saved there. Set trainer.save_freq=4, or a divisor of 4.",
        ),
        (
            {"trainer__save_freq": -1},
            "trainer.save_freq is -1: --rescore round needs a checkpoint every 4 steps, and none is "
            "saved there. Set trainer.save_freq=4, or a divisor of 4.",
        ),
    ],
)
def test_a_re_scoring_needs_whole_checkpoints_in_time(
    tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    run = runs.begin(tmp_path, budget=8, rounds=5, rescore={"what": "round", "every": 2})
    assert refused(run, **changed) == sentence


def test_a_bare_run_has_shorter_prompts_than_were_scored(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=8, rounds=3, bare=True)
    check(settings(run, data__filter_overlong_prompts=True, data__max_prompt_length=80).get, run)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    with pytest.raises(InputError) as caught:
        check(DEFAULTS.get, run)
    lines = str(caught.value).splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "data.custom_cls.path",
        "data.train_files",
        "trainer.checkpoint_callback_class",
        "trainer.v1.sampler.custom_sampler.path",
        "trainer.total_epochs",
        "data.train_batch_size",
        "data.dataloader_num_workers",
        "data.shuffle",
    ]


def test_the_doctor_says_the_same_of_a_file_before(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=5, rescore={"what": "round", "every": 2})
    changes = {"data.train_files": str(run.folder), "trainer.save_freq": 3, "trainer.v1.trainer_mode": "x"}
    with pytest.raises(InputError) as caught:
        check((DEFAULTS | changes).get, run)
    report = judge(trainer_named("verl"), Read(given=DEFAULTS | changes), run_context(run, "live"))
    said_before = [finding.name for finding in report.findings if finding.breaks]
    assert {"async", "weights", "adapter-missing", "tail"} <= set(said_before)
    refused_now = caught.value.data["findings"]
    assert isinstance(refused_now, list)
    assert sorted(refused_now) == sorted(said_before)


def test_a_class_that_inherits_from_ours_is_plugged_in_too(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    check(settings(run, data__custom_cls__path="/my/rows.py", data__custom_cls__name="MyRows").get, run)


def test_training_files_are_a_run_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.begin(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_in(str(run.folder)) == run_in([str(run.folder)]) == run_in("~/run") == run.folder
    monkeypatch.chdir(tmp_path)
    assert run_in("run") == run.folder
    for other in (None, [None], [], [str(run.folder), str(run.folder)], str(tmp_path), "train.parquet"):
        assert run_in(other) is None
