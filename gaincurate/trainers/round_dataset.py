"""A run as a data set: its rows in the order of the plans, and the position as `state_dict`.

A draw yields one prompt, and draws are numbered through all rounds. A draw's number identifies its round and
prompt, marks a data loader's position, and is the `step` of the draw's outcomes.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gaincurate.core.artifact import Json
from gaincurate.core.files import append_lines, drop_half_line
from gaincurate.core.outcomes import read_file
from gaincurate.core.schema import ID
from gaincurate.errors import InputError
from gaincurate.schedule.observations import checked_lines
from gaincurate.schedule.run import Run
from gaincurate.trainers.session import ROUND, RunSession, refuse_rescoring

DRAW = "gc_draw"  # the key of the number of a row's draw, from 1; 0 if the row is not reported
_AHEAD = "The data loader or the trainer asks for prompts ahead of the outcomes of those that it has."


class RoundDataset(torch.utils.data.IterableDataset[Json]):
    """The prompts of a run; the next round is planned when all of a round's prompts were yielded.

    Every row has the source columns, `prompt` as chat messages, `gc_id`, `gc_round` and `gc_draw`. Any
    process may `report` rows and rewards. If a loader or a trainer is ahead of the outcomes, the next round
    is planned if the run's `min_coverage` of them is in, and later ones count as late.

    Iteration begins after the place given to `load_state_dict`. Without a place, it begins with the planned
    prompts that have no outcomes, so a kill loses none. With a place, rows that were yielded before it and
    not reported are lost, so save it after a step's outcomes. A data loader may have at most one worker.

    Args:
        run: the run's folder.
        endless: after the last round, repeat its prompts without reporting them, for a trainer that generates
            until its last step is done.

    Raises:
        OutputError: the folder has no run.
    """

    def __init__(self, run: str | Path, *, endless: bool = False) -> None:
        self.run = Run(run).folder.resolve()
        self._endless = endless
        self._state: Json | None = None
        self._left: Sequence[int] | None = None
        self._planned = self._drawn = 0
        self._session: RunSession | None = None
        self._reported: Run | None = None

    def __getstate__(self) -> Json:
        return {**self.__dict__, "_session": None, "_reported": None}

    def begin(self, *, restart: bool = False) -> RunSession:
        """Open the run and find its first draws; the first iteration does this if no one called it.

        Args:
            restart: void the outcomes of round 0 first, for a trainer that starts without a checkpoint.

        Raises:
            InputError: the run scores again at checkpoints, or the data loader has several workers.
            OutputError: the place is another run's, or in a history that was undone; or a run that should
                restart has later rounds already.
            LockedError: another process iterates.
        """
        worker = torch.utils.data.get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise InputError(
                f"the data loader has {worker.num_workers} workers, each of which would yield all prompts of "
                f"{self.run}. Set num_workers to 0 or 1."
            )
        if self._session is None:
            session = RunSession(self.run, ahead=_AHEAD)
            refuse_rescoring(session.run, "a RoundDataset")
            session.open()
            self._session = session
        live, run = self._session, self._session.run
        if restart:
            live.begin_anew()
            self._state = self._left = None
        if self._left is not None:
            return live
        if self._state is not None:
            live.restore(self._state, "the state of the data set")
        rounds = range(live.round + 1)
        for round_ in rounds:
            drop_half_line(run.outcomes(round_))  # a killed process may have left one
        if self._state is not None:
            self._left = range(self._state["step"] + 1, len(rounds) * live.budget + 1)
        else:
            lines = (read_file(run.outcomes(round_), round_, run.ids, run.rules) for round_ in rounds)
            done = {(line.round, line.gc_id) for part in lines for line in part if line.sample in (None, 0)}
            planned = [(round_, gc_id) for round_ in rounds for gc_id in run.ids(round_)]
            self._left = [draw for draw, place in enumerate(planned, 1) if place not in done]
        self._state, self._reported, self._planned = None, None, len(rounds) * live.budget
        self._drawn = self._left[0] - 1 if self._left else self._planned
        return live

    def draw_at(self, index: int) -> int:
        """The number of the draw at `index`, from 0, in the iteration that begins after `begin`."""
        left = self._left or ()
        return left[index] if index < len(left) else self._planned + index - len(left) + 1

    def __iter__(self) -> Iterator[Json]:
        """Rows in the order of the plans; raises as `begin`, and OutcomeError if too few outcomes are in."""
        live = self.begin()
        _end_with_parent()
        left, self._left = self._left or (), None
        while True:
            for draw in left:
                self._drawn = draw
                round_, place = divmod(draw - 1, live.budget)
                yield {**live.rows(round_)[place], DRAW: draw}
            if live.finished or not live.turn():
                break
            left = range(live.round * live.budget + 1, (live.round + 1) * live.budget + 1)
        while self._endless:
            for row in live.rows():
                yield {**row, DRAW: 0}

    def report(
        self,
        rows: Sequence[Mapping[str, Any]],
        rewards: Sequence[Sequence[float | None]],
        **more: Sequence[Sequence[Any]],
    ) -> None:
        """Append the outcomes of rows that were yielded.

        Args:
            rows: `[prompts]`; their `gc_id`, `gc_round` and `gc_draw` are read.
            rewards: `[prompts, rollouts]`, None for a rollout that could not be judged.
            **more: further keys of outcome lines, such as `tokens`, each `[prompts, rollouts]`.

        Raises:
            OutcomeError: a reward is not a number, or outside the run's range; nothing is written.
            StorageError: the file system refused.
        """
        self._reported = run = self._reported or Run(self.run)
        lines: list[Json] = []
        for place, (row, group) in enumerate(zip(rows, rewards, strict=True)):
            for sample in reversed(range(len(group) if row[DRAW] else 0)):  # sample 0 marks a whole group
                line = {ID: row[ID], "reward": group[sample], "round": row[ROUND], "step": row[DRAW]}
                line |= {name: values[place][sample] for name, values in more.items()}
                lines.append({**line, "sample": sample})
        rounds = {line["round"] for line in lines}
        lines = checked_lines(run, lines, max(rounds, default=0))
        for round_ in rounds:
            append_lines(run.outcomes(round_), [line for line in lines if line["round"] == round_])

    def state_dict(self) -> Json:
        """The position after the newest row that was yielded, and the run's state; plain values."""
        if self._state is not None:
            return self._state
        live = self._session or self.begin()
        return live.save(self._drawn, position=max(self._drawn - live.round * live.budget, 0))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the place after which the next iteration begins, with the run in its state at that place.

        When that iteration begins, later rounds are set aside and later outcomes taken back.

        Args:
            state: from `state_dict`.
        """
        self._state, self._left = dict(state), None

    def close(self) -> None:
        """Release the run, so that another process may iterate."""
        if self._session is not None:
            self._session.close()
            self._session = None


def _end_with_parent() -> None:
    """End this process when its parent process ends, because it would keep the run locked."""

    def watch(parent: Any) -> None:
        parent.join()
        os._exit(1)

    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()
