"""Scoring on Ray: the same bytes as on one machine, whatever is lost on the way, and nothing left running."""

from __future__ import annotations

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
from gaincurate.errors import InputError
from gaincurate.scoring import pipeline
from gaincurate.scoring.config import ScoreConfig
from ray_nodes import Nodes, cluster, gone, kill

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
    """Counts what it hears, and lets a test do something when a part is done."""

    def __init__(self, at_part: Callable[[int], None] = lambda number: None) -> None:
        self.parts: list[str] = []
        self.notes: list[str] = []
        self.rows = 0
        self._at_part = at_part

    def advance(self, n: float, **also: int) -> None:
        self.rows += int(n)

    def part(self, text: str, **also: int) -> None:
        self.parts.append(text)
        self._at_part(len(self.parts))

    def note(self, text: str) -> None:
        self.notes.append(text)


def check(out: Path, whole: dict[str, bytes], watch: Watch, summary: Any, raylets: set[int]) -> None:
    """The same bytes, everything counted once, and no worker left."""
    assert tree(out) == whole
    assert len(watch.parts) == len(set(watch.parts)) == 60 / SHARD_ROWS
    assert watch.rows == summary.scored == 60
    assert gone(raylets)


@pytest.mark.slow
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
    started = next(line for line in lines if line.startswith("started a Ray on this machine alone ("))
    shards = [line.partition(":")[0] for line in lines[lines.index(started) :] if line.startswith("shard ")]
    assert shards == [f"shard {i} of 3" for i in (1, 2, 3)]
    assert "scored 60 rows" in result.stdout
    assert "raylet" not in result.stdout
    import ray

    assert not ray.is_initialized()


def watched(nodes: Nodes, at_part: Callable[[int], None], *arguments: Any) -> tuple[Watch, Any]:
    """Score on all nodes, with something done at each part."""
    watch = Watch(at_part)
    given = config(*arguments, engine="ray", address=nodes.address)
    return watch, pipeline.score_dataset(given, watch)


def held(gate: Path, *arguments: Any) -> Any:
    """A worker that does no shard after the fifth until a file is there."""
    from gaincurate.scoring import worker
    from gaincurate.scoring.pipeline import _score_on_ray

    class Scorer(worker.Scorer):
        def score(self, shard: worker.Shard) -> Any:
            while shard.start >= 5 * SHARD_ROWS and not gate.exists():
                time.sleep(0.05)
            return super().score(shard)

    worker.Scorer = Scorer  # type: ignore[misc]
    _score_on_ray(*arguments)


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Until this file is made, no run gets done, however late a loss is."""
    from ray import cloudpickle

    monkeypatch.setattr(pipeline, "_score_on_ray", partial(held, tmp_path / "gate"))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this module
    yield tmp_path / "gate"
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["node", "worker"])
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

    def lose(number: int) -> None:
        if number == 2:
            two.remove(two.nodes[0]) if lost == "node" else kill(two.workers()[0])
            gate.touch()

    watch, summary = watched(two, lose, data, tiny_model, tmp_path / "set")
    check(tmp_path / "set", whole, watch, summary, raylets)
    assert any(note.startswith(f"joined the Ray at {two.address} (") for note in watch.notes)
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_a_worker_says_what_one_process_says(tmp_path: Path, tiny_model: Path, two: Nodes) -> None:
    rows = tiny.questions(60)
    rows[50]["question"] = " "
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    sentences = []
    for name, options in (("one", {}), ("two", {"engine": "ray", "address": two.address})):
        with pytest.raises(InputError) as caught:
            pipeline.score_dataset(config(data, tiny_model, tmp_path / name, **options))
        sentences.append((type(caught.value), str(caught.value), caught.value.data))
    assert sentences[0] == sentences[1]
    assert sentences[0][1].startswith("row 50 (from 0, id ")
    assert gone(two.raylets())


@pytest.mark.slow
def test_all_nodes_are_lost_and_the_local_engine_goes_on(
    tmp_path: Path, tiny_model: Path, data: Path, whole: dict[str, bytes], two: Nodes, gate: Path
) -> None:
    def lose(number: int) -> None:
        for node in list(two.nodes) if number == 2 else []:
            two.remove(node)

    class Waiting(Watch):
        def note(self, text: str) -> None:
            if "no worker has a place" in text and not two.nodes:
                raise KeyboardInterrupt(text)

    out, options = tmp_path / "set", {"engine": "ray", "address": two.address}
    with pytest.raises(KeyboardInterrupt, match="the cluster has no CPU. Waiting up to 600 s for one"):
        pipeline.score_dataset(config(data, tiny_model, out, **options), Waiting(lose))
    watch = Watch()
    pipeline.score_dataset(config(data, tiny_model, out), watch)
    assert tree(out) == whole
    assert 20 - 5 <= len(watch.parts) <= 20 - 2


@pytest.mark.slow
def test_ctrl_c_leaves_no_worker(tmp_path: Path, tiny_model: Path, data: Path, two: Nodes) -> None:
    def press(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watched(two, press, data, tiny_model, tmp_path / "set")
    assert gone(two.raylets())
    assert not (tmp_path / "set/manifest.json").exists()
