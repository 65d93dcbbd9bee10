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
from gaincurate.trainers.doctor.settings import scalar
from gaincurate.trainers.verl.settings import check, overrides, run_in

DEFAULTS = dict(defaults_of("verl"))


def settings(run: Run, **changed: Any) -> dict[str, Any]:
    """The defaults with a run's overrides, and then with what a person changed (dots as two underscores)."""
    given = {
        key: scalar(value) for key, _, value in (word.partition("=") for word in overrides(run.folder, 4))
    }
    return DEFAULTS | given | {name.replace("__", "."): value for name, value in changed.items()}


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
    shuffled, in_order = (given | {"data.shuffle": shuffle} for shuffle in (True, False))
    for trainer, own, wrong in (("verl", shuffled, 1), ("verl", in_order, 0), ("trl", {"max_steps": 1}, 1)):
        report = judge(trainer_named(trainer), Read(given=own), run_context(run, "segment"))
        assert [finding.name for finding in report.findings].count("group-sizes") == wrong


def test_the_batch_is_the_runs_alignment_or_a_round(tmp_path: Path) -> None:
    assert "data.train_batch_size=8" in overrides(runs.begin(tmp_path / "a").folder)
    assert "data.train_batch_size=2" in overrides(runs.begin(tmp_path / "b", align_to=2).folder)
    with pytest.raises(InputError, match=r"^data.train_batch_size is 3 and a round has 8 prompts, which is"):
        overrides(tmp_path / "a/run", 3)


def test_a_path_is_quoted_where_hydra_would_read_it_otherwise(tmp_path: Path) -> None:
    run = runs.begin(tmp_path / "it's, odd=1")
    assert overrides(run.folder)[0] == f"data.train_files='{tmp_path}/it\\'s, odd=1/run'"


SAVED = "actor_rollout_ref.actor.checkpoint.save_contents"
# The rules are those of the doctor, and tested there.
BROKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"data__train_batch_size": 3}, "tail", "data.train_batch_size=2, actor_rollout_ref.actor.ppo_mini_batch_size=2"),
    ({"data__custom_cls__path": None}, "adapter-missing", "data.custom_cls.path=pkg://gaincurate.trainers.verl"),
    ({"trainer__total_epochs": 30}, "epochs", "trainer.total_epochs=3"),
]  # fmt: skip
NOT_SAVED: list[tuple[dict[str, Any], str, str]] = [
    ({SAVED: ["model"]}, "weights", f"{SAVED}=[model,hf_model]"),
    ({"trainer__save_freq": -1}, "checkpoint", "trainer.save_freq=4, or a divisor of 4"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "finding", "fix"), [*BROKEN, *NOT_SAVED])
def test_a_breaking_setting_is_refused(tmp_path: Path, changed: Any, finding: str, fix: str) -> None:
    scores_again = (changed, finding, fix) in NOT_SAVED
    scoring: dict[str, Any] = {"rescore": {"what": "round", "every": 2}} if scores_again else {}
    run = runs.begin(tmp_path, budget=8, rounds=5 if scores_again else 3, **scoring)
    with pytest.raises(InputError) as caught:
        check(settings(run, **changed).get, run)
    assert caught.value.data["findings"] == [finding]
    assert f". Set {fix}" in str(caught.value)


def test_long_prompts_are_refused_by_name(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, budget=8, rounds=3)
    columns = (run.scored.column(name).to_pylist() for name in ("gc_id", "gc_prompt_tokens"))
    counts = dict(zip(*columns, strict=True))
    over = [gc_id for gc_id, count in counts.items() if count > 80]
    for drops, happens in ((False, "cut from the left"), (True, "dropped in silence")):
        changed = {"data__max_prompt_length": 80, "data__filter_overlong_prompts": drops}
        error = refused(run, **changed)
        assert f"{len(over)} prompts of the set are longer ({', '.join(over[:3])} and so on)" in error
        assert happens in error
        assert f"Set data.max_prompt_length={max(counts.values())}" in error


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
