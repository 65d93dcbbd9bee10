"""The loop that hands shards out, with workers of a clock of its own: no Ray, no model, no waiting."""

from __future__ import annotations

import queue
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_crew import FakeCrew, Run, hand_out
from gaincurate.core.leases import Death, shards_of
from gaincurate.core.progress import Listener, Progress, Sent
from gaincurate.errors import GaincurateError, InputError

CRASHED = Death("its process crashed")
TAKEN = Death("its machine was taken away", preempted=True)


def run(crew: FakeCrew, shards: int, **options: Any) -> Run:
    result = Run([], crew)
    hand_out(crew, shards, result, **options)
    return result


def error_of(crew: FakeCrew, shards: int, **options: Any) -> tuple[str, Run]:
    result = Run([], crew)
    with pytest.raises(GaincurateError) as caught:
        hand_out(crew, shards, result, **options)
    return str(caught.value), result


@pytest.mark.parametrize("workers", [1, 2, 3, 50])
def test_every_shard_is_reported_once_and_each_worker_goes_up(workers: int) -> None:
    result = run(FakeCrew(capacity=lambda now: workers), 100)
    assert sorted(result.parts) == list(range(100))
    assert result.crew.done == result.parts
    for worker in range(workers):
        shards = [e.value[1]["shard"] for e in result.heard if e.kind == "part" and e.worker == worker]
        assert shards == sorted(shards)
    assert not result.crew.placed


def test_a_part_without_shards_of_its_own_asks_one_worker_for_the_plan_and_ends() -> None:
    result = run(FakeCrew(), 0)
    assert result.parts == []
    assert len({event.worker for event in result.heard}) == 1
    assert result.crew.clock() < 60


def test_no_more_workers_than_shards_and_no_more_than_wanted() -> None:
    crew = FakeCrew(capacity=lambda now: 50)
    assert {event.worker for event in run(crew, 3).heard} == {0, 1, 2}
    crew = FakeCrew(capacity=lambda now: 50)
    assert {event.worker for event in run(crew, 30, most=2).heard} == {0, 1}


def test_what_a_dead_worker_had_not_reported_is_done_by_others() -> None:
    died: list[int] = []

    def dies(worker: int, shard: int | None) -> Death | None:
        if worker == 0 and shard == 3:
            died.append(worker)
            return CRASHED
        return None

    result = run(FakeCrew(dies=dies), 40)
    assert died == [0]
    assert sorted(result.parts) == list(range(40))
    assert result.notes == ["worker 1 on node 0 (process 0) is lost (its process crashed); it is replaced"]
    assert {event.worker for event in result.heard} == {0, 1, 2}


@pytest.mark.parametrize("workers", [1, 2, 9])
@pytest.mark.parametrize("poison", [0, 7, 19])
def test_a_shard_that_kills_is_named_after_the_third_worker_and_no_other_is_blamed(
    poison: int, workers: int
) -> None:
    crew = FakeCrew(
        dies=lambda worker, shard: CRASHED if shard == poison else None, capacity=lambda now: workers
    )
    sentence, result = error_of(crew, 20)
    assert sentence == (
        f"3 workers died at shard {poison + 1}, rows {10 * poison} to {10 * poison + 9} (the last one: its "
        "process crashed). Finished shards are kept. See whether one of these rows is very long, or give workers "
        "more memory; then run the same command again."
    )
    assert len(result.parts) == len(set(result.parts))


def test_a_shard_that_kills_while_the_one_before_is_computed_is_the_one_that_is_named() -> None:
    """Reading goes ahead: a worker dies at row 70's shard with the shard before it unfinished."""

    class Ahead(FakeCrew):
        def go_on(self, worker: int) -> None:
            following = self._lists.get(worker, [])[1:2]
            if following == [7] and worker not in self._at_work:
                self._at_work[worker] = self.now
                self.later(0.1, worker, "died", CRASHED)
            else:
                super().go_on(worker)

    crew = Ahead(dies=lambda worker, shard: CRASHED if shard == 7 else None, capacity=lambda now: 1)
    sentence, result = error_of(crew, 20)
    assert "3 workers died at shard 8, rows 70 to 79" in sentence
    assert 6 in result.parts


def test_machines_that_are_taken_away_are_no_shards_fault() -> None:
    chance = random.Random(0)
    result = run(
        FakeCrew(dies=lambda worker, shard: TAKEN if shard == 5 and chance.random() < 0.9 else None), 20
    )
    assert sorted(result.parts) == list(range(20))


def test_workers_that_come_later_are_used() -> None:
    result = run(FakeCrew(capacity=lambda now: 1 if now < 20 else 4), 200)
    assert {event.worker for event in result.heard if event.kind == "part"} == {0, 1, 2, 3}
    assert result.crew.now < 100


def test_all_are_lost_and_one_comes_before_the_wait_is_over() -> None:
    crew = FakeCrew(capacity=lambda now: 2 if now < 10 or now > 40 else 0)
    crew.dies = lambda worker, shard: TAKEN if 10 < crew.now < 40 else None
    result = run(crew, 40, wait=60)
    assert sorted(result.parts) == list(range(40))
    assert sum("no worker is left" in note for note in result.notes) == 1
    assert (
        "no worker is left: a worker needs 1 CPU, and the cluster has none. Waiting up to 60 s for one (--wait)"
        in result.notes
    )


def test_none_comes() -> None:
    sentence, result = error_of(FakeCrew(capacity=lambda now: 0), 40, wait=30, most=2)
    assert sentence == (
        "no worker has a place yet and none came in 30 s (--wait): a worker needs 1 CPU, and the cluster has "
        "none. Finished shards are kept. Run the same command again to go on when there is room."
    )
    assert len(result.notes) == 1
    assert 30 <= result.crew.now < 41


def test_workers_that_cannot_begin_end_the_run() -> None:
    crew = FakeCrew(dies=lambda worker, shard: CRASHED if shard is None else None)
    sentence, result = error_of(crew, 40)
    assert sentence.startswith("3 workers in a row died before they could begin (the last one on node ")
    assert not result.parts


def test_one_machine_where_nothing_begins_does_not_stop_the_others() -> None:
    crew = FakeCrew(
        dies=lambda worker, shard: CRASHED if shard is None and worker != 1 else None,
        shard_seconds=lambda shard: 20.0,
    )
    assert sorted(run(crew, 5).parts) == list(range(5))


def test_what_a_worker_raises_is_raised() -> None:
    class Raising(FakeCrew):
        def send(self, worker: int, message: Any) -> None:
            self.later(0.0, worker, "error", InputError("row 3 cannot be scored."))

    with pytest.raises(InputError, match=re.escape("row 3 cannot be scored.")):
        run(Raising(), 3)


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 60), st.sampled_from([0.0, 0.02, 0.2, 0.6]))
def test_every_shard_is_reported_once_or_the_run_says_why_it_ends(
    seed: int, workers: int, shards: int, rate: float
) -> None:
    chance = random.Random(seed)

    def dies(worker: int, shard: int | None) -> Death | None:
        return chance.choice([CRASHED, TAKEN]) if chance.random() < rate else None

    crew = FakeCrew(
        shard_seconds=lambda shard: chance.uniform(0.1, 9.0),
        capacity=lambda now: workers if int(now / 50) % 3 < 2 else 1,
        dies=dies,
    )
    result = Run([], crew)
    sentence = ""
    try:
        hand_out(crew, shards, result)
    except GaincurateError as error:
        sentence = str(error)
    assert len(result.parts) == len(set(result.parts))
    if len(result.parts) < shards:
        assert rate > 0
        assert re.match(
            r"3 workers died at shard|\d+ workers in a row died before|no worker is left", sentence
        )
    else:
        assert not sentence
        assert not crew.placed


def test_a_worker_hands_on_what_it_has_before_it_waits_for_more() -> None:
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    reported = []
    for message in ([4, 5], [9], None):
        inbox.put(message)
    shards = shards_of(inbox, lambda kind, value: reported.append(kind))
    assert reported == []
    assert list(shards) == [4, 5, 9]
    assert reported == ["ready"]
    taken: list[Any] = []
    shards = shards_of(inbox, lambda kind, value: None, taken.append)
    assert next(shards) is None
    inbox.put({7: "what goes with it"})
    assert next(shards) == 7
    assert taken == [{7: "what goes with it"}]
    assert next(shards) is None


def test_what_a_dead_process_counted_of_an_unfinished_part_is_counted_once() -> None:
    class Seen(Progress):
        units = 0

        def advance(self, n: float, **also: int) -> None:
            self.units += int(n)

    seen, tokens = Seen(), []
    listener = Listener(seen, lambda counts: tokens.append(counts["tokens"]), again=("units", "tokens"))
    first = Sent(lambda kind, value: listener(kind, value, 0))
    second = Sent(lambda kind, value: listener(kind, value, 1))
    first.advance(6, tokens=60)
    second.advance(6, tokens=60)
    first.part("shard 1", shard=0, units=4, tokens=40)
    listener("died", CRASHED, 0)
    assert (seen.units, sum(tokens)) == (10, 100)
    listener("died", CRASHED, 1)
    assert (seen.units, sum(tokens)) == (4, 40)
