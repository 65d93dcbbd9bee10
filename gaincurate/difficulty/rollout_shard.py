"""One shard of a rollout set: completions asked for, judged, journaled, and written when all are there.

The journal keeps every completion as it arrives, because a server's tokens are paid for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gaincurate.core.files import append_lines, log_lines
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
        self._verdicts: dict[Key, Verdict] = {}
        self._waiting: deque[tuple[Key, Future[Verdict]]] = deque()
        self.refused: dict[str, str] = {}
        """Prompts that the engine does not take, and why."""
        for entry in log_lines(journal):
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
                self._take_verdicts(wait=False)
        self._take_verdicts(wait=True)
        judged = []
        for request in requests:
            if request.gc_id not in self.refused:
                verdict = self._verdicts[request.key]
                judged.append((self._done[request.key], verdict.reward, verdict.reason))
        return judged

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        append_lines(self._journal, lines, durable=True)

    def _keep(self, part: Sequence[Completion | Refused]) -> None:
        """Make what arrived durable, then count it."""
        done = [item for item in part if isinstance(item, Completion)]
        refused = {item.gc_id: item.reason for item in part if isinstance(item, Refused)}
        lines = [encoded(item) for item in done]
        if self._config.on_error == "skip":
            lines += [{"gc_id": gc_id, "refused": reason} for gc_id, reason in refused.items()]
        self._append(lines)
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
        self._append(
            [
                {"gc_id": gc_id, "sample": sample, "reward": verdict.reward, "reason": verdict.reason}
                for (gc_id, sample), verdict in ready.items()
            ]
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
