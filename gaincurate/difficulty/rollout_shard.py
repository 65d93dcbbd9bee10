"""One shard of a rollout set: completions asked for, judged, journaled, and written when all are there.

The journal keeps every completion as it arrives, because a server's tokens are paid for.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gaincurate.core.artifact import Json
from gaincurate.core.files import json_lines, sync_folder, to_lines
from gaincurate.core.progress import Progress
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.engine import Completion, Engine, Key, Refused, Request
from gaincurate.difficulty.metrics import width
from gaincurate.difficulty.prompts import Prompt
from gaincurate.difficulty.rollout_set import Judged
from gaincurate.difficulty.verifier import Verdict, VerifierPool
from gaincurate.difficulty.verify_worker import Job
from gaincurate.errors import LockedError, RowError, storage_error

_PATIENCE = 120.0  # seconds for a journal's writer before; one on a lost machine is ended by Ray


class Journal:
    """One file of lines, open for appending by one writer at a time.

    A piece of a line that a killed writer left at the end is cut off when it is opened. Who opens it waits
    for the one before: a worker that Ray lost sight of may live, and its successor must not cut its lines.

    Raises:
        StorageError: the file system refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._alone()
            self._file.seek(0)
            self._file.truncate(self._file.read().rfind(b"\n") + 1)
            sync_folder(path.parent)
        except OSError as error:
            raise storage_error(path, error) from error

    def _alone(self) -> BinaryIO:
        """The file, opened, once no other writer has it and it is still the one at its place.

        Raises:
            LockedError: the other writer does not end.
        """
        until = time.monotonic() + _PATIENCE
        while True:
            file = self.path.open("ab+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.path.exists() and os.fstat(file.fileno()).st_ino == self.path.stat().st_ino:
                    return file
            except BlockingIOError:
                if time.monotonic() > until:
                    file.close()
                    raise LockedError(
                        f"{self.path} is held by a process that does not end. End it and run the same "
                        "command again: what had arrived is kept.",
                        path=str(self.path),
                    ) from None
                time.sleep(0.1)
            file.close()  # the one before was done with the shard and deleted it, or is not done yet

    def entries(self) -> Iterator[Json]:
        """The objects in the file. What a damaged line held is made again.

        Raises:
            StorageError: it cannot be read.
        """
        return (value for _, value in json_lines(self.path) if value is not None)

    def append(self, values: Iterable[dict[str, Any]]) -> None:
        """Add lines, in one write.

        Raises:
            StorageError: the file system refused; the file may then end with a piece of a line.
        """
        try:
            self._file.write(to_lines(values))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise storage_error(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # of what `append` could not write and said so: the buffer still has it
            self._file.close()


Arrived = list[Completion | Refused]


@dataclass(slots=True)
class RolloutSummary:
    """How a run went: `generated` completions, their `tokens` and `elapsed` seconds are of this process.

    `other_lengths` counts its prompts that have another number of tokens than when they were scored. The rest
    is of the finished set; `unjudged` rollouts have a reason in the place of a reward.
    """

    out: Path
    generated: int = 0
    tokens: int = 0
    elapsed: float = 0.0
    other_lengths: int = 0
    prompts: int = 0
    rollouts: int = 0
    unjudged: int = 0
    rejected: int = 0
    pass_rate: float | None = None
    reasons: dict[str, int] = field(default_factory=dict)
    """Why rollouts were not judged, most frequent first: at most five."""
    warning: str | None = None
    """That no completion has the format that the verifier looks for."""


class ShardWork:
    """The rollouts of some prompts.

    Args:
        config: of the rollouts.
        engine: generates.
        pool: verifies.
        prompts: those of the shard, without those that were left out.
        folder: of the journal.
        index: of the shard.
    """

    def __init__(
        self,
        config: RolloutConfig,
        engine: Engine,
        pool: VerifierPool,
        prompts: Sequence[Prompt],
        folder: Path,
        index: int,
    ) -> None:
        self._config, self._engine, self._pool = config, engine, pool
        self._prompts = {prompt.gc_id: prompt for prompt in prompts}
        self._journal = Journal(folder / f"completions-{index:05d}.jsonl")
        self._done: dict[Key, Completion] = {}
        self._verdicts: dict[Key, Verdict] = {}
        self._waiting: deque[tuple[Key, Future[Verdict]]] = deque()
        self.refused: dict[str, str] = {}
        """Prompts that the engine does not take, and why."""
        for entry in self._journal.entries():
            if entry["gc_id"] not in self._prompts:
                continue  # left out since, because its gold answer fails now
            if "refused" in entry:
                self.refused[entry["gc_id"]] = entry["refused"]
            elif "reward" in entry:
                key = entry["gc_id"], entry["sample"]
                if key in self._done:  # else the line of its completion was damaged, and another one is made
                    self._verdicts[key] = Verdict(entry["reward"], entry["reason"])
            else:
                done = decoded(entry)
                self._done[done.key] = done

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def run(self, progress: Progress, summary: RolloutSummary) -> list[Judged]:
        """All rollouts of the prompts that were not refused, by prompt and sample.

        Raises:
            RowError: a prompt was refused or a completion not judged, and that is to stop the run.
            ServerError: see `Engine`.
            StorageError: the file system refused.
        """
        config = self._config
        step = config.samples_start or config.samples
        counts = dict.fromkeys(self._prompts, 0)
        wanted = list(self._prompts)
        while wanted:
            goals = {gc_id: min(counts[gc_id] + step, config.samples) for gc_id in wanted}
            self._wave(
                [
                    Request(gc_id, sample, self._prompts[gc_id].messages, self._prompts[gc_id].tools)
                    for gc_id in wanted
                    for sample in range(counts[gc_id], goals[gc_id])
                ],
                progress,
                summary,
            )
            counts |= goals
            wanted = [g for g in wanted if counts[g] < config.samples and self._is_wide(g, counts[g])]
        judged = []
        for gc_id in self._prompts:
            for sample in range(counts[gc_id] if gc_id not in self.refused else 0):
                verdict = self._verdicts[gc_id, sample]
                judged.append((self._done[gc_id, sample], verdict.reward, verdict.reason))
        return judged

    def _wave(self, requests: list[Request], progress: Progress, summary: RolloutSummary) -> None:
        for request in requests:
            if request.key in self._done:
                self._judge(self._done[request.key])
        with closing(self._engine.generate(requests, frozenset(self._done))) as arriving:
            for part in arriving:
                self._keep(part)
                tokens = [item.tokens or 0 for item in part if isinstance(item, Completion)]
                summary.generated += len(tokens)
                summary.tokens += sum(tokens)
                progress.advance(0, completions=len(tokens), tokens=sum(tokens))
                self._take_verdicts(wait=False)
        self._take_verdicts(wait=True)

    def _keep(self, part: Arrived) -> None:
        """Make what arrived durable, then count it."""
        refused = {
            item.gc_id: item.reason
            for item in part
            if isinstance(item, Refused) and item.gc_id not in self.refused
        }
        done = [item for item in part if isinstance(item, Completion)]
        lines: list[dict[str, Any]] = [encoded(item) for item in done]
        if self._config.on_error == "skip":
            lines += [{"gc_id": gc_id, "refused": reason} for gc_id, reason in refused.items()]
        self._journal.append(lines)
        for item in done:
            self._done[item.key] = item
            self._judge(item)
        for gc_id, reason in refused.items():
            if self._config.on_error == "stop":
                raise RowError(
                    f"prompt {gc_id} cannot be rolled out: {reason}. What had arrived is kept. Fix it, or "
                    "add --on-error skip to leave such rows out.",
                    gc_id=gc_id,
                    reason=reason,
                )
            self.refused[gc_id] = reason

    def _judge(self, done: Completion) -> None:
        if done.key not in self._verdicts:
            prompt = self._prompts[done.gc_id]
            self._waiting.append((done.key, self._pool.submit(Job(done.text, prompt.answer, prompt.row))))

    def _take_verdicts(self, *, wait: bool) -> None:
        """Write down the verdicts that are there, in the order in which they were asked for."""
        ready: dict[Key, Verdict] = {}
        bad: tuple[Key, Verdict] | None = None
        while self._waiting and bad is None and (wait or self._waiting[0][1].done()):
            key, future = self._waiting.popleft()
            verdict = future.result()
            if verdict.reward is None and self._config.on_error == "stop":
                bad = key, verdict
            else:
                ready[key] = verdict
        self._journal.append(
            {"gc_id": gc_id, "sample": sample, "reward": verdict.reward, "reason": verdict.reason}
            for (gc_id, sample), verdict in ready.items()
        )
        self._verdicts |= ready
        if bad is not None:
            (gc_id, sample), verdict = bad
            raise RowError(
                f"sample {sample} of prompt {gc_id} was not judged: {verdict.reason}. All completions are "
                "kept; add --on-error skip to give such ones no reward, and count them.",
                gc_id=gc_id,
                reason=verdict.reason,
            )

    def _is_wide(self, gc_id: str, count: int) -> bool:
        """Whether the pass rate's interval is wider than asked; unjudged samples say nothing."""
        if self._config.interval is None or gc_id in self.refused:
            return False
        rewards = [self._verdicts[gc_id, sample].reward for sample in range(count)]
        judged = [reward for reward in rewards if reward is not None]
        return width(sum(judged), len(judged) - sum(judged)) > self._config.interval

    def other_lengths(self) -> int:
        """Prompts that have another number of tokens here than when they were scored."""
        return len(
            {
                gc_id
                for (gc_id, _), done in self._done.items()
                if done.prompt_tokens is not None and done.prompt_tokens != self._prompts[gc_id].tokens
            }
        )


def encoded(done: Completion) -> dict[str, Any]:
    """A journal's line."""
    line = {name: getattr(done, name) for name in Completion.__slots__}
    for name in ("logprobs", "token_ids"):
        line[name] = None if line[name] is None else line[name].tolist()
    return line


def decoded(entry: dict[str, Any]) -> Completion:
    """The completion of a journal's line."""
    values = dict(entry)
    for name, kind in (("logprobs", np.float32), ("token_ids", np.int32)):
        values[name] = None if values[name] is None else np.array(values[name], kind)
    return Completion(**values)
