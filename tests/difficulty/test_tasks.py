from __future__ import annotations

import asyncio
import signal

import pytest

from gaincurate.core.process import Pressed, ctrl_c_noted
from gaincurate.difficulty.server_engine import cancel, first_done


def test_the_first_that_is_done_and_after_ctrl_c_none() -> None:
    async def work() -> None:
        pressed, never = Pressed(), asyncio.Event()
        fast, slow = asyncio.ensure_future(asyncio.sleep(0)), asyncio.ensure_future(never.wait())
        assert await first_done({fast, slow}, pressed) == {fast}
        assert await first_done(set[asyncio.Task[None]](), pressed) == set()
        pressed.times = 1
        assert await first_done({slow}, pressed) == set()
        assert not slow.done()
        await cancel({fast, slow})
        assert slow.cancelled()

    asyncio.run(work())


def test_a_task_that_fails_while_it_is_cancelled_is_no_error() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("on the way out")

    async def work() -> None:
        task = asyncio.ensure_future(stubborn())
        await asyncio.sleep(0)
        await cancel({task})
        assert isinstance(task.exception(), RuntimeError)

    asyncio.run(work())


def test_a_loop_stays_whole_whenever_it_is_pressed() -> None:
    """A KeyboardInterrupt inside the loop's own code would leave it stopped, and the next run would fail."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        def wait() -> None:
            with ctrl_c_noted() as pressed:
                waiting = loop.create_task(asyncio.Event().wait())
                loop.call_soon(signal.raise_signal, signal.SIGINT)
                assert runner.run(first_done({waiting}, pressed)) == set()
                runner.run(cancel({waiting}))

        for _ in range(20):
            with pytest.raises(KeyboardInterrupt):
                wait()
            assert runner.run(asyncio.sleep(0, "whole")) == "whole"
