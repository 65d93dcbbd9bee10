"""Object stores: places and their URLs, and copies of what lies there."""

from __future__ import annotations

import json
import os
import pwd
import sys
import traceback
from pathlib import Path, PosixPath

import pyarrow as pa
import pytest

from command import run, tree
from gaincurate.core import store
from gaincurate.core.artifact import MANIFEST, shard_name
from gaincurate.core.scored_set import open_scores
from gaincurate.core.store import Bucket, Mirror, Remote, fetch_data, located, scrubbed
from gaincurate.errors import InputError, OutputError, SourceError, StorageError
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
    monkeypatch.setenv("GAINCURATE_CACHE", str(tmp_path / "cache"))
    return folder


def one(bucket: Path, angle: float = 0.5) -> Path:
    """A set of two shards at PLACE."""
    shards = [[scored_row(f"{k}-{i}", angle=angle) for i in range(3)] for k in range(2)]
    return make_set(bucket / "sets/one", shards)


def test_a_copy_is_the_set_and_is_fetched_once(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    download = Bucket.download

    def counted(self: Bucket, name: str, path: Path, version: str) -> None:
        fetched.append(name)
        download(self, name, path, version)

    monkeypatch.setattr(Bucket, "download", counted)
    folder = one(bucket)
    scored = open_scores("s3://bucket/sets/one")
    assert tree(scored.folder) == tree(folder)
    assert str(scored.place) == str(PLACE)
    assert len(fetched) == len(tree(folder))
    fetched.clear()
    assert open_scores(PLACE).folder == scored.folder
    assert not fetched
    (scored.folder / shard_name(1)).write_bytes(b"cut")
    assert tree(open_scores(PLACE).folder) == tree(folder)
    assert fetched == [shard_name(1)]
    (folder / MANIFEST).unlink()
    with pytest.raises(OutputError, match=r"^s3://bucket/sets/one is not finished"):
        open_scores(PLACE)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(OutputError, match=r"^s3://bucket/sets/one is no scored set"):
        open_scores(PLACE)


def test_a_set_that_was_made_again_is_copied_again_and_an_open_one_stays(bucket: Path) -> None:
    one(bucket)
    values = open_scores(PLACE).column("gc_angle")
    one(bucket, angle=0.25)
    assert set(open_scores(PLACE).column("gc_angle").to_pylist()) == {0.25}
    assert set(values.to_pylist()) == {0.5}


def test_a_file_of_another_process_during_a_pull_stays(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = one(bucket)
    mirror, listing = Mirror(PLACE), Bucket.list
    lock = mirror.folder / ".work/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()

    def listed(self: Bucket) -> dict[str, str]:
        there = listing(self)
        Mirror(PLACE).put("new.arrow", b"new")
        return there

    monkeypatch.setattr(Bucket, "list", listed)
    mirror.pull()
    lock.unlink()  # it is no file of the set
    assert tree(mirror.folder) == tree(folder)


def test_computed_columns_come_along_and_none_is_written_there(bucket: Path) -> None:
    folder = one(bucket)
    open_scores(folder).add_column("gc_mine", ["0-1"], pa.array([7]), {})
    assert open_scores(PLACE).column("gc_mine").to_pylist() == [None, 7, None, None, None, None]
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
    log = (open_scores(PLACE).folder / "execution.jsonl").read_text()
    assert log == '{"name": "1-host-1.json"}\n{"name": "2-host-1.json"}\n'


def test_data_files_are_copied_with_their_names_and_a_folder_of_save_to_disk_whole(bucket: Path) -> None:
    (bucket / "in/more").mkdir(parents=True)
    for name in ("a-train.jsonl", "b-train.jsonl", "c.txt", "more/d.jsonl"):
        (bucket / "in" / name).write_text(f"{name}\n")
    single = Path(fetch_data(Remote("s3://bucket/in/a-train.jsonl"), SUFFIXES))
    assert (single.name, single.read_text()) == ("a-train.jsonl", "a-train.jsonl\n")
    copy = Path(fetch_data(Remote("s3://bucket/in"), SUFFIXES))
    assert list(tree(copy)) == ["a-train.jsonl", "b-train.jsonl"]
    with pytest.raises(SourceError, match=r"s3://bucket/in/none\.jsonl: there is no such data file; the end"):
        fetch_data(Remote("s3://bucket/in/none.jsonl"), SUFFIXES)
    (bucket / "in/a-train.jsonl").write_text("other\n")
    again = Path(fetch_data(Remote("s3://bucket/in/a-train.jsonl"), SUFFIXES))
    assert (again.read_text(), single.read_text()) == ("other\n", "a-train.jsonl\n")
    (bucket / "in/dataset_dict.json").write_text("{}")
    assert tree(Path(fetch_data(Remote("s3://bucket/in"), SUFFIXES))) == tree(bucket / "in")


@pytest.mark.parametrize(
    ("pattern", "count"), [("in/*.jsonl", 2), ("in/[b-t]r*", 1), ("*/more/x.jsonl", 1), ("*/*/*.jsonl", 2)]
)
def test_a_pattern_names_the_files_that_it_names_on_a_disk(bucket: Path, pattern: str, count: int) -> None:
    (bucket / "in/more").mkdir(parents=True)
    for name in ("train.jsonl", "test.jsonl", "note.txt", "state.json", "more/x.jsonl", "more/y.jsonl"):
        (bucket / "in" / name).write_text(json.dumps({"question": name}))
    remote, local = open_source(f"s3://bucket/{pattern}"), open_source(str(bucket / pattern))
    assert list(remote.batches()) == list(local.batches())
    assert (remote.rows, remote.fingerprint) == (count, local.fingerprint)


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


def test_a_file_is_fetched_whole_and_in_one_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = stores.MemoryStore()
    monkeypatch.setattr(store, "connect", lambda *_: memory)
    bucket = Bucket(Remote("s3://bucket/x"))
    old = bucket.put("a", b"1" * 100_000)
    assert bucket.list() == {"a": old}
    monkeypatch.setattr(store, "_BLOCK", 30_000)
    bucket.download("a", tmp_path / "a", old)
    assert (tmp_path / "a").read_bytes() == b"1" * 100_000
    bucket.put("a", b"2" * 100_000)
    for name in ("a", "nothing"):
        with pytest.raises(SourceError, match=f"s3://bucket/x/{name} changed while it was read"):
            bucket.download(name, tmp_path / "b", old)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    bucket.delete(["a"])
    assert not bucket.list()


@pytest.mark.parametrize(
    ("given_place", "shown", "bucket"),
    [
        ("s3://bucket/a/b", "s3://bucket/a/b", "bucket"),
        ("s3:/bucket/a/b", "s3://bucket/a/b", "bucket"),  # what Path makes of it
        (Path("gs://bucket/a b"), "gs://bucket/a b", "bucket"),
        ("S3://bucket/", "s3://bucket", "bucket"),
        ("az://container/a@1.parquet", "az://container/a@1.parquet", "container"),
    ],
)
def test_a_url_is_a_path_that_prints_as_a_url(given_place: str | Path, shown: str, bucket: str) -> None:
    place = located(given_place)
    assert isinstance(place, Remote)
    assert (str(place), f"{place}", os.fspath(place), place.parts[1]) == (shown, shown, shown, bucket)
    assert str(place / "x.json") == f"{shown}/x.json"
    assert isinstance(place / "x.json", Remote)
    assert str(located(Path(str(place / "x")).parent)) == shown


@pytest.mark.parametrize("place", ["a/b", "/s3/x", ".", "owner/name:config@main", "a:b/c"])
def test_a_local_path_stays_as_it_is(place: str) -> None:
    assert type(located(Path(place))) is PosixPath
    assert located(place) == Path(place)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("hdfs://host/a", "hdfs://...: expected a local path, s3://, gs:// or az://. Copy"),
        ("s3://user:hidden@bucket/a", "a user name, a ? or a # is refused"),
        ("s3://bucket/a?X-Amz-Signature=hidden", "a user name, a ? or a # is refused"),
        ("az://container/c#hidden", "AZURE_STORAGE_ACCOUNT_KEY"),
        ("https://user:hidden@host/a", "expected a local path"),
        ("s3:///", "s3://: this URL names no bucket"),
        ("s3://", "s3://: this URL names no bucket"),
    ],
)
def test_another_url_is_refused_without_its_secret(place: str, said: str) -> None:
    for form in (place, Path(place)):
        with pytest.raises(InputError, match=said.replace("?", r"\?").replace(".", r"\.")) as caught:
            located(form)
        assert "hidden" not in str(caught.value)


def test_secrets_are_taken_out_of_what_a_library_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in enumerate(("A_KEY", "A_SECRET", "A_TOKEN", "A_PASSWORD", "A_CREDENTIAL", "A_SAS")):
        monkeypatch.setenv(name, f"hidden-{place}")
        text = f"GET http://me:hidden2@host/a?sig=hidden3 failed, key hidden-{place}"
        assert scrubbed(text) == "GET http://host/a failed, key ***"


def test_a_traceback_does_not_show_what_a_library_said(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(client: object, **options: object) -> object:
        raise OSError("key hidden-1 is refused")

    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "hidden-1")
    monkeypatch.setattr("obstore.list", refusing)
    with pytest.raises(StorageError, match="key .* is refused") as caught:
        Bucket(Remote("s3://bucket/a")).list()
    assert "hidden-1" not in "".join(traceback.format_exception(caught.value))


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(InputError, match=r"pip install 'gaincurate\[cloud\]'"):
        Bucket(Remote("s3://bucket/a")).list()


def test_a_user_without_a_home_is_told_how_to_name_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", store.CACHE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(InputError, match="no home folder for copies; set GAINCURATE_CACHE to a folder"):
        store.cache_folder()
