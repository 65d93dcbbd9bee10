from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import cast

import pytest

from gaincurate.core.process import end_workers, start_workers


def answer(pipe: Connection) -> None:
    pipe.send("begun")
    pipe.send(pipe.recv())


def test_a_worker_does_not_hear_ctrl_c_from_its_first_instruction_on() -> None:
    context = multiprocessing.get_context("spawn")
    for _ in range(2):  # the first one may begin multiprocessing's own helper
        ours, theirs = context.Pipe()
        process = context.Process(target=answer, args=(theirs,))
        start_workers([process])
        theirs.close()  # one that dies is seen at once
        try:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGINT)  # Python has hardly begun there
            assert ours.recv() == "begun"
            os.kill(process.pid, signal.SIGINT)
            ours.send("still here")
            assert ours.recv() == "still here"
            process.join()
            assert process.exitcode == 0
        finally:
            process.terminate()
            process.join()
            ours.close()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


class Beginner:
    """Ctrl-C comes while the first of them starts."""

    def __init__(self, first: bool) -> None:
        self.first = first
        self.pid: int | None = None

    def start(self) -> None:
        if self.first:
            signal.raise_signal(signal.SIGINT)  # to this thread, where it waits until it may come
        self.pid = 1


def test_ctrl_c_while_they_start_is_raised_when_all_have_begun() -> None:
    workers = [Beginner(True), Beginner(False)]
    with pytest.raises(KeyboardInterrupt):
        start_workers(cast("list[BaseProcess]", workers))
    assert [worker.pid for worker in workers] == [1, 1]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_the_end_of_those_that_have_begun() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    begun, never = (context.Process(target=answer, args=(theirs,)) for _ in range(2))
    start_workers([begun])
    assert ours.recv() == "begun"
    end_workers([begun, never])
    assert begun.exitcode == -signal.SIGTERM
    assert never.pid is None
    ours.close()
    theirs.close()
