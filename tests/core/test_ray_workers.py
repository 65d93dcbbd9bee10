"""Parts that are given out to workers that die: the board alone, and with tasks of a real Ray that load no model."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core.progress import Listener, Progress, Sent
from gaincurate.core.ray_cluster import Needs
from gaincurate.core.ray_workers import Board, RayWorkers, Worker, need_shared, ray_workers, refuse_other
from gaincurate.errors import GaincurateError, InputError
from gaincurate.scoring.config import ScoreConfig
from ray_nodes import STORE

ALIVE = "a node that lives"


def board(parts: int) -> Board:
    return Board(range(parts), lambda part: None, lambda part: f"rows of {part}", lambda: {ALIVE})


def finish(made: Board, worker: int, attempt: int, part: int) -> None:
    made.report(worker, attempt, "part", ("", {"shard": part}))


def taken(made: Board, worker: int, attempt: int) -> int | None:
    part = made.take(worker, attempt)
    return None if part is None else part[0]


def events(made: Board, kind: str) -> list[Any]:
    return [value for name, value, _ in made.poll()[0] if name == kind]


def started(made: Board, worker: int = 0, node: str = ALIVE) -> int:
    attempt = made.start(worker, "here", node)
    assert attempt is not None
    return attempt


def lives(made: Board, worker: int, poison: int, node: str = ALIVE) -> None:
    """A worker that reads one part ahead, and dies while it computes one with the part before it unfinished."""
    attempt, unfinished = made.start(worker, "here", node), None
    if attempt is None:
        return
    while (part := taken(made, worker, attempt)) is not None:
        if part == poison:
            made.report(worker, attempt, "dies", part)
            return
        if unfinished is not None:
            finish(made, worker, attempt, unfinished)
        unfinished = part
    if unfinished is not None:
        finish(made, worker, attempt, unfinished)


def test_the_part_that_kills_is_named_and_the_one_before_it_is_done() -> None:
    made, errors, done, deaths = board(9), list[Any](), list[Any](), 0
    for life in range(20):
        lives(made, life % 2, poison=5)
        happened, *_ = made.poll()
        deaths += sum(kind == "dies" for kind, *_ in happened)
        errors += [value for kind, value, _ in happened if kind == "error"]
        done += [value[1]["shard"] for kind, value, _ in happened if kind == "part"]
        if errors:
            break
    assert str(errors[0]) == (
        "3 workers died at shard 6, rows of 5 (the last one on here). Finished shards are kept. The usual cause is "
        "too little memory: give workers more, and see whether a row is very long. Then run the same command again."
    )
    assert 4 in done
    assert deaths == 3 + 1  # once with the part before it unfinished, which takes the blame


def test_a_suspect_is_for_a_worker_that_has_no_other_part() -> None:
    made = board(4)
    first, second = started(made, 0), started(made, 1)
    assert [taken(made, 0, first), taken(made, 1, second)] == [0, 1]
    first = started(made, 0)  # after a death at part 0
    assert taken(made, 1, second) == 2
    assert [taken(made, 0, first), taken(made, 0, first)] == [0, None]


def test_a_lost_node_is_no_parts_fault_and_another_worker_does_its_parts() -> None:
    made = board(3)
    for _ in range(9):
        lives(made, 0, poison=1, node="a lost one")
    assert not events(made, "error")
    started(made)
    lives(made, 1, poison=-1)
    assert made.poll()[1] == 0


def test_workers_that_cannot_begin_end_the_run() -> None:
    made = board(3)
    for _ in range(5):
        started(made)
    assert not events(made, "error")
    started(made)
    [error] = events(made, "error")
    assert str(error).startswith("5 workers in a row died before they could begin (the last one on here). ")


def test_a_worker_that_takes_a_part_ends_the_row_of_failed_starts() -> None:
    made = board(30)
    for _ in range(4):
        for _ in range(4):
            started(made, 0)
        assert taken(made, 1, started(made, 1, "a lost one")) is not None
    assert not events(made, "error")


def test_a_process_of_which_ray_lost_sight_gets_and_reports_nothing_more() -> None:
    made = board(2)
    old = started(made)
    assert taken(made, 0, old) == 0
    new = started(made)
    assert taken(made, 0, old) is None
    finish(made, 0, old, 0)
    assert not events(made, "part")
    assert taken(made, 0, new) == 0


def test_a_worker_that_comes_when_all_is_given_out_does_not_begin() -> None:
    made = board(1)
    attempt = started(made)
    assert taken(made, 0, attempt) == 0
    assert made.start(1, "here", ALIVE) is None
    assert made.poll()[1:] == (0, 2)
    finish(made, 0, attempt, 0)
    assert made.poll()[1:] == (0, 1)
    made.report(0, attempt, "done", "its result")
    assert made.poll()[1:] == (0, 0)


def test_a_worker_that_is_lost_after_its_last_part_is_not_waited_for() -> None:
    made = board(1)
    attempt = started(made)
    finish(made, 0, attempt, taken(made, 0, attempt) or 0)
    assert made.start(0, "here", ALIVE) is None
    assert made.poll()[1:] == (0, 0)
    assert started(board(0)) == 1  # some work without parts


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 40), st.sampled_from([0.0, 0.02, 0.2, 0.6]))
def test_every_part_is_reported_once_or_the_run_says_why_it_ends(
    seed: int, workers: int, parts: int, rate: float
) -> None:
    chance, made, done = random.Random(seed), board(parts), list[int]()
    attempts: dict[int, int] = {}
    hands: dict[int, list[int]] = {}
    while True:
        happened, waiting, _ = made.poll()
        done += [value[1]["shard"] for kind, value, _ in happened if kind == "part"]
        if failed := [value for kind, value, _ in happened if kind == "error"]:
            assert rate > 0
            assert isinstance(failed[0], GaincurateError)
            assert len(done) == len(set(done))
            return
        if not attempts and not waiting:
            assert sorted(done) == list(range(parts))
            return
        worker = chance.choice([*attempts, *([len(hands)] if waiting and len(attempts) < workers else [])])
        if worker not in attempts or chance.random() < rate:
            attempt = made.start(worker, "here", chance.choice([ALIVE, "a lost one"]))
            attempts[worker], hands[worker] = attempt or 0, []
        elif len(hands[worker]) < 3 and (part := taken(made, worker, attempts[worker])) is not None:
            hands[worker].append(part)
        elif hands[worker]:
            finish(made, worker, attempts[worker], hands[worker].pop(0))
        else:
            del attempts[worker]


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked", "room"),
    [(1, 0, None, 16), (4, 0, None, 4), (1, 0.3, None, 13), (99, 1, None, 1), (1, 0, 3, 3)],
)
def test_room_is_what_the_cluster_has(cpus: float, gpus: float, asked: int | None, room: int) -> None:
    workers = RayWorkers.__new__(RayWorkers)
    workers._needs, workers._most = Needs(cpus, gpus, {}), asked
    workers._ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 16.0, "GPU": 4.0})
    assert workers._room() == room


def test_workers_whose_results_would_differ_are_refused_by_what_differs() -> None:
    with pytest.raises(InputError) as caught:
        refuse_other({"device": "H200", "dtype": "bfloat16"}, {"device": "A100", "dtype": "bfloat16"})
    assert str(caught.value) == (
        "two workers would not give the same results: device is 'H200' and 'A100'. Have all on machines of one "
        "kind with --worker-label KEY=VALUE (such as ray.io/accelerator-type=H200), the same packages and files."
    )
    assert caught.value.data == {"keys": ["device"]}


def test_a_folder_that_is_not_shared(tmp_path: Path) -> None:
    need_shared(tmp_path)
    with pytest.raises(
        InputError, match=f"^{tmp_path / 'set'} is not on {socket.gethostname()}, where a worker runs"
    ):
        need_shared(tmp_path / "set")


def test_what_a_dead_process_counted_of_an_unfinished_part_is_counted_once() -> None:
    class Seen(Progress):
        units = 0

        def advance(self, n: float, **also: int) -> None:
            self.units += int(n)

    seen, tokens = Seen(), list[int]()
    listener = Listener(seen, lambda counts: tokens.append(counts["tokens"]), again=("units", "tokens"))
    first = Sent(lambda kind, value: listener(kind, value, 0))
    second = Sent(lambda kind, value: listener(kind, value, 1))
    first.advance(6, tokens=60)
    second.advance(6, tokens=60)
    first.part("shard 1", shard=0, units=4, tokens=40)
    listener("died", None, 0)
    assert (seen.units, sum(tokens)) == (10, 100)
    listener("died", None, 1)
    assert (seen.units, sum(tokens)) == (4, 40)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray of this program, which the workers share; functions of this module are sent as they are."""
    ray = pytest.importorskip("ray", reason="needs ray: pip install 'gaincurate[ray]'")
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    os.environ.setdefault("RAY_AUTH_TOKEN", "0" * 64)  # as `joined` does; Ray remembers it for the process
    options = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": STORE}
    ray.init(address="local", num_cpus=2, **options)
    yield ray
    ray.shutdown()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def dying(folder: Path, deaths: int, config: Any, worker: Worker) -> int:
    """Do parts; so many workers die at part 3."""
    for part, payload in worker.parts():
        assert payload == f"<{part}>"
        if part == 3 and len(list(folder.iterdir())) < deaths:
            (folder / str(os.getpid())).touch()
            os._exit(9)
        worker.report("advance", (1, {}))
        worker.report("part", (str(part), {"shard": part}))
    return os.getpid()


def payload(part: int) -> str:
    return f"<{part}>"


pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]


def run(folder: Path, deaths: int, **options: Any) -> tuple[list[Any], list[int]]:
    """The events and results of six parts on two workers."""
    heard: list[Any] = []
    config = ScoreConfig(data="d", model="m", out=folder, engine="ray", **{"workers": 2, **options})
    with ray_workers(config, Progress()) as workers:
        results = workers.run(
            partial(dying, folder, deaths), range(6), hear=lambda *event: heard.append(event), payload=payload
        )
    return heard, results


@pytest.mark.slow
def test_a_task_that_dies_runs_again(ray: Any, tmp_path: Path) -> None:
    heard, _ = run(tmp_path, deaths=2)
    assert sorted(value[1]["shard"] for kind, value, _ in heard if kind == "part") == list(range(6))
    assert sum(kind == "died" for kind, *_ in heard) == 2
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_a_task_that_dies_three_times_at_a_part_ends_the_run(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(
        GaincurateError, match=r"^3 workers died at shard 4, 3 \(the last one on .* \(process \d+\)\)"
    ):
        run(tmp_path, deaths=9)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
def test_no_worker_finds_room(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(GaincurateError) as caught:
        run(tmp_path, deaths=0, worker_cpus=3, wait=1)
    assert str(caught.value) == (
        "no worker has a place: each needs 3 CPU, and the cluster has 2 CPU. None came in 1 s (--wait). Finished "
        "shards are kept. Run the same command again to go on when there is room."
    )
