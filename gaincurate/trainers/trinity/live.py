"""Trinity-RFT follows a run live: its explorer asks for row indices and hands pass rates back.

Written against version 0.6.0. Named in `data_selector.selector_type`. The explorer asks ahead and waits for
outcomes where it syncs weights, so a round must end there, or without some of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gaincurate.core.artifact import Json
from gaincurate.core.schema import ID
from gaincurate.errors import OutcomeError, OutputError
from gaincurate.trainers.session import not_installed, open_run, place_of, reward_of

try:
    from trinity.buffer.selector.selector import BaseSelector
except ImportError as error:
    raise not_installed("Trinity-RFT", "0.6", error) from error

_AHEAD = (
    "Trinity's explorer waits for outcomes where it syncs weights alone: let budget / buffer.batch_size be a "
    "multiple of synchronizer.sync_interval, with sync_offset 0 and a sync_style other than fully_async."
)


class _Batch(NamedTuple):
    """Rows that were handed out together: their ids by index, from `position` of the round on."""

    step: int
    round: int
    position: int
    ids: dict[int, str]


class RunSelector(BaseSelector):  # type: ignore[misc]
    """Selects what a run has planned; `kwargs.run` is the run's folder.

    Args:
        data_source: `dataset` is the task set, written by `gaincurate export --trainer trinity`.
        config: the `data_selector` section.

    Raises:
        InputError: no run was named, it scores again, or its plans have group sizes.
        OutputError: the task set has no ids.
        LockedError: another trainer is at work on the run.
    """

    def __init__(self, data_source: Any, config: Any) -> None:
        # `config` is the data_selector section alone, so `rules.py` cannot be asked here.
        super().__init__(data_source, config)
        run = config.kwargs.get("run")
        self.live = open_run(run, "data_selector.kwargs: {run: FOLDER}", "Trinity-RFT", _AHEAD)
        if ID not in data_source.dataset.column_names:
            raise OutputError(
                f"the task set {data_source.name!r} has no column {ID}; write it with `gaincurate export "
                "--trainer trinity` and name that file in its `path`."
            )
        self.places = {gc_id: index for index, gc_id in enumerate(data_source.dataset[ID])}
        self.step = 0
        self.waiting: list[_Batch] = []  # handed out, outcomes not in, oldest first

    def get_indices(self, batch_size: int, return_extra_info: bool = False) -> Any:
        """Rows of the task set for the next batch, `[batch_size]`; raises as `RunSession.take`.

        Raises:
            InputError: a prompt is not in the task set.
            StopIteration: the run is finished, so there are no more tasks.
        """
        rows, where = self.live.take(batch_size), f"the task set {self.data_source.name!r} has"
        if not rows:
            raise StopIteration
        ids = {place_of(row, self.places, where): row[ID] for row in rows}
        self.step += 1
        self.waiting.append(_Batch(self.step, self.live.round, self.live.position - batch_size, ids))
        return (list(ids), {}) if return_extra_info else list(ids)

    def feedback(self, indices: Sequence[int], values: Sequence[float]) -> None:
        """Take a batch's mean rewards; one call is one batch, and batches end in order.

        Raises:
            OutcomeError: no open batch has them.
        """
        rewards = {int(index): reward_of(float(value)) for index, value in zip(indices, values, strict=True)}
        if not rewards:
            return
        place = next((k for k, one in enumerate(self.waiting) if rewards.keys() <= one.ids.keys()), None)
        if place is None:
            raise OutcomeError(f"outcomes of rows {sorted(rewards)[:5]} came, which no open batch has.")
        batch = self.waiting[place]
        del self.waiting[: place + 1]  # those before it ended without any outcome
        head = {"round": batch.round, "step": batch.step, "sample": 0}
        self.live.report({ID: batch.ids[index], "reward": value, **head} for index, value in rewards.items())

    def state_dict(self) -> Json:
        """The place, for `explorer_meta.json`; what is waited for in this round is handed out again."""
        again = next((batch for batch in self.waiting if batch.round == self.live.round), None)
        if again is None:
            return self.live.save(self.step)
        return {**self.live.save(again.step - 1), "position": again.position}

    def load_state_dict(self, state_dict: Json) -> None:
        """Go back to a place, or begin again; OutputError where the state does not fit the run."""
        self.waiting.clear()
        if state_dict == {"current_index": 0}:  # a training that saved nothing
            self.live.begin_anew()
            return
        if "run" not in state_dict:
            raise OutputError(
                "the explorer's saved state is another selector's: no run can be followed from there. Give "
                "the training another `name`, or its old selector."
            )
        self.live.restore(state_dict, "the explorer's saved state")
        self.step = int(state_dict["step"])
