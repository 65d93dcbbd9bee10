"""Work beside the model: takes functions, yields their results in order, one computed ahead by a thread.

Nothing is reordered: an error comes out where its result would have. Knows nothing of what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def ahead(work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`work` on each item in a thread; the next is begun when the one before is handed out.

    At most one result waits, so memory does not grow with the number of items.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        waiting: Future[U] | None = None
        try:
            for item in items:
                following = pool.submit(work, item)
                if waiting is not None:
                    yield waiting.result()
                waiting = following
            if waiting is not None:
                yield waiting.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Behind:
    """Runs one function at a time in a thread, while the caller goes on with something else.

    Leaving the block waits for the last one; an error comes out of the next `run` or there.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._last: Future[None] | None = None

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown(wait=True)

    def run(self, work: Callable[[], None]) -> None:
        """Begin `work` once what was begun before is done."""
        self._wait()
        self._last = self._pool.submit(work)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()
