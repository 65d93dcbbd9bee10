from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from command import run, tree
from gaincurate.core import store
from gaincurate.core.artifact import IDENTITY, MANIFEST, shard_name
from gaincurate.core.cache import fetch_data, fetch_matching, local_copy
from gaincurate.core.scored_set import SCORES, open_scores
from gaincurate.core.store import Remote
from gaincurate.errors import InputError, OutputError, SourceError
from gaincurate.scoring.readers.source import open_source
from sets import make_set, scored_row

stores = pytest.importorskip("obstore.store")

PLACE = Remote("s3://bucket/sets/one")
SUFFIXES = (".jsonl", ".parquet")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that s3://bucket is."""
    folder = tmp_path / "bucket"
    folder.mkdir()

    def connect(place: Remote, _: object) -> object:
        path = folder.joinpath(*place.parts[2:])
        return stores.LocalStore(path) if path.is_dir() else stores.MemoryStore()

    monkeypatch.setattr(store, "connect", connect)
    store.open_store.cache_clear()
    monkeypatch.setenv("GAINCURATE_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was read from a store."""
    names: list[str] = []
    get = store.Bucket.get

    def counted(self: store.Bucket, name: str) -> bytes | None:
        names.append(name)
        return get(self, name)

    monkeypatch.setattr(store.Bucket, "get", counted)
    return names


def one(bucket: Path, angle: float = 0.5, rows: int = 3) -> Path:
    """A set of two shards at PLACE."""
    shards = [[scored_row(f"{k}-{i}", angle=angle) for i in range(rows)] for k in range(2)]
    return make_set(bucket / "sets/one", shards)


def test_a_copy_is_the_set_and_a_shard_is_fetched_once(bucket: Path, fetched: list[str]) -> None:
    folder = one(bucket)
    scored = open_scores("s3://bucket/sets/one")
    assert tree(scored.folder) == tree(folder)
    assert scored.column("gc_id").to_pylist() == open_scores(folder).column("gc_id").to_pylist()
    assert str(scored.place) == str(PLACE)
    fetched.clear()
    again = open_scores(PLACE)
    assert again.folder == scored.folder
    assert fetched == [MANIFEST]


@pytest.mark.parametrize("verify", [True, False])
def test_a_shard_that_was_damaged_in_the_cache_is_fetched_again(
    bucket: Path, fetched: list[str], verify: bool
) -> None:
    folder = one(bucket)
    damaged = local_copy(PLACE, SCORES) / shard_name(1)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-8] + b"\0" * 8 if verify else whole[:100])
    fetched.clear()
    assert tree(local_copy(PLACE, SCORES, verify=verify)) == tree(folder)
    assert fetched == [MANIFEST, shard_name(1)]


def test_a_set_that_was_made_again_is_another_copy_and_the_old_one_stays_whole(bucket: Path) -> None:
    one(bucket)
    before = open_scores(PLACE)
    one(bucket, angle=0.25)
    after = open_scores(PLACE)
    assert before.folder != after.folder
    assert set(before.column("gc_angle").to_pylist()) == {0.5}
    assert set(after.column("gc_angle").to_pylist()) == {0.25}


def test_a_shard_in_the_store_that_is_not_the_manifests_is_refused(bucket: Path) -> None:
    folder = one(bucket)
    (folder / shard_name(1)).write_bytes(b"x")
    with pytest.raises(OutputError, match=r"s3://bucket/sets/one/shard-00001\.arrow does not match"):
        open_scores(PLACE)
    (folder / MANIFEST).unlink()
    with pytest.raises(OutputError, match=r"s3://bucket/sets/one is not finished"):
        open_scores(PLACE)
    (folder / IDENTITY).unlink()
    with pytest.raises(OutputError, match=r"s3://bucket/sets/one is no scored set"):
        open_scores(PLACE)


def test_computed_columns_come_along_and_none_is_written_there(bucket: Path) -> None:
    folder = one(bucket)
    open_scores(folder).add_column("gc_mine", ["0-1"], pa.array([7]), {})
    values = open_scores(PLACE).column("gc_mine").to_pylist()
    assert values == [None, 7, None, None, None, None]
    for path in (folder / "columns").iterdir():
        path.unlink()
    scored = open_scores(PLACE)
    assert "gc_mine" not in scored.schema.names
    with pytest.raises(InputError, match="computed columns are not written into an object store"):
        scored.add_column("gc_mine", ["0-1"], pa.array([7]), {})


def test_the_logs_of_all_processes_are_one_in_the_copy(bucket: Path) -> None:
    folder = one(bucket)
    (folder / "execution").mkdir()
    for name in ("2-host-1.json", "1-host-1.json"):
        (folder / "execution" / name).write_text(f'{{"name": "{name}"}}\n')
    log = (local_copy(PLACE, SCORES) / "execution.jsonl").read_text()
    assert log == '{"name": "1-host-1.json"}\n{"name": "2-host-1.json"}\n'


def test_data_files_are_copied_with_their_names(bucket: Path, fetched: list[str]) -> None:
    (bucket / "in/more").mkdir(parents=True)
    for name in ("a-train.jsonl", "b-train.jsonl", "c.txt", "more/d.jsonl"):
        (bucket / "in" / name).write_text(f"{name}\n")
    single = fetch_data(Remote("s3://bucket/in/a-train.jsonl"), SUFFIXES)
    assert (single.name, single.read_text()) == ("a-train.jsonl", "a-train.jsonl\n")

    def names(place: str) -> list[str]:
        folder = fetch_data(Remote(place), SUFFIXES)
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    assert names("s3://bucket/in") == ["a-train.jsonl", "b-train.jsonl"]
    with pytest.raises(SourceError, match=r"s3://bucket/in/none\.jsonl: there is no data file; the endings"):
        fetch_data(Remote("s3://bucket/in/none.jsonl"), SUFFIXES)
    (bucket / "in/a-train.jsonl").write_text("other\n")
    assert fetch_data(Remote("s3://bucket/in/a-train.jsonl"), SUFFIXES).read_text() == "other\n"
    assert single.read_text() == "a-train.jsonl\n"


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("in/*.jsonl", ["test.jsonl", "train.jsonl"]),
        ("in/[b-t]r*", ["train.jsonl"]),
        ("*/more/x.jsonl", ["x.jsonl"]),
        ("*/*/*.jsonl", ["x.jsonl", "y.jsonl"]),
    ],
)
def test_a_pattern_names_the_files_that_it_names_on_a_disk(
    bucket: Path, pattern: str, matches: list[str]
) -> None:
    (bucket / "in/more").mkdir(parents=True)
    for name in ("train.jsonl", "test.jsonl", "note.txt", "state.json", "more/x.jsonl", "more/y.jsonl"):
        (bucket / "in" / name).write_text(json.dumps({"question": name}))
    assert [path.name for path in fetch_matching(Remote(f"s3://bucket/{pattern}"))] == matches
    remote, local = open_source(f"s3://bucket/{pattern}"), open_source(str(bucket / pattern))
    assert list(remote.batches()) == list(local.batches())
    assert (remote.rows, remote.fingerprint) == (len(matches), local.fingerprint)


@pytest.mark.parametrize("pattern", ["in/*.csv", "in/t*", "in/*.jsonl --split train"])
def test_a_pattern_is_refused_as_it_is_on_a_disk(bucket: Path, pattern: str) -> None:
    (bucket / "in").mkdir()
    (bucket / "in/train.jsonl").write_text("{}")
    (bucket / "in/train.txt").write_text("{}")
    pattern, _, split = pattern.partition(" --split ")

    def sentence(place: str) -> str:
        with pytest.raises(SourceError) as refused:
            open_source(f"{place}/{pattern}", split=split or None)
        return re.sub(rf"{place}|/\S*/(?=train.txt)", "", str(refused.value))

    assert sentence("s3://bucket") == sentence(str(bucket))


def test_a_folder_of_save_to_disk_is_copied_whole(bucket: Path) -> None:
    (bucket / "in/train").mkdir(parents=True)
    for name in ("dataset_dict.json", "train/state.json", "train/data.arrow"):
        (bucket / "in" / name).write_text("{}")
    assert set(tree(fetch_data(Remote("s3://bucket/in"), SUFFIXES))) == set(tree(bucket / "in"))


@pytest.mark.parametrize(
    "command",
    [
        ("derive", "{}", "--signal", "gc_angle", "--length-free", "residual"),
        ("difficulty", "predict", "{}", "--outcomes", "x"),
        ("schedule", "start", "scored", "--run", "{}", "--strategy", "uniform", "--rounds", "1"),
        ("difficulty", "rollout", "scored", "--verifier", "exact", "--model", "m", "--out", "{}"),
        ("export", "scored", "--trainer", "trl", "--out", "{}"),
    ],
)
def test_what_does_not_lie_in_a_store_is_refused_at_once(command: tuple[str, ...]) -> None:
    result = run(*(part.format("s3://bucket/x") for part in command))
    assert result.exit_code == 2
    assert "s3://bucket/x: expected a local path. Object stores hold data to score" in result.stderr
