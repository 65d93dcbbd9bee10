"""One shard of a rollout set: completions asked for, judged, journaled, and written when all are there.

The journal keeps every completion as it arrives, because a server's tokens are paid for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gaincurate.core.files import append_lines, log_lines, reading
from gaincurate.core.progress import Progress
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.engine import Completion, Engine, Key, Refused, Request
from gaincurate.difficulty.prompts import Prompt
from gaincurate.difficulty.rollout_set import Judged
from gaincurate.difficulty.verifier import Verdict, VerifierPool
from gaincurate.difficulty.verify_worker import Job
from gaincurate.errors import RowError


@dataclass(slots=True)
class RolloutSummary:
    """Counts of a run: `generated` completions, their `tokens` and `elapsed` seconds are of this process.

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
        journal: what had arrived before an interruption, and where more is added.
    """

    def __init__(
        self,
        config: RolloutConfig,
        engine: Engine,
        pool: VerifierPool,
        prompts: Sequence[Prompt],
        journal: Path,
    ) -> None:
        self._config, self._engine, self._pool, self._journal = config, engine, pool, journal
        self._prompts = {prompt.gc_id: prompt for prompt in prompts}
        self._done: dict[Key, Completion] = {}
        self._verdicts: dict[Key, Future[Verdict]] = {}
        self.refused: dict[str, str] = {}
        """Prompts that the engine does not take, and why."""
        for entry in log_lines(journal):
            if entry["gc_id"] not in self._prompts:
                continue  # left out since, because its gold answer fails now
            if "refused" in entry:
                self.refused[entry["gc_id"]] = entry["refused"]
            elif "text" in entry:
                done = decoded(entry)
                self._done[done.key] = done

    def run(self, progress: Progress, summary: RolloutSummary) -> list[Judged]:
        """All rollouts of the prompts that were not refused, by prompt and sample.

        Raises:
            RowError: a prompt was refused or a completion not judged, and that is to stop the run.
            ServerError: see `Engine`.
            StorageError: the file system refused.
        """
        requests = [
            Request(gc_id, sample, prompt.messages, prompt.tools)
            for gc_id, prompt in self._prompts.items()
            for sample in range(self._config.samples)
        ]
        for done in self._done.values():
            self._judge(done)
        with closing(self._engine.generate(requests, frozenset(self._done))) as arriving:
            for part in arriving:
                self._keep(part)
                tokens = [item.tokens or 0 for item in part if isinstance(item, Completion)]
                summary.generated += len(tokens)
                summary.tokens += sum(tokens)
                progress.advance(0, completions=len(tokens), tokens=sum(tokens))
        judged = []
        for request in requests:
            if request.gc_id in self.refused:
                continue
            verdict = self._verdicts[request.key].result()
            if verdict.reward is None and self._config.on_error == "stop":
                raise RowError(
                    f"sample {request.sample} of prompt {request.gc_id} was not judged: {verdict.reason}. "
                    "All completions are kept; add --on-error skip to give such ones no reward, and count "
                    "them.",
                    gc_id=request.gc_id,
                    reason=verdict.reason,
                )
            judged.append((self._done[request.key], verdict.reward, verdict.reason))
        return judged

    def _keep(self, part: Sequence[Completion | Refused]) -> None:
        """Make what arrived durable, then count it."""
        done = [item for item in part if isinstance(item, Completion)]
        refused = {item.gc_id: item.reason for item in part if isinstance(item, Refused)}
        lines = [encoded(item) for item in done]
        if self._config.on_error == "skip":
            lines += [{"gc_id": gc_id, "refused": reason} for gc_id, reason in refused.items()]
        append_lines(self._journal, lines)
        with reading(self._journal), self._journal.open("rb") as file:
            os.fsync(file.fileno())
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
        self.refused = refused | self.refused  # the first reason counts

    def _judge(self, done: Completion) -> None:
        prompt = self._prompts[done.gc_id]
        self._verdicts[done.key] = self._pool.submit(Job(done.text, prompt.answer, prompt.row))

    def other_lengths(self) -> int:
        """Prompts that have another number of tokens here than when they were scored."""
        lengths = {(gc_id, done.prompt_tokens) for (gc_id, _), done in self._done.items()}
        return sum(tokens not in (None, self._prompts[gc_id].tokens) for gc_id, tokens in lengths)


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
