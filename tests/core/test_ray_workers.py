"""Workers on Ray that die, the options of Ray, and the sentences for a Ray that cannot be joined."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gaincurate.core import ray_workers as module
from gaincurate.core.options import checked
from gaincurate.core.progress import Progress
from gaincurate.core.ray_workers import ClusterConfig, RayWorkers, Worker, ray_workers
from gaincurate.errors import GaincurateError, InputError
from gaincurate.scoring.config import ScoreConfig
from ray_nodes import STORE

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]


def score(**options: Any) -> ScoreConfig:
    return checked(ScoreConfig, {"data": "d", "model": "m", "out": Path("o"), **options})


def test_a_config_that_was_written_out_with_all_options_asks_for_no_ray() -> None:
    written = ScoreConfig(data="rows.jsonl", model="demo", out=Path("out")).model_dump()
    ScoreConfig(**written).check_engine()


@pytest.mark.parametrize(
    "options", [{"address": "auto"}, {"worker_label": ["a=b"]}, {"workers": "all"}], ids=str
)
def test_options_of_ray_go_with_ray(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=" goes with --engine ray"):
        score(**options).check_engine()


@pytest.mark.parametrize("label", ["a", "=b", "a="])
def test_a_label_is_a_key_and_a_value(label: str) -> None:
    with pytest.raises(InputError, match=f"--worker-label {label}: expected KEY=VALUE"):
        score(engine="ray", worker_label=[label])


def test_no_cluster_is_joined_that_nobody_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for given, address in ((None, "local"), ("auto", "auto"), ("head:6379", "head:6379")):
        assert module._address(ClusterConfig(engine="ray", address=given)) == address
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(InputError, match="^--address ray://head:10001: expected auto or HOST:PORT"):
        module._address(ClusterConfig(engine="ray"))


@pytest.mark.parametrize(
    ("at", "error", "sentence", "code"),
    [
        ("h:1", RuntimeError("Version mismatch"), "cannot join a Ray there (Version mismatch)", 2),
        ("local", Exception("timed out."), "Ray did not start on this machine (timed out)", 1),
        ("local", SystemExit(1), "Ray did not start on this machine (1)", 1),
    ],
)
def test_why_there_is_no_ray(at: str, error: BaseException, sentence: str, code: int) -> None:
    def init(**options: Any) -> None:
        raise error

    with pytest.raises(GaincurateError) as caught:
        module._init(SimpleNamespace(init=init), at)
    assert sentence in str(caught.value)
    assert caught.value.exit_code == code
    assert ("Run the same command again" in str(caught.value)) == (code == 1)


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked", "room"),
    [(1, 0, None, 16), (4, 0, None, 4), (1, 0.3, None, 13), (99, 1, None, 1), (1, 0, 3, 3)],
)
def test_room_is_what_the_cluster_has(cpus: float, gpus: float, asked: int | None, room: int) -> None:
    workers = RayWorkers.__new__(RayWorkers)
    workers._cpus, workers._gpus, workers._most = cpus, gpus, asked
    workers._ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 16.0, "GPU": 4.0})
    assert workers._room() == room


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray of this program, which the workers share; functions of this module are sent as they are."""
    ray = pytest.importorskip("ray", reason="needs ray: pip install 'gaincurate[ray]'")
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    os.environ.setdefault("RAY_AUTH_TOKEN", "0" * 64)  # as `ray_workers` does; Ray remembers it
    options = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": STORE}
    ray.init(address="local", num_cpus=2, **options)
    yield ray
    ray.shutdown()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def dying(folder: Path, deaths: int, config: Any, worker: Worker) -> int:
    """Do parts, with the next one read ahead; so many workers die at part 3."""
    for item, _ in pairwise(chain(worker.parts(), [(-1, "")])):
        do(folder, deaths, worker, *item)
    return os.getpid()


def do(folder: Path, deaths: int, worker: Worker, part: int, payload: str) -> None:
    assert payload == f"<{part}>"
    if part == 3 and len(list(folder.iterdir())) < deaths:
        (folder / str(os.getpid())).touch()
        os._exit(9)
    worker.report("advance", (1, {}))
    worker.report("part", (str(part), {"shard": part}))


def run(folder: Path, deaths: int, **options: Any) -> tuple[list[Any], list[int]]:
    """The events and results of six parts on two workers."""
    heard: list[Any] = []
    config = ScoreConfig(data="d", model="m", out=folder, engine="ray", **{"workers": 2, **options})
    with ray_workers(config, Progress()) as workers:
        results = workers.run(
            partial(dying, folder, deaths),
            range(6),
            hear=lambda *event: heard.append(event),
            describe=lambda part: f"rows of {part}",
            payload=lambda part: f"<{part}>",
        )
    return heard, results


@pytest.mark.slow
def test_parts_of_a_worker_that_dies_are_done_once_by_another(ray: Any, tmp_path: Path) -> None:
    heard, results = run(tmp_path, deaths=2)
    assert sorted(value[1]["shard"] for kind, value in heard if kind == "part") == list(range(6))
    assert sum(value[0] for kind, value in heard if kind == "advance") == 6
    assert sum("was lost" in value for kind, value in heard if kind == "note") == 2
    assert 1 <= len(results) <= 4
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_a_part_that_kills_three_workers_ends_the_run(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(GaincurateError, match=r"^3 workers died at shard .*4, rows of 3"):
        run(tmp_path, deaths=9)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
def test_workers_that_cannot_begin_end_the_run(ray: Any, tmp_path: Path) -> None:
    with ray_workers(score(engine="ray"), Progress()) as workers:
        with pytest.raises(GaincurateError, match="^3 workers died before they could begin"):
            workers.run(lambda config, worker: os._exit(9), hear=lambda *event: None)
        with pytest.raises(InputError, match="^a sentence$"):
            workers.run(refusing, hear=lambda *event: None)


def refusing(config: Any, worker: Worker) -> None:
    raise InputError("a sentence")


@pytest.mark.slow
def test_no_worker_has_a_place(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST", 1.0)
    with pytest.raises(GaincurateError) as caught:
        run(tmp_path, deaths=0, threads=3)
    assert str(caught.value) == (
        "no worker has a place: each needs 3 CPU, 0 GPU, and the cluster has 2 CPU. None came in 1 s. "
        "Finished shards are kept. Run the same command again to go on when there is room."
    )
