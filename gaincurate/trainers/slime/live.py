"""slime follows a run through its own data source class, so its rollout and training loops stay as they are.

A round's rows become slime's own samples through its own `Dataset`, so templates and tokens are what slime
would have made of the file. Outcomes are reported where a rollout ends.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from gaincurate.core.artifact import Json
from gaincurate.core.files import make_folder
from gaincurate.core.schema import ID
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.errors import InputError, OutputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.doctor.examine import run_context
from gaincurate.trainers.doctor.findings import ask, refuse
from gaincurate.trainers.doctor.settings import Resolved
from gaincurate.trainers.session import RESUME, ROUND, next_round, not_installed, open_run
from gaincurate.trainers.slime.rules import RULES

try:
    from slime.rollout.data_source import DataSource
    from slime.utils.data import Dataset
    from slime.utils.processing_utils import load_processor, load_tokenizer
except ImportError as error:
    raise not_installed("slime", "624b824a8 (2026-08-21)", error) from error

_SAME = ("multimodal_keys", "metadata_key", "tool_key", "apply_chat_template", "apply_chat_template_kwargs")


class Samples:
    """The samples of one round at a time.

    Args:
        args: slime's.
        run: the run.
    """

    def __init__(self, args: Any, run: Run) -> None:
        self.args, self.run = args, run
        self._tokenizer = load_tokenizer(args.hf_checkpoint, trust_remote_code=True)
        self._processor = load_processor(args.hf_checkpoint, trust_remote_code=True)
        self._made: tuple[int, dict[str, Any]] = (-1, {})

    def group(self, row: Json, number: int) -> list[Any]:
        """Fresh samples of a row, `[n_samples_per_prompt]`, with `gc_id` and `gc_round` in their metadata.

        Raises:
            InputError: a key names no column.
        """
        if self._made[0] != row[ROUND]:
            self._made = (row[ROUND], self._make(row))
        size = self.args.n_samples_per_prompt
        group = [copy.deepcopy(self._made[1][row[ID]]) for _ in range(size)]
        for k, sample in enumerate(group):
            sample.group_index, sample.index = number, number * size + k
            sample.metadata = {**(sample.metadata or {}), ID: row[ID], ROUND: row[ROUND]}
        return group

    def _make(self, row: Json) -> dict[str, Any]:
        keys = {"--input-key": self.args.input_key, "--label-key": self.args.label_key}
        columns = [name for name in row if name != ROUND]
        for option, key in keys.items():
            if key is not None and key not in columns:
                raise InputError(f"{option} {key}: the run's rows have no such column; {', '.join(columns)}.")
        dataset = Dataset(
            str(self.run.data(row[ROUND])),
            self._tokenizer,
            self._processor,
            None,  # no longest prompt: what slime left out here would be missing in the round
            prompt_key=self.args.input_key,
            label_key=self.args.label_key,
            **{name: getattr(self.args, name) for name in _SAME},
        )
        return dict(zip(self.run.ids(row[ROUND]), dataset.samples, strict=True))


def outcomes(args: Any, group: list[Any], step: int) -> list[Json]:
    """A group's lines, one a sample; of a rollout that was split into many samples the last one counts."""
    lines = []
    for k, sample in enumerate(item[-1] if isinstance(item, list) else item for item in group):
        reward = None if sample.reward is None else float(sample.get_reward_value(args))
        head = {ID: sample.metadata[ID], "round": sample.metadata[ROUND], "step": step, "sample": k}
        lines.append({**head, "reward": reward, "tokens": sample.response_length})
    return lines


_AHEAD = (
    "slime reports where a rollout ends. Without dynamic sampling filters, and with an "
    "--over-sampling-batch-size equal to --rollout-batch-size, every round ends there too."
)
_PLACE = "rollout/gaincurate_state_{}.json"
_TAP = "--rollout-all-samples-process-path gaincurate.trainers.slime.report"


class RunDataSource(DataSource):  # type: ignore[misc]
    """Groups of `n_samples_per_prompt` samples of a run's prompts; `len` is the prompts of a round."""

    def __init__(self, args: Any) -> None:
        self.args = args
        self.live = open_run(args.prompt_data, "--prompt-data FOLDER", "slime")
        # slime gives its data source all arguments, so the doctor's rules can be asked of them here.
        context = run_context(self.live.run, "live", running=True)
        try:
            refuse(ask(RULES.rules, Resolved(lambda key: getattr(args, key, None)), context)[0])
        except InputError:
            self.live.close()
            raise
        self.samples = Samples(args, self.live.run)
        self.rollout, self.groups = 0, 0  # the next ones' numbers
        self.buffer: list[list[Any]] = []  # aborted groups, to be gone on with
        self.handed: dict[int, Json] = {}  # by group number: rows that are not reported yet
        self.again: list[Json] = []  # lost, to be handed out once more
        self.ended = False  # a rollout, since the last group was handed out
        self.places: dict[int, Json] = {}  # at the end of the last two rollouts

    def get_samples(self, num_samples: int) -> list[list[Any]]:
        """Groups; at a round's end fewer than asked for, but one at least. Raises as `next_round`."""
        if self.ended:
            buffered = {group[0].group_index for group in self.buffer}
            self.again += [self.handed.pop(number) for number in list(self.handed) if number not in buffered]
            self.ended = False
        groups, self.buffer = self.buffer[:num_samples], self.buffer[num_samples:]
        while len(groups) < num_samples and (row := self._next(enough=bool(groups))) is not None:
            groups.append(self.samples.group(row, self.groups))
            self.handed[self.groups] = row
            self.groups += 1
        return groups

    def _next(self, enough: bool) -> Json | None:
        live = self.live
        self.again = [row for row in self.again if row[ROUND] == live.round]
        if self.again:
            return self.again.pop(0)
        if live.position >= live.budget and enough:
            return None  # slime asks for the rest when it needs it
        if live.position >= live.budget and (live.finished or not next_round(live, _AHEAD)):
            raise InputError(f"{live.run.folder} is finished: give slime --num-epoch {live.rounds}, no more.")
        return live.take(1)[0]

    def add_samples(self, samples: list[list[Any]]) -> None:
        """Take back groups that a rollout did not finish."""
        self.buffer += samples

    def rollout_ended(self, groups: list[Any]) -> None:
        """Report a rollout's groups, those that a filter dropped too, and keep the place."""
        self.live.report(line for group in groups for line in outcomes(self.args, group, self.rollout))
        for group in groups:
            first = group[0][0] if isinstance(group[0], list) else group[0]
            self.handed.pop(first.group_index, None)
        left = [row[ID] for row in [*self.handed.values(), *self.again] if row[ROUND] == self.live.round]
        self.places[self.rollout] = {**self.live.save(self.rollout), "again": left, "groups": self.groups}
        self.places.pop(self.rollout - 2, None)
        self.rollout, self.ended = self.rollout + 1, True

    def save(self, rollout_id: int) -> None:
        """Save the place at a rollout's end; with train_async.py the next one is generated already."""
        if rollout_id not in self.places:
            raise InputError(f"rollout {rollout_id} was not reported: give {_TAP}.")
        path = Path(self.args.save, _PLACE.format(rollout_id))
        make_folder(path.parent)
        write_sealed(path, self.places[rollout_id])

    def load(self, rollout_id: int | None = None) -> None:
        """Go back to a rollout's end, or begin again; OutputError where no fitting place was saved."""
        if self.args.load is None or rollout_id is None or rollout_id < 0:
            return self.live.begin_anew()
        path = Path(self.args.load, _PLACE.format(rollout_id))
        if not path.exists():
            raise OutputError(f"{path} is not there: rollout {rollout_id} did not follow a run. Begin again.")
        saved = read_sealed(path, RESUME)
        self.live.restore(saved, str(path))
        rows = {row[ID]: row for row in self.live.rows()}
        self.again = [rows[gc_id] for gc_id in saved["again"]]
        self.rollout, self.groups = rollout_id + 1, saved["groups"]

    def __len__(self) -> int:
        return self.live.budget


def report(args: Any, all_samples: list[Any], data_source: Any) -> None:
    """For `--rollout-all-samples-process-path`; `data_source` is the bound `get_samples`."""
    data_source.__self__.rollout_ended(all_samples)
