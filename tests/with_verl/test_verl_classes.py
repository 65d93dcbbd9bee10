"""The dataset, the replay buffer and the callback as verl 0.9.1 loads and calls them; no Ray, no model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl.trainer.ppo.checkpoint_callback", reason="needs verl 0.9.1: make test-verl")

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback
from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
from verl.utils.import_utils import load_class_from_fqn, load_extern_object

import runs
import tiny
import verl_made as made
from gaincurate.errors import InputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.verl import run as verl_run
from gaincurate.trainers.verl.live import RunCheckpoint, RunDataset, RunReplayBuffer, overrides, resumed
from gaincurate.trainers.verl.replay import GroupReplayBuffer, ReplayCheckpoint
from verl_trainer import settings

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def nothing_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verl_run, "_current", None)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made.begin(tmp_path)


def config_of(run: Run, *more: str) -> Any:
    return settings([*overrides(run.folder, 4), *made.around(run.folder.parent), *more])


def datasets_of(config: Any) -> tuple[Any, Any]:
    """What `PPOTrainer._init_dataloader` makes, train and validation."""
    files = ((config.data.train_files, True), (config.data.val_files, False))
    train, val = (create_rl_dataset(f, config.data, tiny.tokenizer(), None, is_train=t) for f, t in files)
    return train, val


def loader_of(config: Any, train: Any) -> StatefulDataLoader:
    return StatefulDataLoader(
        dataset=train,
        batch_size=config.data.train_batch_size,
        num_workers=config.data.dataloader_num_workers,
        drop_last=True,
        collate_fn=collate_fn,
        sampler=create_rl_sampler(config.data, train),
    )


class Loop:
    """Fetches as `_fetch_one_gen_batch` does, reports as the replay buffer does."""

    def __init__(self, config: Any, state: Any = None) -> None:
        build_checkpoint_callback(config)
        train, _ = datasets_of(config)
        self.training = train.training
        self.loader = loader_of(config, train)
        if state is not None:
            self.loader.load_state_dict(state)
        self.batches: Iterator[Any] | None = None

    def step(self) -> list[str]:
        if self.batches is None:
            self.batches = iter(self.loader)
        try:
            batch = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        ids = [extra["gc_id"] for extra in batch["extra_info"]]
        lines = [
            {"gc_id": i, "reward": k, "sample": k, "round": self.training.live.round}
            for i in ids
            for k in (0, 1)
        ]
        self.training.report(self.training.step, lines)
        return ids


def test_verl_finds_all_three_by_the_overrides(run: Run) -> None:
    config = config_of(run)
    assert type(build_checkpoint_callback(config)) is RunCheckpoint
    buffer = config.trainer.v1.sampler.custom_sampler
    assert load_extern_object(buffer.path, buffer.name) is RunReplayBuffer
    train, val = datasets_of(config)
    assert type(train) is type(val) is RunDataset
    assert (len(train), len(val)) == (8, 3)


def test_the_classes_that_the_docs_name_are_found_by_verls_own_loaders() -> None:
    page = "".join((DOCS / name).read_text() for name in ("trainers.md", "replay.md"))
    objects = set(re.findall(r"path=(pkg://gaincurate\S+)[\s\\]+\S+\.name=(\w+)", page))
    classes = {load_extern_object(path, name) for path, name in objects}
    callbacks = set(re.findall(r"trainer\.checkpoint_callback_class=(\S+)", page))
    classes |= {load_class_from_fqn(name) for name in callbacks}
    assert classes == {RunDataset, RunReplayBuffer, RunCheckpoint, GroupReplayBuffer, ReplayCheckpoint}


def test_every_override_is_a_setting_that_verl_has(tmp_path: Path) -> None:
    run = made.begin(tmp_path / "it's odd", rescore={"what": "round"})
    config = settings(overrides(run.folder, 2))  # an unknown name is an error of Hydra's
    assert config.data.train_files == str(run.folder)
    assert config.data.train_batch_size == 2
    assert config.trainer.total_epochs == 4
    assert config.trainer.save_freq == 4
    assert list(config.actor_rollout_ref.actor.checkpoint.save_contents) == [
        "model",
        "optimizer",
        "extra",
        "hf_model",
    ]
    RunCheckpoint(config)


def test_verls_own_defaults_are_refused_by_name(run: Run) -> None:
    config = settings([f"data.train_files={run.folder}"])
    with pytest.raises(InputError) as caught:
        RunCheckpoint(config)
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == [
        "data.custom_cls.path",
        "trainer.checkpoint_callback_class",
        "trainer.v1.sampler.custom_sampler.path",
        "trainer.total_epochs",
        "data.train_batch_size",
        "data.dataloader_num_workers",
        "data.shuffle",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        "data.shuffle=True",
        "data.dataloader_num_workers=8",
        "data.train_batch_size=3",
        "data.train_max_samples=5",
        "trainer.v1.trainer_mode=colocate_async",
        "trainer.v1.trainer_mode=separate_async",
        "algorithm.filter_groups.enable=True",
        "trainer.v1.sampler.sync_refill_failed_groups=True",
        "trainer.total_epochs=5",
        "trainer.total_training_steps=9",
        "reward.reward_model.enable=True",
        "+trainer.v1.sync.parameter_sync_step=2",
    ],
)
def test_a_wrong_setting_is_seen_in_verls_own_tree(run: Run, wrong: str) -> None:
    with pytest.raises(InputError, match=f"^{wrong.lstrip('+').split('=')[0].removesuffix('.enable')}"):
        RunCheckpoint(config_of(run, wrong))


def test_a_start_without_a_run_says_what_to_set(run: Run) -> None:
    config = config_of(run, f"data.train_files={run.folder.parent}/val.parquet")
    for start in (lambda: RunCheckpoint(config), lambda: datasets_of(config)):
        with pytest.raises(InputError, match=r"val.parquet, which is no run: set it to"):
            start()


def test_a_dataset_or_a_buffer_without_the_callback_is_refused(run: Run) -> None:
    with pytest.raises(InputError, match="together with its checkpoint callback"):
        datasets_of(config_of(run))


def test_verl_builds_the_buffer_with_its_own_arguments(run: Run) -> None:
    trainer = PPOTrainer.__new__(type("Trainer", (PPOTrainer,), {"on_sample_end": None, "on_step_end": None}))
    trainer.config, trainer.trainer_mode = config_of(run), "sync"
    assert type(trainer._build_replay_buffer()) is RunReplayBuffer


def test_an_item_is_what_verls_own_class_makes_of_the_row(run: Run, tmp_path: Path) -> None:
    config = config_of(run)
    RunCheckpoint(config)
    train, _ = datasets_of(config)
    row = train.training.rows("question", "some/set")[0]
    path = tmp_path / "same.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    theirs = RLHFDataset(str(path), tiny.tokenizer(), config.data)[0]
    ours = train[0]
    assert torch.equal(ours.pop("dummy_tensor"), theirs.pop("dummy_tensor"))
    assert ours == theirs
    assert ours["extra_info"] == {"index": 0, "gc_id": run.ids(0)[0], "gc_round": 0}
    assert ours["raw_prompt"] == [{"role": "user", "content": row["question"]}]


def test_validation_is_verls_own(run: Run, tmp_path: Path) -> None:
    config = config_of(run)
    RunCheckpoint(config)
    _, val = datasets_of(config)
    theirs = RLHFDataset(str(tmp_path / "val.parquet"), tiny.tokenizer(), config.data)
    assert len(val) == len(theirs) == 3
    for mine, other in zip(val, theirs, strict=True):
        assert torch.equal(mine.pop("dummy_tensor"), other.pop("dummy_tensor"))
        assert mine == other
    loader = StatefulDataLoader(dataset=val, batch_size=2, num_workers=0, shuffle=True, collate_fn=collate_fn)
    assert sorted(c for batch in loader for c in [m[0]["content"] for m in batch["raw_prompt"]]) == [
        "val 0",
        "val 1",
        "val 2",
    ]
    assert loader.state_dict()["dataset_state"] == {}


@pytest.mark.parametrize("at", [0, 1, 2, 3, 7])
def test_data_pt_goes_on_with_the_rest_of_the_round(tmp_path: Path, at: int) -> None:
    whole = Loop(config_of(made.begin(tmp_path / "whole")))
    history = [whole.step() for _ in range(8)]
    config = config_of(made.begin(tmp_path / "cut"))
    cut = Loop(config)
    for _ in range(at):
        cut.step()
    folder = tmp_path / f"cut/checkpoints/global_step_{at}"
    folder.mkdir(parents=True)
    torch.save(cut.loader.state_dict(), folder / "data.pt")
    cut.training.saved(at, folder)
    (folder.parent / "latest_checkpointed_iteration.txt").write_text(str(at))
    for _ in range(min(3, 8 - at)):
        cut.step()
    again = Loop(config, torch.load(folder / "data.pt", weights_only=False))
    assert [again.step() for _ in range(8 - at)] == history[at:]
    assert runs.plans(cut.training.live.run) == runs.plans(whole.training.live.run)


def test_what_verl_resumes_from_is_what_it_finds(run: Run, tmp_path: Path) -> None:
    assert resumed(config_of(run).trainer) is None
    folder = tmp_path / "checkpoints/global_step_5"
    folder.mkdir(parents=True)
    (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").write_text("5")
    assert resumed(config_of(run).trainer) == str(folder)
    assert resumed(config_of(run, "trainer.resume_mode=disable").trainer) is None
    by_path = ["trainer.resume_mode=resume_path", "trainer.resume_from_path=some/global_step_3"]
    assert resumed(config_of(run, *by_path).trainer) == str(Path("some/global_step_3").absolute())


def test_a_row_that_verl_would_drop_is_refused_by_its_id(run: Run) -> None:
    # Scored with a short template, read with a long one: only verl's own count sees it.
    config = config_of(run, "data.filter_overlong_prompts=True", "data.max_prompt_length=100")
    RunCheckpoint(config)
    config.data.max_prompt_length = 20
    with pytest.raises(InputError, match=r"^data.filter_overlong_prompts=True drops 8 prompts of round 0,"):
        datasets_of(config)


def test_a_row_that_fits_is_kept_under_the_filter(run: Run) -> None:
    config = config_of(run, "data.filter_overlong_prompts=True")
    RunCheckpoint(config)
    assert len(datasets_of(config)[0]) == 8
