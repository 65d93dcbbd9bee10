from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gaincurate.scoring.worker import AsyncWriter, prefetch


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


def test_a_writer_works_beside_the_caller_and_is_waited_for() -> None:
    may, done = threading.Event(), []

    def slow() -> None:
        assert may.wait(30)
        done.append(1)

    with AsyncWriter() as writer:
        writer.run(slow)
        assert not done
        may.set()
        writer.run(lambda: done.append(2))
    assert done == [1, 2]


def failing() -> None:
    raise OSError("full")


@pytest.mark.parametrize(
    "then", [lambda writer: writer.run(lambda: None), lambda writer: None], ids=["run", "end"]
)
def test_a_writers_error_comes_out_at_the_next_work_or_at_the_end(
    then: Callable[[AsyncWriter], None],
) -> None:
    def begin_and_go_on() -> None:
        with AsyncWriter() as writer:
            writer.run(failing)
            then(writer)

    with pytest.raises(OSError, match="full"):
        begin_and_go_on()


def test_the_callers_own_error_is_not_covered_up_and_the_work_is_finished() -> None:
    done: list[int] = []

    def begin_and_fail() -> None:
        with AsyncWriter() as writer:
            writer.run(lambda: done.append(1))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        begin_and_fail()
    assert done == [1]
