"""verl's settings for a run: what to set, and a sentence for each that is wrong. verl itself is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import runs
from gaincurate.errors import InputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.verl.settings import (
    check,
    check_sampler,
    overrides,
    problems,
    run_in,
    sampler_overrides,
)

# What verl 0.9.1 has by default, of what is looked at.
DEFAULTS: dict[str, Any] = {
    "data.shuffle": True,
    "data.dataloader_num_workers": 8,
    "data.train_batch_size": 1024,
    "data.train_max_samples": -1,
    "data.filter_overlong_prompts": False,
    "data.max_prompt_length": 512,
    "trainer.total_epochs": 30,
    "trainer.save_freq": -1,
    "trainer.v1.trainer_mode": "sync",
    "actor_rollout_ref.actor.checkpoint.save_contents": ["model", "optimizer", "extra"],
    "actor_rollout_ref.actor.checkpoint.async_save": False,
}


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


def test_the_batch_is_the_runs_alignment_or_a_round(tmp_path: Path) -> None:
    assert "data.train_batch_size=8" in overrides(runs.begin(tmp_path / "a").folder)
    assert "data.train_batch_size=2" in overrides(runs.begin(tmp_path / "b", align_to=2).folder)
    with pytest.raises(InputError, match=r"^data.train_batch_size is 3 and a round has 8 prompts, which is"):
        overrides(tmp_path / "a/run", 3)


def test_a_path_is_quoted_where_hydra_would_read_it_otherwise(tmp_path: Path) -> None:
    run = runs.begin(tmp_path / "it's, odd=1")
    assert overrides(run.folder)[0] == f"data.train_files='{tmp_path}/it\\'s, odd=1/run'"


def test_the_older_verl_gets_a_sampler(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=8, rounds=3)
    assert sampler_overrides(run.folder, 2) == [
        "data.sampler.class_path=pkg://gaincurate.trainers.verl_sampler",
        "data.sampler.class_name=RunSampler",
        f"+data.sampler.run={run.folder}",
        "data.dataloader_num_workers=0",
        "data.train_batch_size=2",
        "trainer.total_epochs=3",
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"data__shuffle": True},
            "data.shuffle=True would shuffle the round's order: set data.shuffle=False.",
        ),
        (
            {"data__dataloader_num_workers": 8},
            "data.dataloader_num_workers=8 reads rows of the next round before it is planned: set "
            "data.dataloader_num_workers=0.",
        ),
        (
            {"data__train_batch_size": 3},
            "data.train_batch_size is 3 and a round has 8 prompts, which is no multiple: a batch would lie in two "
            "rounds. Set it to a divisor of 8, or start a run with --align-to 3.",
        ),
        (
            {"data__train_max_samples": 100},
            "data.train_max_samples=100 would cut rounds short: set data.train_max_samples=-1.",
        ),
        (
            {"data__custom_cls__path": None},
            "data.custom_cls is not set, so verl would read RUN as a data file: set "
            "data.custom_cls.path=pkg://gaincurate.trainers.verl data.custom_cls.name=RunDataset.",
        ),
        (
            {"trainer__v1__sampler__custom_sampler__path": None},
            "trainer.v1.sampler.custom_sampler is not set, so no outcome would reach the run: set "
            "trainer.v1.sampler.custom_sampler.path=pkg://gaincurate.trainers.verl "
            "trainer.v1.sampler.custom_sampler.name=RunReplayBuffer.",
        ),
        (
            {"trainer__v1__trainer_mode": "colocate_async"},
            "trainer.v1.trainer_mode=colocate_async fetches prompts of the next round before this one's outcomes "
            "are in, and it cannot be planned yet: set trainer.v1.trainer_mode=sync.",
        ),
        (
            {"algorithm__filter_groups__enable": True},
            "algorithm.filter_groups.enable=True replaces groups by prompts that the plan gives to later steps, "
            "and verl leaves that to a custom sampler: set algorithm.filter_groups.enable=False (`--strategy "
            "variance` avoids prompts whose rollouts all agree).",
        ),
        (
            {"trainer__v1__sync__parameter_sync_step": 2},
            "trainer.v1.sync.parameter_sync_step takes a step's prompts apart, and outcomes are taken a step at a "
            "time: set trainer.v1.sync.parameter_sync_step=1.",
        ),
        (
            {"reward__reward_model__enable": True},
            "reward.reward_model without a resource pool of its own rewards rollouts after they were sampled, too "
            "late to be reported: set reward.reward_model.enable_resource_pool=True.",
        ),
        (
            {"trainer__total_epochs": 30},
            "trainer.total_epochs is 30 and the run has 3 rounds, one an epoch: set trainer.total_epochs=3.",
        ),
        (
            {"trainer__total_training_steps": 7},
            "trainer.total_training_steps is 7 and the run's rounds have 6 steps: set "
            "trainer.total_training_steps=null.",
        ),
        (
            {"data__filter_overlong_prompts": True, "data__max_prompt_length": 80},
            "data.filter_overlong_prompts=True would drop OVER prompts of SET from their rounds, FIRST among "
            "them: they have up to MOST tokens and data.max_prompt_length is 80. Set data.max_prompt_length=MOST, "
            "or score without them (`gaincurate score --max-length 80 --on-overlong skip`).",
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
    facts = {"RUN": run.folder, "SET": run.scored.folder, "OVER": len(over), "FIRST": over[0]}
    for name, value in (facts | {"MOST": max(counts.values())}).items():
        sentence = sentence.replace(name, str(value))
    assert list(problems(settings(run, **changed).get, run)) == [sentence]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"actor_rollout_ref__actor__checkpoint__save_contents": ["model"]},
            "the run scores anew at checkpoints, and verl's would have no weights to score: set "
            "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model].",
        ),
        (
            {"actor_rollout_ref__actor__checkpoint__async_save": True},
            "the run scores anew at checkpoints, which are not whole yet when they are due: set "
            "actor_rollout_ref.actor.checkpoint.async_save=False.",
        ),
        (
            {"trainer__save_freq": 3},
            "trainer.save_freq is 3 and the run scores anew every 4 steps, so a re-scoring would find no "
            "checkpoint of its round: set trainer.save_freq to a divisor of 4.",
        ),
        (
            {"trainer__save_freq": -1},
            "trainer.save_freq is -1 and the run scores anew every 4 steps, so a re-scoring would find no "
            "checkpoint of its round: set trainer.save_freq to a divisor of 4.",
        ),
    ],
)
def test_a_re_scoring_needs_whole_checkpoints_in_time(
    tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    run = runs.begin(tmp_path, budget=8, rounds=5, rescore={"what": "round", "every": 2})
    assert list(problems(settings(run, **changed).get, run)) == [sentence]


def test_a_bare_run_has_shorter_prompts_than_were_scored(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=8, rounds=3, bare=True)
    check(settings(run, data__filter_overlong_prompts=True, data__max_prompt_length=80).get, run)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    with pytest.raises(InputError) as caught:
        check(DEFAULTS.get, run)
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert [line.split("=")[0].split(" ")[0] for line in lines] == [
        "data.custom_cls",
        "trainer.v1.sampler.custom_sampler",
        "data.shuffle",
        "data.dataloader_num_workers",
        "data.train_batch_size",
        "trainer.total_epochs",
    ]


def test_the_sampler_refuses_what_it_sees(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=8, rescore={"what": "round"})
    with pytest.raises(InputError) as caught:
        check_sampler(3, 8, run)
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == [
        "data.train_batch_size",
        "data.dataloader_num_workers=8",
        "the",
    ]
    assert "start it with --rescore off, use verl 0.9.1, or let `gaincurate schedule run`" in str(
        caught.value
    )
    check_sampler(4, 0, runs.begin(tmp_path / "plain"))


def test_training_files_are_a_run_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.begin(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_in(str(run.folder)) == run_in([str(run.folder)]) == run_in("~/run") == run.folder
    monkeypatch.chdir(tmp_path)
    assert run_in("run") == run.folder
    for other in (None, [None], [], [str(run.folder), str(run.folder)], str(tmp_path), "train.parquet"):
        assert run_in(other) is None
