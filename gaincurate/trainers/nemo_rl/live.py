"""NeMo-RL follows a run through its custom data loader.

Commit 7ea279abf (2026-08-22). It passes no rewards to a loader, so the user's environment calls `report`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gaincurate.core.arrow import read_json_lines, read_parquet
from gaincurate.core.artifact import Json
from gaincurate.core.schema import ID
from gaincurate.errors import InputError, OutputError
from gaincurate.trainers.session import ROUND, RunSession, followed, open_run, reward_of

RUN, STEP = "gc_run", "gc_step"
"""Keys in `extra_env_info`, besides `gc_id` and `gc_round`."""
RUN_VARIABLE, CHECKPOINTS, DATA = "GAINCURATE_RUN", "GAINCURATE_CHECKPOINTS", "GAINCURATE_DATA"
"""Environment variables: the run's folder, `checkpointing.checkpoint_dir`, `data.train.data_path`."""
PLACE = "gaincurate"  # the key in `train_dataloader_<task>.pt`
_AHEAD = "The environment's step() has to call gaincurate.trainers.nemo_rl.report."


def report(metadata: Sequence[Json | None], rewards: Any, terminateds: Any = None) -> None:
    """Report rewards from an environment's `step`; rows without a run (validation) are left out.

    Args:
        metadata: the metadata that `step` got, `[batch]`.
        rewards: `[batch]`, a tensor or numbers.
        terminateds: `[batch]`; only rollouts that ended are reported. Default: all.
    """
    ended = [True] * len(metadata) if terminateds is None else terminateds
    run, lines = None, list[Json]()
    for info, reward, end in zip(metadata, rewards, ended, strict=True):
        if info and RUN in info and end:  # only `RunBatches` sets the key; a validation row may have an id
            run, line = info[RUN], {ID: info[ID], "round": info[ROUND], "step": info[STEP]}
            lines.append({**line, "reward": reward_of(float(reward))})
    if run is not None:
        followed(run).report(lines)


class RunBatches:
    """Yields the prompts of `run`, a folder, as a custom dataloader; environment variables are defaults.

    `checkpoints` is `checkpointing.checkpoint_dir`, and the training resumes from its newest `step_N`. `data`
    is the exported file, for a data set of NeMo-RL that drops the column `gc_id`.
    """

    def __init__(
        self, run: str | None = None, checkpoints: str | None = None, data: str | None = None
    ) -> None:
        self.run, self.checkpoints, self.data = run, checkpoints, data
        self.live: RunSession | None = None
        self.step = 0
        self.places: dict[str, tuple[str, int]] = {}

    def __call__(
        self, data_iterators: dict[str, Iterator[Any]], dataloaders: dict[str, Any], **records: Any
    ) -> tuple[Any, dict[str, Iterator[Any]]]:
        """The next batch, one `batch_size` of each dataloader, in the plan's order.

        Raises as `RunSession.take`, InputError if a setting or a prompt is missing, StopIteration at the end.
        """
        from nemo_rl.data.collate_fn import rl_collate_fn  # not at the top: environments call `report` too

        self.live = self.live or self._begin(dataloaders)
        rows = self.live.take(sum(loader.batch_size for loader in dataloaders.values()))
        if not rows:
            raise StopIteration
        self.step += 1
        return rl_collate_fn([self._item(row, dataloaders) for row in rows]), data_iterators

    def _item(self, row: Json, dataloaders: Mapping[str, Any]) -> Any:
        if row[ID] not in self.places:
            raise InputError(
                f"{row[ID]!r} of the run is not among the {len(self.places):,} rows of data.train. Write it "
                "again with `gaincurate export`, and turn NeMo-RL's filters off."
            )
        task, place = self.places[row[ID]]
        item = dataloaders[task].dataset[place]
        carried = {ID: row[ID], ROUND: row[ROUND], STEP: self.step, RUN: self.run}
        return {**item, "extra_env_info": {**(item["extra_env_info"] or {}), **carried}}

    def _begin(self, dataloaders: Mapping[str, Any]) -> RunSession:
        self.run = self.run or os.environ.get(RUN_VARIABLE)
        self.data = self.data or os.environ.get(DATA)
        self.checkpoints = self.checkpoints or os.environ.get(CHECKPOINTS)
        if not self.checkpoints:
            why = "a resume reads its place in the run there"
            raise InputError(f"set {CHECKPOINTS} to checkpointing.checkpoint_dir: {why}.")
        # NeMo-RL gives a custom dataloader its loaders but no settings, so the rules cannot be applied here.
        for task, loader in dataloaders.items():
            ids = _ids(loader.dataset.dataset, self.data)
            self.places |= {gc_id: (task, place) for place, gc_id in enumerate(ids)}
        live = open_run(self.run, f"the environment variable {RUN_VARIABLE}", "NeMo-RL", _AHEAD)
        self.run = str(live.run.folder.resolve())  # environments may run elsewhere
        for loader in dataloaders.values():
            loader.state_dict = lambda state_of=loader.state_dict: {**state_of(), PLACE: live.save(self.step)}
        folders = Path(self.checkpoints).glob("step_*")
        steps = {int(path.name[5:]): path for path in folders if path.name[5:].isdecimal()}
        if not steps:
            live.begin_anew()
            return live
        import torch

        path = steps[max(steps)] / f"train_dataloader_{next(iter(dataloaders))}.pt"
        saved = torch.load(path) if path.exists() else {}
        if PLACE not in saved:
            raise OutputError(
                f"{path} has no place in a run, because its training did not follow one. Begin with an empty "
                "checkpoint_dir, or with the earlier dataloader."
            )
        live.restore(saved[PLACE], str(path))
        self.step = int(saved[PLACE]["step"])
        return live


def _ids(dataset: Any, file: str | None) -> list[str]:
    """The ids of NeMo-RL's rows, from its column, or from the file that it read if it dropped the column."""
    if ID in dataset.column_names:
        return list(dataset[ID])

    def refuse(why: str) -> InputError:
        return InputError(f"the rows of NeMo-RL's data.train have no {ID}, so {DATA} is needed: {why}.")

    if not file or not Path(file).exists():
        raise refuse(f"there is no file {file}")
    is_table = file.endswith(".parquet")
    table = read_parquet(Path(file), refuse) if is_table else read_json_lines(Path(file), refuse, [ID])
    if len(table) != len(dataset) or ID not in table.column_names:
        raise refuse(
            f"{file} has {len(table):,} rows with {', '.join(table.column_names)}, not the "
            f"{len(dataset):,} that were read, with {ID}"
        )
    return list(table.column(ID).to_pylist())


next_batch = RunBatches()
"""The dataloader for `data.custom_dataloader`, with settings from environment variables."""
