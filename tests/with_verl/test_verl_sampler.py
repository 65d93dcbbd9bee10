"""The curriculum sampler as verl 0.7.1 loads and calls it: its classes, its order of saving and updating."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl.experimental.dataset.sampler", reason="needs verl 0.5 to 0.7.1: make test-verl")

import numpy as np
import torch
import verl
from hydra import compose, initialize_config_dir
from torchdata.stateful_dataloader import StatefulDataLoader
from verl import DataProto
from verl.trainer.main_ppo import create_rl_dataset, create_rl_sampler
from verl.utils.dataset.rl_dataset import collate_fn

import runs
import tiny
import verl_made as made
from gaincurate.errors import InputError, OutputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.verl.sampler import RunSampler
from gaincurate.trainers.verl.settings import sampler_overrides

ROLLOUTS = 2


def config_of(run: Run, *more: str) -> Any:
    data = made.exported(run, run.folder.parent)
    folder = str(Path(verl.__file__).parent / "trainer/config")
    with initialize_config_dir(folder, version_base=None):
        given = [*sampler_overrides(run.folder, 4), f"data.train_files={data}", *more]
        return compose("ppo_trainer", overrides=given)


class Loop:
    """In the order of verl 0.7.1's `RayPPOTrainer.fit`: fetch, train, save, update."""

    def __init__(self, config: Any, state: Any = None, epoch: int = 0) -> None:
        dataset = create_rl_dataset(
            config.data.train_files, config.data, tiny.tokenizer(), None, is_train=True
        )
        self.loader = StatefulDataLoader(
            dataset=dataset,
            batch_size=config.data.get("gen_batch_size", config.data.train_batch_size),
            num_workers=config.data.dataloader_num_workers,
            drop_last=True,
            collate_fn=collate_fn,
            sampler=create_rl_sampler(config.data, dataset),
        )
        if state is not None:
            self.loader.load_state_dict(state)
        self.steps = self._steps(range(epoch, config.trainer.total_epochs))
        self.saved: Any = None

    @property
    def live(self) -> Any:
        return self.loader.sampler.live

    def _steps(self, epochs: range) -> Iterator[list[str]]:
        for _ in epochs:
            for items in self.loader:
                batch = DataProto.from_single_dict(items).repeat(repeat_times=ROLLOUTS, interleave=True)
                ids = [extra["gc_id"] for extra in batch.non_tensor_batch["extra_info"]]
                scores = torch.zeros(len(ids), 3)
                scores[:, -1] = torch.arange(len(ids)) % 2
                batch.batch["token_level_scores"] = scores
                batch.batch["response_mask"] = torch.ones(len(ids), 3)
                self.saved = self.loader.state_dict()
                yield ids[::ROLLOUTS]  # killed here, its outcomes are lost
                batch.reorder(torch.from_numpy(np.random.default_rng(0).permutation(len(ids))))
                self.loader.sampler.update(batch=batch)


def everything(loop: Loop) -> list[list[str]]:
    return list(loop.steps)


def test_epochs_are_rounds_addressed_by_id(tmp_path: Path) -> None:
    run = made.begin(tmp_path)
    steps = everything(Loop(config_of(run)))
    assert [gc_id for ids in steps for gc_id in ids] == [i for round_ in range(4) for i in run.ids(round_)]
    assert run.state["finished"]
    assert run.plan(1)["inputs"]["rollouts"] == 16
    assert run.plan(1)["inputs"]["accuracy"] == 0.5
    assert run.plan(1)["inputs"]["completion_tokens"] == 48


@pytest.mark.parametrize("at", [1, 2, 3, 4, 7])
def test_killed_behind_an_update_the_plans_are_those_of_a_run_that_never_stopped(
    tmp_path: Path, at: int
) -> None:
    whole = made.begin(tmp_path / "whole")
    history = everything(Loop(config_of(whole)))
    run = made.begin(tmp_path / "cut")
    config = config_of(run)
    cut, state = Loop(config), None
    for step, _ in enumerate(cut.steps, 1):
        if step == at:
            state = cut.saved
        if step == min(at + 2, 8):
            break
    again = Loop(config, state, epoch=at // 2)
    assert everything(again) == history[at:]
    assert runs.plans(run) == runs.plans(whole)
    assert run.state["finished"]


def test_killed_between_saving_and_updating_that_step_could_not_be_judged(tmp_path: Path) -> None:
    run = made.begin(tmp_path)
    config = config_of(run)
    cut = Loop(config)
    next(cut.steps)
    next(cut.steps)  # saved, and killed before its update
    everything(Loop(config, cut.saved, epoch=1))
    assert run.plan(1)["inputs"]["unjudged"] == 4
    assert run.plan(1)["inputs"]["rollouts"] == 8 + 4
    assert run.state["finished"]


def test_a_start_from_nothing_of_a_run_that_went_on_is_refused(tmp_path: Path) -> None:
    run = made.begin(tmp_path)
    config = config_of(run)
    steps = Loop(config).steps
    for _ in range(3):
        next(steps)
    with pytest.raises(OutputError, match="stands at round 1 and the trainer begins at step 0: resume"):
        next(Loop(config).steps)


def test_more_epochs_than_rounds_are_refused(tmp_path: Path) -> None:
    run = made.begin(tmp_path)
    with pytest.raises(
        InputError, match=r"^all 4 rounds of .* are done and verl asks for more: set trainer.total_ep"
    ):
        everything(Loop(config_of(run, "trainer.total_epochs=5")))


def test_rows_without_an_id_or_dropped_by_the_filter_are_refused(tmp_path: Path) -> None:
    run = made.begin(tmp_path)
    config = config_of(run)
    config.data.train_files = str(tmp_path / "val.parquet")
    with pytest.raises(
        InputError, match=r"^verl's data has 0 rows with extra_info.gc_id and lacks 60 prompts of"
    ):
        Loop(config)
    config = config_of(run, "data.filter_overlong_prompts=True", "data.max_prompt_length=5")
    with pytest.raises(InputError, match="or data.filter_overlong_prompts dropped them"):
        Loop(config)


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    run = made.begin(tmp_path)
    with pytest.raises(InputError, match=r"^data.dataloader_num_workers is 8: its loader fetches ahead"):
        Loop(config_of(run, "data.dataloader_num_workers=8"))
    with pytest.raises(InputError, match=r"^data.train_batch_size is 3: 3 prompts a step, but a round has 8"):
        Loop(config_of(run, "data.train_batch_size=3"))
    with pytest.raises(InputError, match=r"^data.sampler.run is nowhere, which is no run"):
        Loop(config_of(run, "data.sampler.run=nowhere"))


def test_verl_takes_it_for_a_curriculum_sampler(tmp_path: Path) -> None:
    config = config_of(made.begin(tmp_path))
    assert type(Loop(config).loader.sampler) is RunSampler
