"""Waiting for asyncio's tasks beside Ctrl-C: takes tasks, yields those that are done. Knows no server."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from gaincurate.core.process import Pressed

_LOOK = 0.2  # seconds until Ctrl-C is seen, at most: it does not wake a loop
_T = TypeVar("_T")


async def first_done(tasks: set[asyncio.Task[_T]], pressed: Pressed) -> set[asyncio.Task[_T]]:
    """Those that are done, at least one; none where there is no task or Ctrl-C was pressed."""
    done: set[asyncio.Task[_T]] = set()
    while tasks and not done and not pressed:
        done, _ = await asyncio.wait(tasks, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
    return done


async def cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel and wait until they have ended, however they do."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
