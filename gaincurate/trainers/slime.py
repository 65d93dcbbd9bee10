"""slime follows a run live: its rollouts ask for groups of samples, yields those of the plan.

Named in `--data-source-path`, with `report` in `--rollout-all-samples-process-path`; `--prompt-data` is the
run's folder. A group that a rollout aborted comes back first, one that it lost is handed out again. Knows
nothing of how prompts become text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gaincurate.core.artifact import Json
from gaincurate.errors import InputError, OutputError
from gaincurate.files import write_json
from gaincurate.schedule.run import read_json
from gaincurate.schema import ID
from gaincurate.trainers.base import ROUND
from gaincurate.trainers.shared import check_batch, next_round, not_installed, open_run
from gaincurate.trainers.slime_samples import Samples, outcomes

try:
    from slime.rollout.data_source import DataSource
except ImportError as error:
    raise not_installed("slime", "624b824a8 (2026-08-21)", error) from error

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
        if args.rollout_all_samples_process_path is None:
            raise InputError(f"outcomes would not come in: give {_TAP}.")
        self.live = open_run(args.prompt_data, "--prompt-data FOLDER", "slime")
        check_batch(self.live, args.rollout_batch_size, "--rollout-batch-size")
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
            kept = {group[0].group_index for group in self.buffer}
            self.again += [self.handed.pop(number) for number in list(self.handed) if number not in kept]
            self.ended = False
        found, self.buffer = self.buffer[:num_samples], self.buffer[num_samples:]
        while len(found) < num_samples and (row := self._next(enough=bool(found))) is not None:
            found.append(self.samples.group(row, self.groups))
            self.handed[self.groups] = row
            self.groups += 1
        return found

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
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.places[rollout_id])

    def load(self, rollout_id: int | None = None) -> None:
        """Go back to a rollout's end, or begin anew; OutputError where no fitting place was saved."""
        if self.args.load is None or rollout_id is None or rollout_id < 0:
            return self.live.begin_anew()
        path = Path(self.args.load, _PLACE.format(rollout_id))
        if not path.exists():
            raise OutputError(f"{path} is not there: rollout {rollout_id} did not follow a run. Begin anew.")
        saved = read_json(path)
        self.live.restore(saved, str(path))
        rows = {row[ID]: row for row in self.live.rows()}
        self.again = [rows[gc_id] for gc_id in saved["again"]]
        self.rollout, self.groups = rollout_id + 1, saved["groups"]

    def __len__(self) -> int:
        return self.live.budget


def report(args: Any, all_samples: list[Any], data_source: Any) -> None:
    """For `--rollout-all-samples-process-path`; `data_source` is the bound `get_samples`."""
    data_source.__self__.rollout_ended(all_samples)
