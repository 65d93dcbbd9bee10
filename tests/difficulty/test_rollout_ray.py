"""Rollouts on Ray: the same bytes as on one machine, also where a worker is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny
from command import tree
from gaincurate.core.progress import Progress
from gaincurate.difficulty.config import make_config
from gaincurate.difficulty.rollout import roll_out
from gaincurate.scoring.pipeline import score
from ray_nodes import Nodes, cluster, gone, kill

pytest.importorskip("ray", reason="needs ray: pip install 'gaincurate[ray]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster() as made:
        made.add()
        made.add()
        yield made


@pytest.fixture(scope="module")
def scored(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    data = tiny.write_jsonl(folder / "rows.jsonl", tiny.questions(24))
    score(str(data), str(tiny_model), folder / "set", threads=1, device="cpu")
    return folder / "set"


class Killing(Progress):
    """Kills a worker when the second shard is done; counts what it hears."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes, self.parts, self.prompts = nodes, list[str](), 0

    def start(self, total: int, done: float = 0, *, what: str = "", unit: str = "row") -> None:
        self.prompts = 0

    def advance(self, n: float, **also: int) -> None:
        self.prompts += int(n)

    def part(self, text: str, **also: int) -> None:
        self.parts.append(text)
        if len(self.parts) == 2:
            kill(self.nodes.workers()[0])


def test_lost_workers_change_no_byte(tmp_path: Path, tiny_model: Path, scored: Path, nodes: Nodes) -> None:
    def config(out: str, **options: Any) -> Any:
        sizes = {"samples": 2, "max_tokens": 12, "shard_prompts": 2, "threads": 1, "device": "cpu"}
        given = {"scored": scored, "model": str(tiny_model), "verifier": "exact", **sizes, **options}
        return make_config(out=tmp_path / out, verify_workers=1, **given)

    one = roll_out(config("one"))
    watch = Killing(nodes)
    two = roll_out(config("two", engine="ray", address=nodes.address), watch)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    assert (two.prompts, two.rollouts, two.pass_rate) == (one.prompts, one.rollouts, one.pass_rate)
    assert len(watch.parts) == len(set(watch.parts)) == 12
    assert watch.prompts == 24
    assert gone(nodes.raylets())
