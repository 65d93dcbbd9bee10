"""Scoring from and into an object store: moto's server on the loopback address, with faults where they are wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import buckets
import tiny
from command import run, tree
from gaincurate.core import store
from gaincurate.core.artifact import IDENTITY, MANIFEST, shard_name
from gaincurate.core.scored_set import open_scores
from gaincurate.errors import InputError, OutputError, StorageError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.pipeline import score_dataset

pytest.importorskip("obstore")
pytest.importorskip("moto.server")

TESTS = Path(__file__).parent.parent


class World:
    """A bucket of its own, behind a proxy."""

    def __init__(self, endpoint: str, proxy: buckets.Proxy, name: str, folder: Path, model: Path) -> None:
        self.endpoint, self.proxy, self.bucket, self.folder, self.model = endpoint, proxy, name, folder, model
        buckets.ask(f"{endpoint}/{name}", "PUT")
        self.out = f"s3://{name}/sets/one"
        self.data = tiny.write_jsonl(folder / "rows.jsonl", tiny.questions(40))

    def score(self, **options: Any) -> Any:
        chosen: dict[str, Any] = {"data": str(self.data), "out": self.out, "shard_rows": 10, "threads": 1}
        return score_dataset(ScoreConfig(model=str(self.model), **(chosen | options)))

    def reference(self, **options: Any) -> dict[str, bytes]:
        """The files of the same set on a disk."""
        self.score(out=self.folder / "local", **options)
        return tree(self.folder / "local")

    def files(self, prefix: str = "sets/one/", *, logs: bool = False) -> dict[str, bytes]:
        """What is in the bucket, read without any of our code."""
        files = buckets.files(self.endpoint, self.bucket, prefix)
        return {name: data for name, data in files.items() if logs or not name.startswith("execution/")}

    def put(self, name: str, data: bytes) -> None:
        buckets.ask(f"{self.endpoint}/{self.bucket}/{name}", "PUT", data)

    def delete(self, name: str) -> None:
        buckets.ask(f"{self.endpoint}/{self.bucket}/sets/one/{name}", "DELETE")

    def another_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From here on there is nothing in the cache."""
        monkeypatch.setenv("GAINCURATE_CACHE", str(self.folder / f"cache-{os.urandom(4).hex()}"))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with buckets.moto() as address:
        yield address


@pytest.fixture
def world(
    endpoint: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> Iterator[World]:
    proxy = buckets.Proxy(endpoint)
    for name, value in buckets.environment(proxy.endpoint).items():
        monkeypatch.setenv(name, value)
    # Tests do not wait as long as users do.
    monkeypatch.setattr(store, "_PATIENT", store._QUICK)
    made = World(endpoint, proxy, f"bucket-{os.urandom(4).hex()}", tmp_path, tiny_model)
    made.another_machine(monkeypatch)
    yield made
    proxy.close()


def test_a_set_in_a_store_has_the_bytes_of_a_local_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tiny.questions(40)
    rows[33]["question"] = "  "  # one row is rejected, so rejected.jsonl is compared too
    tiny.write_jsonl(world.data, rows)
    world.put("in/rows.jsonl", world.data.read_bytes())
    expected = world.reference(on_error="skip")
    said: list[str] = []

    def command(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code == 0, result.stderr
        said.append(result.output)
        return result.stdout

    scoring = ["score", f"s3://{world.bucket}/in/rows.jsonl", "--model", world.model, "--out", world.out]
    scoring += ["--shard-rows", 10, "--threads", 1, "--on-error", "skip"]
    assert f"{world.out} is complete: 39 rows, 1 rejected" in command(*scoring)
    assert world.files() == expected
    world.proxy.seen.clear()
    assert f"{world.out} is already complete" in command(*scoring)
    written = [path for method, path in world.proxy.seen if method not in ("GET", "HEAD")]
    assert all("/execution/" in path for path in written)
    world.another_machine(monkeypatch)
    local = run("show", world.folder / "local").stdout.replace(str(world.folder / "local"), world.out)
    assert command("show", world.out) == local
    assert world.out in command("report", world.out)
    assert command("hygiene", world.out).startswith(world.out)
    train = world.folder / "train.parquet"
    command("export", world.out, "--trainer", "trl", "--out", train)
    run_folder = world.folder / "run"
    start = ["--run", run_folder, "--strategy", "gain-rl", "--budget", 8, "--rounds", 2, "--sigma", 5]
    command("schedule", "start", world.out, *start, "--cache", world.folder / "runs")
    assert list((world.folder / "runs/sets").glob("*/manifest.json"))
    monkeypatch.delenv("GAINCURATE_CACHE")
    outcomes = run_folder / "rounds/00000/outcomes.jsonl"
    ids = json.loads((run_folder / "rounds/00000/plan.json").read_text())["ids"]
    outcomes.write_text("".join(json.dumps({"gc_id": i, "reward": 1.0, "round": 0}) + "\n" for i in ids))
    monkeypatch.setenv("HOME", str(world.folder / "nobody"))
    command("schedule", "next", run_folder)
    assert not (world.folder / "nobody").exists(), "the run did not remember its cache"
    world.score(data=world.out, out=world.folder / "again", on_error="skip")

    everything = [text.encode() for text in said]
    everything += [path.read_bytes() for path in world.folder.rglob("*") if path.is_file()]
    everything += world.files("", logs=True).values()
    assert not any(buckets.SECRET.encode() in data for data in everything)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_set_goes_on_in_a_store(world: World, monkeypatch: pytest.MonkeyPatch, elsewhere: bool) -> None:
    world.score()
    expected = world.files()
    for name in (MANIFEST, shard_name(1), shard_name(3)):
        world.delete(name)
    if elsewhere:
        world.another_machine(monkeypatch)
    world.proxy.seen.clear()
    summary = world.score()
    assert summary.scored == 20
    assert world.files() == expected
    puts = [path.rpartition("/")[2] for method, path in world.proxy.seen if method == "PUT"]
    assert puts[:3] == [shard_name(1), shard_name(3), MANIFEST]
    fetched = [path for method, path in world.proxy.seen if method == "GET" and shard_name(0) in path]
    # A process knows the parts that it wrote, and reads others once.
    assert len(fetched) == elsewhere


def test_other_options_are_refused_until_overwrite_and_then_nothing_old_is_left(world: World) -> None:
    world.score(limit=35)
    before = world.files()
    with pytest.raises(OutputError, match=rf"^23 rows fewer: {world.out} holds scores of another run"):
        world.score(limit=12)
    assert world.files() == before
    world.score(limit=12, overwrite=True)
    assert world.files() == world.reference(limit=12)
    assert len(open_scores(world.out)) == 12
    with pytest.raises(InputError, match="--overwrite would delete s3://"):
        world.score(data=world.out, overwrite=True)


def test_of_two_first_starts_with_other_options_one_refuses_the_others_shards(world: World) -> None:
    world.score(limit=30)
    world.delete(MANIFEST)
    other = world.files()
    world.score(overwrite=True)
    for name in (MANIFEST, shard_name(3)):
        world.delete(name)
    world.put(f"sets/one/{shard_name(1)}", other[shard_name(1)])
    with pytest.raises(OutputError, match=r"shard-00001\.arrow holds scores of another run: source\.rows"):
        world.score()


def test_an_answer_of_500_that_lasts_ends_with_what_to_do_and_the_same_command_goes_on(world: World) -> None:
    def fails(method: str, path: str, headers: dict[str, str]) -> buckets.Answer | None:
        return (500, b"<Error><Code>InternalError</Code></Error>") if shard_name(2) in path else None

    world.proxy.fault = fails
    with pytest.raises(StorageError) as caught:
        world.score()
    assert str(caught.value) == (
        f"cannot write {world.out}/{shard_name(2)}: the store answers 500 Internal Server Error, also after "
        "several tries. Then run the same command again."
    )
    assert set(world.files()) == {IDENTITY, shard_name(0), shard_name(1)}
    world.proxy.fault = lambda *_: None
    assert world.score().scored == 20
    assert world.files() == world.reference()


ANSWERS = [
    (403, "AccessDenied", "access is denied. The credentials need the rights to list, get, put and delete there."),
    (403, "SignatureDoesNotMatch", "the store does not accept the credentials. Renew or correct AWS_ACCESS_KEY_ID "
     "and AWS_SECRET_ACCESS_KEY."),
    (301, "PermanentRedirect", "the bucket is in another region. Set AWS_REGION."),
    (503, "", "the store answers 503 Service Unavailable, also after several tries."),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "sentence"), ANSWERS)
def test_what_a_store_refuses_is_one_sentence(world: World, status: int, code: str, sentence: str) -> None:
    world.proxy.fault = lambda *_: (status, f"<Error><Code>{code}</Code></Error>".encode() if code else b"")
    result = run("show", world.out)
    assert result.exit_code == 1
    assert result.stderr == f"error: cannot use {world.out}: {sentence} Then run the same command again.\n"


def test_no_such_bucket_and_no_such_address(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run("show", "s3://no-such-bucket/x").stderr
    assert "cannot use s3://no-such-bucket/x: there is no bucket no-such-bucket. Make it, or correct" in said
    world.proxy.close()
    address = world.proxy.endpoint.replace("//", f"//me:{buckets.SECRET}@")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    result = run("score", world.data, "--model", world.model, "--out", f"s3://{world.bucket}/new")
    assert result.exit_code == 1
    assert f"{world.proxy.endpoint} cannot be reached. Check the network and the address." in result.stderr
    assert "Traceback" not in result.output
    assert buckets.SECRET not in result.output


def test_credentials_that_are_missing_are_one_sentence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    result = run("show", world.out)
    assert result.exit_code == 2
    assert "no credentials were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in result.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves sockets to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning")
def test_workers_on_ray_write_there_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    for name in ("RAY_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    world.score(engine="ray", workers=2, device="cpu")
    assert world.files() == world.reference(device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("machines", [1, 2])
def test_two_writers_at_once_make_one_set(world: World, machines: int) -> None:
    expected = world.reference()
    writers = []
    for part in (1, 2):
        place = world.folder / f"machine-{part if machines == 2 else 1}"
        options = ["score", world.data, "--model", world.model, "--out", world.out, "--threads", 1]
        options += ["--shard-rows", 10, "--shard", f"{part}/2", "--cache", place]
        command = [sys.executable, "-m", "gaincurate", *map(str, options)]
        writers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    said = [writer.communicate() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    assert world.files() == expected
    assert sum(f"{world.out} is complete: 40 rows" in out for out, _ in said) >= 1


@pytest.mark.slow
def test_killed_at_random_instants_and_rerun_the_bytes_are_those_of_a_local_run(world: World) -> None:
    rows = tiny.questions(160)
    rows[33]["question"] = "  "
    tiny.write_jsonl(world.data, rows)
    options = [world.data, world.model, world.folder, f"s3://{world.bucket}/kills", world.endpoint, 10]
    command = [sys.executable, str(TESTS / "kills.py"), "store", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TESTS)
    found = json.loads(done.stdout)
    assert found["kills"] >= 10
    assert {MANIFEST, IDENTITY, "rejected.jsonl", shard_name(15)} <= set(found["files"])
    assert max(found["left"]) > 0, "no kill came after the first shard"
    assert found["differing"] == []
