"""Judges completions in processes with limits on time and memory, and checks the gold answers first.

A verifier is foreign code on foreign text: it may hang or exhaust the memory, so it never runs in our own
process. Gold answers that fail their own verifier are found before anything is generated.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gaincurate.core.artifact import Json
from gaincurate.core.foreign import json_value
from gaincurate.core.process import Kept, signal_name
from gaincurate.core.progress import Progress
from gaincurate.core.rng import Ints
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.answers import accepted, asked_format
from gaincurate.difficulty.config import VerifierConfig as VerifierConfig  # users import it from here
from gaincurate.difficulty.prompts import Prompt, read_prompts
from gaincurate.difficulty.verify_worker import WALL, GoldProblem, Job, gold_answer, gold_text
from gaincurate.errors import InputError

_LOADING = 120.0  # seconds until a verifier has to be imported, on a busy machine
_ENDING = 10.0  # seconds until what a process started has ended after it
_START = (
    "import json, sys; path, *setup = json.loads(sys.argv[1]); sys.path[:] = path; "
    "from gaincurate.difficulty.verify_worker import main; main(*setup)"
)
_EXTRAS = {"math": "difficulty", "reasoning-gym": "demo"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A reward from 0 to 1, or None and the reason why the completion could not be judged."""

    reward: float | None
    reason: str | None = None


class VerifierPool:
    """Processes that judge, as a context. Entering raises `InputError` if the verifier cannot be imported."""

    def __init__(self, config: VerifierConfig) -> None:
        self.config = config
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        self._all = [_Process(config) for _ in range(config.verify_workers)]
        self._threads = ThreadPoolExecutor(config.verify_workers, thread_name_prefix="verify")
        self.about: dict[str, Any] = {}  # versions and code hash that can change verdicts

    def __enter__(self) -> VerifierPool:
        try:
            self.about = self._all[0].start()
        except BaseException:
            self.__exit__()
            raise
        for process in reversed(self._all):
            self._idle.put(process)
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes; jobs that were not judged are cancelled."""
        for process in self._all:
            process.stop()
        self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            process.drop()

    @property
    def identity(self) -> Json:
        """Everything about the verifier that can change a verdict."""
        config = self.config
        limits = {"seconds": config.verify_seconds, "memory": config.verify_memory, "gold_as": config.gold_as}
        return {"name": config.verifier, **self.about, **limits}

    def submit(self, job: Job) -> Future[Verdict]:
        """Judge one completion; the future's result is its verdict."""
        return self._threads.submit(self._judge, job)

    def judge_all(self, jobs: Iterable[Job]) -> Iterator[Verdict]:
        """The verdicts in the order of the jobs."""
        return self._threads.map(self._judge, jobs)

    def _judge(self, job: Job) -> Verdict:
        process = self._idle.get()
        try:
            return process.judge(job)
        finally:
            self._idle.put(process)


class _Process:
    """One place in the pool: a process, and its successor if it dies."""

    def __init__(self, config: VerifierConfig) -> None:
        self._config = config
        self._kept: Kept | None = None
        self._closed = False

    def start(self) -> dict[str, Any]:
        """Begin a process and wait until its verifier is imported."""
        # The children must see what this process sees; a user's module may lie in the working folder.
        config = self._config
        path = [*sys.path, os.getcwd()] if not config.needs_answer else sys.path
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        setup = json.dumps([path, config.verifier, config.verify_seconds, config.verify_memory])
        self._kept = Kept(
            [sys.executable, "-c", _START, setup],
            grace=0.0,
            # Hashing decides in which order sympy takes terms: the same in every process.
            environment={**single, "PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        answer = self._ask(_LOADING)
        if "about" not in answer:
            self.drop()
            reason = answer.get("failed") or f"its process {answer['crash']}"
            extra = _EXTRAS.get(config.verifier) if "NotFound" in reason else None
            hint = f" `pip install 'gaincurate[{extra}]'` brings it." if extra else ""
            raise InputError(f"--verifier {config.verifier} cannot be loaded: {reason}.{hint}")
        return dict(answer["about"])

    def judge(self, job: Job) -> Verdict:
        """Judge one job, in a new process if the last one is gone."""
        if self._kept is not None and self._kept.ended(0):
            self.drop()  # it died while it was idle: this job is not to blame
        if self._closed:
            return Verdict(None, "the verifier was closed")
        if self._kept is None:
            self.start()
        # The kernel's own limits come first.
        answer = self._ask(WALL * self._config.verify_seconds + 5, pickle.dumps(job))
        if "crash" in answer:
            return Verdict(None, f"the verifier's process {answer['crash']}")
        if answer.get("spent"):
            self.drop()
        return Verdict(answer.get("reward"), answer.get("reason"))

    def stop(self) -> None:
        """End the process from another thread than the one that waits for it; it gets no successor."""
        self._closed = True
        if (kept := self._kept) is not None:
            kept.ask_end()

    def drop(self) -> None:
        """End the process, with all that it started, and free what it held."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _ask(self, seconds: float, data: bytes = b"") -> dict[str, Any]:
        """The process's answer to a job, or `crash`: how it ended, with all that it started."""
        assert self._kept is not None
        keeper, left = self._kept.keeper, memoryview(data)
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        with suppress(BrokenPipeError):  # the error below says how it ended
            while left:
                left = left[keeper.stdin.write(left) or 0 :]
        waiting = select.poll()
        waiting.register(keeper.stdout, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            self.drop()
            return {"crash": f"gave no answer within {seconds:g} s and was ended"}
        line = keeper.stdout.readline()  # written in one piece
        return dict(json_value(line)) if line else {"crash": self._end()}

    def _end(self) -> str:
        """A clause that says how a process ended without an answer."""
        assert self._kept is not None
        code = self._kept.outcome() if self._kept.ended(_ENDING) else "none"
        self.drop()
        if not isinstance(code, int) or code >= 0:
            return f"ended without an answer (exit code {code})"
        limit = self._config.verify_seconds
        by_signal: dict[int, str] = {
            signal.SIGPROF: f"used more than {limit:g} s of processor time and was ended",
            signal.SIGALRM: f"took longer than {WALL * limit:g} s and was ended",
            signal.SIGKILL: "was killed (SIGKILL), perhaps by the system for its memory",
        }
        return by_signal.get(-code, f"crashed ({signal_name(-code)})")


def gold_completion(config: VerifierConfig, prompt: Prompt) -> str:
    """The gold answer in the format that the prompt asks for, a completion that must get a reward of 1.

    Raises `GoldProblem` if there is no usable answer.
    """
    gold = next(iter(accepted(prompt.answer)), None)
    text = gold_text(gold)
    written = config.gold_as or asked_format(prompt.messages)
    if config.gold_as is None and any(mark in text for mark in (r"\boxed", "####", "<answer>")):
        if config.verifier != "math":
            return text
        text = gold_answer(gold)
    return written.replace("{answer}", text)


def check_gold(
    scored: ScoredSet, pieces: Sequence[Ints | range], answer: str, pool: VerifierPool, progress: Progress
) -> dict[str, str]:
    """The ids of rows whose own answer, in the column `answer`, fails, and the reasons, in the rows' order.

    `pieces` are places of rows of the set; one piece at a time is held in memory.
    """
    broken = dict[str, str]()
    progress.start(sum(map(len, pieces)), what="verifying gold")
    for places in pieces:
        prompts, jobs = read_prompts(scored, places, answer), dict[str, Job]()
        for prompt in prompts:
            try:
                jobs[prompt.gc_id] = Job(gold_completion(pool.config, prompt), prompt.answer, prompt.row)
            except GoldProblem as problem:
                broken[prompt.gc_id] = str(problem)
        for gc_id, verdict in zip(jobs, pool.judge_all(jobs.values()), strict=True):
            if verdict.reward is None:
                broken[gc_id] = verdict.reason or ""
            elif verdict.reward < 1:
                broken[gc_id] = f"the verifier gives the gold answer itself {verdict.reward:g}, not 1"
        progress.advance(len(prompts))
    return broken
