"""slime follows a run through its data source class, so its rollout and training loops stay unchanged.

Commit 624b824a (2026-08-21); its data source, data set and samples were run, its rollout function was read.
slime's own `Dataset` makes samples from a round's rows, so templates and tokens are slime's.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from slime.rollout.data_source import DataSource
from slime.utils.data import Dataset
from slime.utils.processing_utils import load_processor, load_tokenizer

from gaincurate.core.artifact import Json
from gaincurate.core.files import make_folder
from gaincurate.core.schema import ID
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import InputError, OutputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.doctor.examine import run_context
from gaincurate.trainers.doctor.findings import ask, refuse
from gaincurate.trainers.doctor.settings import Resolved
from gaincurate.trainers.session import RESUME, ROUND, open_run
from gaincurate.trainers.slime.profile import RULES

_SAME = ("multimodal_keys", "metadata_key", "tool_key", "apply_chat_template", "apply_chat_template_kwargs")
_AHEAD = "slime reports where a rollout ends; the prompts of a group that it lost have no outcomes."
_PLACE = "rollout/gaincurate_state_{}.json"
_TAP = "--rollout-all-samples-process-path gaincurate.trainers.slime.report"


class RunDataSource(DataSource):  # type: ignore[misc]
    """Groups of `n_samples_per_prompt` samples of a run's prompts; `len` is a round's number of prompts."""

    def __init__(self, args: Any) -> None:
        self.args = args
        if args.prompt_data:  # slime passes all arguments, so the doctor's rules can be applied here
            context = run_context(Run(args.prompt_data), "live", running=True)
            refuse(ask(RULES, Resolved(lambda key: getattr(args, key, None)), context)[0])
        self.live = open_run(args.prompt_data, "--prompt-data FOLDER", "slime", _AHEAD)
        self.rollout, self.groups = 0, 0  # the numbers of the next rollout and group
        self.places: dict[int, Json] = {}  # the places at the end of the last two rollouts
        self._tokenizer = load_tokenizer(args.hf_checkpoint, trust_remote_code=True)
        self._processor = load_processor(args.hf_checkpoint, trust_remote_code=True)
        self._samples: tuple[int, dict[str, Any]] = (-1, {})  # a round, and its samples by id

    def get_samples(self, num_samples: int) -> list[list[Any]]:
        """The next groups of the plan, `[num_samples]`; raises as `RunSession.take`."""
        live = self.live
        if not (rows := live.take(num_samples)):
            raise InputError(f"{live.run.folder} is finished: give slime --num-epoch {live.rounds}, no more.")
        return [self._group(row) for row in rows]

    def _group(self, row: Json) -> list[Any]:
        """Fresh samples of a row, `[n_samples_per_prompt]`, with `gc_id` and `gc_round` in their metadata."""
        if self._samples[0] != row[ROUND]:
            dataset = Dataset(
                str(self.live.run.data(row[ROUND])),
                self._tokenizer,
                self._processor,
                None,  # no limit of prompt length: a prompt that slime drops would be missing in the round
                prompt_key=self.args.input_key,
                label_key=self.args.label_key,
                **{name: getattr(self.args, name) for name in _SAME},
            )
            ids = self.live.run.ids(row[ROUND])
            self._samples = (row[ROUND], dict(zip(ids, dataset.samples, strict=True)))
        size, number = self.args.n_samples_per_prompt, self.groups
        group = [copy.deepcopy(self._samples[1][row[ID]]) for _ in range(size)]
        for k, sample in enumerate(group):
            sample.group_index, sample.index = number, number * size + k
            sample.metadata = {**(sample.metadata or {}), ID: row[ID], ROUND: row[ROUND]}
        self.groups += 1
        return group

    def add_samples(self, samples: list[list[Any]]) -> None:
        """Do nothing: a rollout finishes all groups, because over-sampling is refused."""

    def rollout_ended(self, groups: list[Any]) -> None:
        """Report a rollout's groups, and remember the place."""
        self.live.report(self._line(k, sample) for group in groups for k, sample in enumerate(group))
        self.places[self.rollout] = {**self.live.save(self.rollout), "groups": self.groups}
        self.places.pop(self.rollout - 2, None)
        self.rollout += 1

    def _line(self, k: int, sample: Any) -> Json:
        sample = sample[-1] if isinstance(sample, list) else sample  # the last part of a split rollout
        reward = None if sample.reward is None else float(sample.get_reward_value(self.args))
        line = {ID: sample.metadata[ID], "round": sample.metadata[ROUND], "step": self.rollout, "sample": k}
        return {**line, "reward": reward, "tokens": sample.response_length}

    def save(self, rollout_id: int) -> None:
        """Save the place of a rollout's end; train_async.py has generated the next rollout by then."""
        if rollout_id not in self.places:
            raise InputError(f"rollout {rollout_id} was not reported: give {_TAP}.")
        path = Path(self.args.save, _PLACE.format(rollout_id))
        make_folder(path.parent)
        write_sealed(path, self.places[rollout_id])

    def load(self, rollout_id: int | None = None) -> None:
        """Return to a rollout's end, or restart; raises OutputError if no place was saved for it."""
        if self.args.load is None or rollout_id is None or rollout_id < 0:
            return self.live.begin_anew()
        path = Path(self.args.load, _PLACE.format(rollout_id))
        if not path.exists():
            raise OutputError(f"{path} is missing: rollout {rollout_id} did not follow a run. Begin again.")
        saved = read_sealed(path, RESUME)
        self.live.restore(saved, str(path))
        self.rollout, self.groups = rollout_id + 1, saved["groups"]

    def __len__(self) -> int:
        return self.live.budget


def report(args: Any, all_samples: list[Any], data_source: Any) -> None:
    """For `--rollout-all-samples-process-path`; `data_source` is the bound `get_samples`."""
    data_source.__self__.rollout_ended(all_samples)
