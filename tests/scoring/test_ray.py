"""Scoring on Ray: the same bytes as on one machine, whatever is lost on the way, and nothing left running."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tiny
from command import run, tree
from gaincurate.core.progress import Progress
from gaincurate.errors import GaincurateError, InputError
from gaincurate.scoring import pipeline
from gaincurate.scoring.config import ScoreConfig
from ray_nodes import Nodes, cluster, gone, kill, workers_of

pytest.importorskip("ray", reason="needs ray: pip install 'gaincurate[ray]'")
# Ray's own: sockets and files that it leaves to the garbage collector, and a word about what it will do one day.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]

SHARD_ROWS = 3


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster() as made:
        yield made


@pytest.fixture
def two(nodes: Nodes) -> Iterator[Nodes]:
    """With two nodes; those that are left are taken away."""
    nodes.add()
    nodes.add()
    yield nodes
    for node in list(nodes.nodes):
        nodes.remove(node)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_jsonl(tmp_path_factory.mktemp("data") / "rows.jsonl", tiny.questions(60))


def config(data: Path, model: Path, out: Path, **options: Any) -> ScoreConfig:
    sizes = {"shard_rows": SHARD_ROWS, "threads": 1, "device": "cpu"}
    return ScoreConfig(data=str(data), model=str(model), out=out, **{**sizes, **options})


@pytest.fixture(scope="module")
def whole(data: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The set as one process of this machine writes it."""
    out = tmp_path_factory.mktemp("whole") / "set"
    pipeline.score_dataset(config(data, tiny_model, out))
    return tree(out)


class Watch(Progress):
    """Counts what it hears, and lets a test do something when a part is done or a note comes."""

    def __init__(
        self,
        at_part: Callable[[int], None] = lambda number: None,
        at_note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.parts: list[str] = []
        self.notes: list[str] = []
        self.rows = 0
        self._at_part, self._at_note = at_part, at_note

    def advance(self, n: float, **also: int) -> None:
        self.rows += int(n)

    def part(self, text: str, **also: int) -> None:
        self.parts.append(text)
        self._at_part(len(self.parts))

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._at_note(text)


def check(out: Path, whole: dict[str, bytes], watch: Watch, summary: Any, raylets: set[int]) -> None:
    """The same bytes, everything counted once, and no worker left."""
    assert tree(out) == whole
    assert len(watch.parts) == len(set(watch.parts)) == 60 / SHARD_ROWS
    assert watch.rows == summary.scored == 60
    assert gone(raylets)


def test_a_worker_of_a_ray_of_our_own_writes_the_same_bytes(
    tmp_path: Path, tiny_model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    options = ["--shard-rows", 20, "--threads", 1, "--device", "cpu"]
    assert run("score", data, "-m", tiny_model, "-o", tmp_path / "one", *options).exit_code == 0
    ray_options = ["--engine", "ray", "--workers", 1]
    result = run("score", data, "-m", tiny_model, "-o", tmp_path / "two", *options, *ray_options)
    assert result.exit_code == 0, result.stderr
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    lines = result.stderr.splitlines()
    assert lines[1].startswith("started a Ray on this machine alone (")
    shards = [
        line.partition(":")[0] for line in lines[2:] if "no worker has a place yet" not in line
    ]  # a busy machine
    assert shards == [f"shard {i} of 3" for i in (1, 2, 3)]
    assert "scored 60 rows" in result.stdout
    assert "raylet" not in result.stdout
    import ray

    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_writes_the_same_bytes(
    workers: int, tmp_path: Path, tiny_model: Path, data: Path, whole: dict[str, bytes], two: Nodes
) -> None:
    out, watch = tmp_path / "set", Watch()
    two.settle()
    options = {"engine": "ray", "address": two.address, "workers": workers}
    summary = pipeline.score_dataset(config(data, tiny_model, out, **options), watch)
    check(out, whole, watch, summary, two.raylets())
    assert watch.notes[1].startswith(f"joined the Ray at {two.address}: 3 nodes, 2 CPU, of the user ")


def killed_at(
    part: int,
    do: Callable[[], None],
    nodes: Nodes,
    model: Path,
    data: Path,
    out: Path,
    at_note: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> tuple[Watch, Any]:
    """Score on all nodes, and do something when so many parts are done."""
    watch = Watch(lambda number: do() if number == part else None, at_note)
    settings = {"engine": "ray", "address": nodes.address, **options}
    return watch, pipeline.score_dataset(config(data, model, out, **settings), watch)


def held(gate: Path, config: Any, hashed: Any, inbox: Any, report: Any) -> None:
    """A worker that does no shard after the fifth until a file is there."""
    from gaincurate.scoring import worker
    from gaincurate.scoring.pipeline import _serve

    class Shard(worker.Shard):
        def score(self, *arguments: Any) -> Any:
            while self._start >= 5 * SHARD_ROWS and not gate.exists():
                time.sleep(0.05)
            return super().score(*arguments)

    worker.Shard = Shard  # type: ignore[misc]
    _serve(config, hashed, inbox, report)


@pytest.fixture
def by_value() -> Iterator[None]:
    """Workers get functions of this module as they are: they cannot import it."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def gate(tmp_path: Path, by_value: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Until this file is made, no run gets done, however late a loss is."""
    monkeypatch.setattr(pipeline, "_serve", partial(held, tmp_path / "gate"))
    return tmp_path / "gate"


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["node", "raylet", "worker"])
def test_what_is_lost_is_done_again_by_others(
    lost: str,
    tmp_path: Path,
    tiny_model: Path,
    data: Path,
    whole: dict[str, bytes],
    two: Nodes,
    gate: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    raylets = two.raylets()

    def lose() -> None:
        if lost == "node":
            two.remove(two.nodes[0])
        elif lost == "raylet":
            two.nodes[0].kill_raylet()
        else:
            kill(two.workers()[0])
        gate.touch()

    watch, summary = killed_at(2, lose, two, tiny_model, data, tmp_path / "set")
    check(tmp_path / "set", whole, watch, summary, raylets)
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_all_are_lost_and_one_comes_later(
    tmp_path: Path, tiny_model: Path, data: Path, whole: dict[str, bytes], two: Nodes, gate: Path
) -> None:
    raylets = two.raylets()

    def lose() -> None:
        for node in list(two.nodes):
            two.remove(node)

    def at_note(text: str) -> None:
        if "no worker is left" in text:
            raylets.add(two.add().all_processes["raylet"][0].process.pid)
            gate.touch()

    watch, summary = killed_at(2, lose, two, tiny_model, data, tmp_path / "set", at_note)
    check(tmp_path / "set", whole, watch, summary, raylets)
    assert any(note.endswith("Waiting up to 600 s for one (--wait)") for note in watch.notes)


@pytest.mark.slow
def test_all_are_lost_and_none_comes_and_the_same_command_goes_on(
    tmp_path: Path, tiny_model: Path, data: Path, whole: dict[str, bytes], two: Nodes, gate: Path
) -> None:
    def lose() -> None:
        for node in list(two.nodes):
            two.remove(node)

    out = tmp_path / "set"
    with pytest.raises(GaincurateError) as caught:
        killed_at(2, lose, two, tiny_model, data, out, wait=30)
    assert str(caught.value) == (
        "no worker is left and none came in 30 s (--wait): a worker needs 1 CPU, and the cluster has no CPU. "
        "Finished shards are kept. Run the same command again to go on when there is room."
    )
    two.add()
    gate.touch()
    watch, _ = killed_at(0, lose, two, tiny_model, data, out)
    assert tree(out) == whole
    assert 20 - 5 <= len(watch.parts) <= 20 - 2


@pytest.mark.slow
def test_twenty_workers_are_killed_in_one_run(
    tmp_path: Path, tiny_model: Path, data: Path, two: Nodes
) -> None:
    out, chance, killed = tmp_path / "set", random.Random(0), list[int]()
    pipeline.score_dataset(config(data, tiny_model, tmp_path / "one", shard_rows=1))

    def at_part(number: int) -> None:
        if number % 2 and len(killed) < 20 and (workers := two.workers()):
            killed.append(chance.choice(workers))
            kill(killed[-1])

    watch = Watch(at_part)
    options = {"engine": "ray", "address": two.address, "shard_rows": 1}
    summary = pipeline.score_dataset(config(data, tiny_model, out, **options), watch)
    assert len(set(killed)) == 20
    assert tree(out) == tree(tmp_path / "one")
    assert len(set(watch.parts)) == len(watch.parts) == 60
    assert watch.rows == summary.scored == 60
    assert gone(two.raylets())


def poisoned(config: Any, hashed: Any, inbox: Any, report: Any) -> None:
    """A worker that dies at the sixth shard."""
    from gaincurate.scoring import worker
    from gaincurate.scoring.pipeline import _serve

    class Shard(worker.Shard):
        def score(self, *arguments: Any) -> Any:
            if self._start == 5 * 3:
                os._exit(9)
            return super().score(*arguments)

    worker.Shard = Shard  # type: ignore[misc]
    _serve(config, hashed, inbox, report)


@pytest.mark.slow
def test_the_shard_that_kills_its_workers_is_named(
    tmp_path: Path, tiny_model: Path, data: Path, two: Nodes, by_value: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_serve", poisoned)
    with pytest.raises(GaincurateError) as caught:
        killed_at(0, lambda: None, two, tiny_model, data, tmp_path / "set")
    assert str(caught.value) == (
        "3 workers died at shard 6, rows 15 to 17 (from 0) (the last one: its process was killed or crashed, for "
        "too little memory perhaps). Finished shards are kept. See whether one of these rows is very long, or "
        "give workers more memory; then run the same command again."
    )
    assert gone(two.raylets())


@pytest.mark.slow
def test_a_worker_says_what_one_process_says(tmp_path: Path, tiny_model: Path, two: Nodes) -> None:
    rows = tiny.questions(60)
    rows[50]["question"] = " "
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    sentences = []
    for name, options in (("one", {}), ("two", {"engine": "ray", "address": two.address})):
        with pytest.raises(InputError) as caught:
            pipeline.score_dataset(config(data, tiny_model, tmp_path / name, **options))
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]
    assert sentences[0].startswith("row 50 (from 0, id ")
    assert gone(two.raylets())


@pytest.mark.slow
def test_ctrl_c_leaves_no_worker(tmp_path: Path, tiny_model: Path, data: Path, two: Nodes) -> None:
    def press() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed_at(2, press, two, tiny_model, data, tmp_path / "set")
    assert workers_of(two.raylets()) == [] or gone(two.raylets())
    assert not (tmp_path / "set/manifest.json").exists()
