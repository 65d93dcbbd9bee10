"""Trinity-RFT follows a run live: its explorer asks for row indices and returns pass rates.

Written against version 0.6.0. Named in `data_selector.selector_type`. The explorer asks ahead, and waits for
outcomes only when it syncs weights, so a round must end there, or without some outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trinity.buffer.selector.selector import BaseSelector

from gaincurate.core.artifact import Json
from gaincurate.core.schema import ID
from gaincurate.errors import InputError, OutcomeError, OutputError
from gaincurate.trainers.session import ROUND, open_run, reward_of

_AHEAD = (
    "Trinity's explorer waits for outcomes only where it syncs weights: let budget / buffer.batch_size be a "
    "multiple of synchronizer.sync_interval, with sync_offset 0 and a sync_style other than fully_async."
)


class RunSelector(BaseSelector):  # type: ignore[misc]
    """Selects the planned prompts of a run; `kwargs.run` is the run's folder.

    `data_source.dataset` is the task set from `gaincurate export --trainer trinity`, and `config` the
    `data_selector` section. Raises as `open_run`, and OutputError if the task set has no ids.
    """

    def __init__(self, data_source: Any, config: Any) -> None:
        # `config` is only the data_selector section, so the rules cannot be applied here.
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
        self.waiting: list[tuple[int, int, dict[int, Json]]] = []
        """Batches without outcomes, oldest first: step, position in the round, rows by index."""

    def get_indices(self, batch_size: int, return_extra_info: bool = False) -> Any:
        """The indices of the next batch in the task set, `[batch_size]`.

        Raises as `RunSession.take`, InputError if a prompt is not in the task set, StopIteration at the end.
        """
        rows = self.live.take(batch_size)
        if not rows:
            raise StopIteration
        if missing := [row[ID] for row in rows if row[ID] not in self.places]:
            raise InputError(
                f"{missing[0]!r} of the run is not in the task set {self.data_source.name!r}: the set was "
                "filtered, or is of other scores. Write it again with `gaincurate export --trainer trinity`.",
                gc_id=missing[0],
            )
        by_index = {self.places[row[ID]]: row for row in rows}
        self.step += 1
        self.waiting.append((self.step, self.live.position - batch_size, by_index))
        return (list(by_index), {}) if return_extra_info else list(by_index)

    def feedback(self, indices: Sequence[int], values: Sequence[float]) -> None:
        """Report a batch's mean rewards, in order; raises OutcomeError if no open batch has these rows."""
        rewards = {int(index): reward_of(float(value)) for index, value in zip(indices, values, strict=True)}
        if not rewards:
            return
        place = next((k for k, batch in enumerate(self.waiting) if rewards.keys() <= batch[2].keys()), None)
        if place is None:
            raise OutcomeError(f"outcomes of rows {sorted(rewards)[:5]} came, which no open batch has.")
        step, _, rows = self.waiting[place]
        del self.waiting[: place + 1]  # earlier batches ended without outcomes
        named = [(rows[index], reward) for index, reward in rewards.items()]
        head = {"step": step, "sample": 0}
        self.live.report({ID: row[ID], "round": row[ROUND], "reward": r, **head} for row, r in named)

    def state_dict(self) -> Json:
        """The place, for `explorer_meta.json`; this round's batches without outcomes are yielded again."""
        for step, position, rows in self.waiting:
            if all(row[ROUND] == self.live.round for row in rows.values()):
                return {**self.live.save(step - 1), "position": position}
        return self.live.save(self.step)

    def load_state_dict(self, state_dict: Json) -> None:
        """Return to a place, or restart; raises OutputError if the state does not fit the run."""
        self.waiting.clear()
        if state_dict == {"current_index": 0}:  # a training that saved nothing
            self.live.begin_anew()
            return
        if "run" not in state_dict:
            raise OutputError(
                "the explorer's saved state is another selector's, with no place in a run. Give the training "
                "another `name`, or its old selector."
            )
        self.live.restore(state_dict, "the explorer's saved state")
        self.step = int(state_dict["step"])
