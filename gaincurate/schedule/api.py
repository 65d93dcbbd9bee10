"""A run for programs: what `gaincurate schedule` does, as one object.

It keeps nothing but the run's folder. So a program and the command line can take turns on the same run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from gaincurate.core.artifact import Json
from gaincurate.core.files import append_lines
from gaincurate.core.options import checked
from gaincurate.core.prompts import read_rows
from gaincurate.schedule import status as story
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.rounds import start as open_run
from gaincurate.schedule.run import Run, working_on


class Schedule:
    """A run that was started.

    Args:
        run: its folder.

    Raises:
        OutputError: no run is there.
    """

    def __init__(self, run: str | Path) -> None:
        self._run = Run(run)

    @classmethod
    def start(
        cls, scored: str | Path, run: str | Path, *, strategy: str, budget: int, rounds: int, **options: Any
    ) -> Schedule:
        """Open a run and write its round 0; options as in `ScheduleConfig`, `rescore` as a mapping too.

        Raises:
            InputError: an option does not go with the set or with another option.
            OutputError: the scored set is unfinished or damaged, or the run's folder holds something.
        """
        required = {"scored": scored, "run": run, "strategy": strategy, "budget": budget, "rounds": rounds}
        open_run(checked(ScheduleConfig, {**required, **options}))
        return cls(run)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._run.folder

    @property
    def round(self) -> int:
        """The newest round, from 0; -1 where the first waits for its references."""
        return int(self._run.state["round"])

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return bool(self._run.state.get("finished"))

    @property
    def ids(self) -> list[str]:
        """The ids of the newest round's prompts, `[budget]`, in its order."""
        return self._run.ids(self._run.newest())

    @property
    def plan(self) -> Json:
        """The newest round's plan."""
        return self._run.plan(self._run.newest())

    def data(self) -> pa.Table:
        """The newest round's training rows, `[budget]`."""
        return read_rows(self._run.data(self._run.newest()))

    def report(self, outcomes: Iterable[Mapping[str, Any]]) -> None:
        """Append outcomes of the newest round: `gc_id`, `reward`, and what else a line may have.

        `round` is filled in where a line has none. `next` reports what is wrong with a line.

        Raises:
            StorageError: the file system refused.
        """
        number = self._run.newest()
        append_lines(self._run.outcomes(number), ({"round": number, **line} for line in outcomes))

    def next(self, checkpoint: str | Path | None = None, references: str | Path | None = None) -> bool:
        """Take the newest round's outcomes and plan the next round.

        Args:
            checkpoint: what the round's training left; needed where a re-scoring is due, or where references
                are rolled out with it.
            references: what the next round's references did, for strategy `dots`: outcomes, or a rollout set.

        Returns:
            Whether there is a next round.

        Raises:
            OutcomeError: the outcomes cannot be used; nothing is changed.
            LockedError: another process is at work on the run.
        """
        with working_on(self.folder):
            references_path = None if references is None else Path(references)
            left = None if checkpoint is None else str(checkpoint)
            return advance(self._run, left, references=references_path) is not None

    def status(self) -> Json:
        """What `gaincurate schedule status --json` prints."""
        return story.status(self._run)
