"""prime-rl follows a run live: an infinite verifiers taskset has the planned prompts as its tasks.

Parts for a user's environment package, for verifiers a60a606ec and prime-rl 559b44772 (2026-08-21). prime-rl
dispatches ahead of outcomes. It resumes by calling `next` once per earlier task, which reads plans on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any

import verifiers.v1 as vf

from gaincurate.core.artifact import Json
from gaincurate.core.schema import ID
from gaincurate.trainers.session import ROUND, followed, open_run

_AHEAD = (
    "prime-rl dispatches ahead and drops groups, so a round hardly ever comes back whole: about max_inflight "
    "/ group_size of its prompts are on their way when the next one begins."
)
_ATTEMPT = "prime-rl began"


class RunConfig(vf.TasksetConfig):  # type: ignore[misc]
    """A taskset's config with `run`, the run's folder."""

    run: str = ""


class RunData(vf.TaskData):  # type: ignore[misc]
    """A task's data, with the fields to report its outcome; no scores, which would change its identity."""

    gc_id: str
    gc_round: int
    gc_attempt: int
    """How often a training has begun; outcomes of a later attempt replace those of an earlier one."""
    gc_run: str
    """The run's folder; empty if the outcome was taken before."""


class RunTask:
    """A mixin before `vf.Task`: its key is the prompt's id, and its reward is reported."""

    data: Any

    @property
    def key(self) -> str:
        """The prompt's id, so that a prompt has the same key in every round."""
        return str(self.data.gc_id)

    async def score(self, trace: Any, runtime: Any = None) -> None:
        """Score, then report; a task whose scoring fails is reported as not judged."""
        reward, data = None, self.data
        try:
            await super().score(trace, runtime)  # type: ignore[misc]
            reward = float(trace.reward)
        finally:
            if data.gc_run:
                line = {ID: data.gc_id, "reward": reward, "round": data.gc_round, "step": data.idx}
                followed(data.gc_run).report([{**line, "attempt": data.gc_attempt, "sample": trace.id}])


class RunTaskset:
    """A mixin before `vf.Taskset`: loads a run's prompts, round after round.

    After the last round, its prompts repeat and are not reported: prime-rl asks until its last step is done.
    """

    INFINITE = True
    config: Any

    def task_of(self, row: Json, carried: Json) -> Any:
        """Make a task from a row, which has the source columns, `gc_id`, `gc_round` and `prompt`.

        `carried` has fields for `RunData`: `idx`, `gc_id`, `gc_round`, `gc_attempt` and `gc_run`.
        """
        raise NotImplementedError("task_of: each environment makes its own tasks from rows")

    def load(self) -> Iterator[Any]:
        """Tasks in the order of the plans; raises as `open_run` and `RunSession.turn`."""
        # A taskset has its own config but not prime-rl's settings, so the rules cannot be applied here.
        with closing(open_run(self.config.run, "the taskset's `run`", "prime-rl", _AHEAD)) as live:
            attempt = 1 + sum(entry.get("what") == _ATTEMPT for entry in live.run.executions())
            live.run.log(what=_ATTEMPT, attempt=attempt)
            run, taken, last = str(live.run.folder.resolve()), live.round, live.rounds - 1
            unreported = live.rounds if live.finished else taken  # outcomes of earlier rounds were taken
            for place in count():
                round_, position = divmod(place, live.budget)
                if live.round < round_ <= last:
                    live.turn()
                row = live.rows(min(round_, last))[position]
                where = {ID: row[ID], ROUND: row[ROUND], "gc_attempt": attempt}
                where["gc_run"] = run if unreported <= round_ <= last else ""
                yield self.task_of(row, {"idx": place, **where})
