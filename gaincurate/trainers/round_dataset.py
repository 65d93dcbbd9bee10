"""A run as a data set: rows in the order of the plans, and the position as `state_dict`.

A draw hands out one prompt, and draws are numbered through the rounds. So a number names a round and a
prompt, says how far a data loader came, and is the `step` of the draw's outcomes.
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

DRAW = "gc_draw"  # the key under which a row carries its draw's number, from 1; 0 where nothing is reported
_AHEAD = "The data loader or the trainer asks for prompts ahead of the outcomes of those that it has."


class RoundDataset(torch.utils.data.IterableDataset[Json]):
    """The prompts of a run; the next round is planned when all of a round's prompts were handed out.

    Every row has the source columns, `prompt` as chat messages, `gc_id`, `gc_round` and `gc_draw`. Give rows
    and their rewards to `report`, from any process. Where a loader or a trainer is ahead of the outcomes, the
    next round is planned from those that have come, if they cover the run's `min_coverage`. Later ones count
    as late.

    Iteration begins after the place that `load_state_dict` was given. Without one it begins with the
    prompts that were planned and have no outcomes, so a kill loses none. With one, rows that were handed
    out before the place and not reported are not handed out again: save it after the outcomes of a step.
    One process iterates: a data loader may have one worker.

    Args:
        run: the run's folder.
        endless: after the last round, repeat its prompts without reporting them, for a trainer that generates
            until its last step is done.

    Raises:
        OutputError: no run is there.
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
        """Open the run and find the draws to begin with; the first iteration does so otherwise.

        Args:
            restart: void the outcomes of round 0 first, for a trainer that starts without a checkpoint.

        Raises:
            InputError: the run scores again at checkpoints, or the data loader has several workers.
            OutputError: the place is another run's, or of a history that was undone, or the run that should
                begin again has gone on to later rounds.
            LockedError: another process iterates.
        """
        worker = torch.utils.data.get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise InputError(
                f"the data loader has {worker.num_workers} workers, and each would hand out all prompts of "
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
            drop_half_line(run.outcomes(round_))  # of a process that was killed
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
        """The number of the draw that an iteration hands out as its `index`-th, from 0; after `begin`."""
        left = self._left or ()
        return left[index] if index < len(left) else self._planned + index - len(left) + 1

    def __iter__(self) -> Iterator[Json]:
        """Rows in the order of the plans; raises as `begin`, and OutcomeError where too few outcomes came."""
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
        """Append the outcomes of rows that were handed out.

        Args:
            rows: `[prompts]`, of which `gc_id`, `gc_round` and `gc_draw` are read.
            rewards: `[prompts, rollouts]`, None for a rollout that could not be judged.
            **more: further keys of outcome lines, such as `tokens`, each `[prompts, rollouts]`.

        Raises:
            OutcomeError: a reward that is no number or outside the run's range; nothing is written.
            StorageError: the file system refused.
        """
        self._reported = run = self._reported or Run(self.run)
        lines: list[Json] = []
        for place, (row, group) in enumerate(zip(rows, rewards, strict=True)):
            for sample in reversed(range(len(group) if row[DRAW] else 0)):  # of a whole group, 0 is there
                line = {ID: row[ID], "reward": group[sample], "round": row[ROUND], "step": row[DRAW]}
                line |= {name: values[place][sample] for name, values in more.items()}
                lines.append({**line, "sample": sample})
        rounds = {line["round"] for line in lines}
        lines = checked_lines(run, lines, max(rounds, default=0))
        for round_ in rounds:
            append_lines(run.outcomes(round_), [line for line in lines if line["round"] == round_])

    def state_dict(self) -> Json:
        """The position after the newest row that was handed out, and the run's state; plain values."""
        if self._state is not None:
            return self._state
        live = self._session or self.begin()
        return live.save(self._drawn, position=max(self._drawn - live.round * live.budget, 0))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration begin after a place, with the run as it was there.

        Later rounds are set aside and later outcomes taken back when that iteration begins.

        Args:
            state: from `state_dict`.
        """
        self._state, self._left = dict(state), None

    def close(self) -> None:
        """Let another process iterate."""
        if self._session is not None:
            self._session.close()
            self._session = None


def _end_with_parent() -> None:
    """End this process when the one that started it is killed: it would go on to hold the run."""

    def watch(parent: Any) -> None:
        parent.join()
        os._exit(1)

    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()
