from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gaincurate.scoring.worker import one_ahead


def prefetch(work: Callable[[int], int], items: Iterable[int]) -> Iterator[int]:
    with ThreadPoolExecutor(1) as pool:
        yield from one_ahead(pool, work, items)


def test_results_come_in_order_and_at_most_one_is_computed_ahead() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item * item

    for index, found in enumerate(prefetch(work, range(6))):
        assert found == index * index
        assert len(begun) <= index + 2
    assert begun == list(range(6))
    assert list(prefetch(work, [])) == []


def test_an_error_comes_where_its_result_would_have() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise OSError("two")
        return item

    results = prefetch(work, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="two"):
        next(results)


def test_the_next_is_computed_while_the_caller_is_busy() -> None:
    second = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            second.set()
        return item

    for item in prefetch(work, range(2)):
        if item == 0:
            assert second.wait(30)
