from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path, PosixPath

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gaincurate.core import store
from gaincurate.core.files import write_json
from gaincurate.core.store import Bucket, Folder, Remote, Store, located, open_store, scrubbed
from gaincurate.errors import InputError, SourceError

MemoryStore = pytest.importorskip("obstore.store").MemoryStore

NAMES = ("a", "b.json", "in/c", "in/d e#%ü")
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "delete"]), st.sampled_from(NAMES), st.binary(max_size=4)),
    max_size=12,
)


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bucket is a new store in memory."""
    made: dict[str, object] = {}
    monkeypatch.setattr(store, "connect", lambda place, _: made.setdefault(str(place), MemoryStore()))


@pytest.mark.usefixtures("in_memory")
@given(steps=STEPS)
def test_a_folder_and_a_bucket_hold_what_was_put(
    steps: list[tuple[str, str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("store")
    (folder / "in").mkdir()
    bucket = Remote(f"s3://bucket/{folder.name}")
    expected: dict[str, bytes] = {}
    both: list[Store] = [Folder(folder), Bucket(bucket)]
    for verb, name, data in steps:
        for each in both:
            if verb == "put":
                each.put(name, data)
            else:
                each.delete([name])
        if verb == "put":
            expected[name] = data
        else:
            expected.pop(name, None)
    for each in both:
        assert {name: each.get(name) for name in NAMES} == {name: expected.get(name) for name in NAMES}
        sizes = {name: len(data) for name, data in expected.items()}
        assert {name: each.size(name) for name in NAMES} == {name: sizes.get(name) for name in NAMES}
        outer = {name for name in expected if "/" not in name}
        assert set(each.list()) - {"in/"} == outer
        assert set(each.list("in")) == {name[3:] for name in expected if name.startswith("in/")}
        each.delete(["in/"])
        assert set(each.list()) - {"in/"} == outer
        assert not each.list("in")


@pytest.mark.usefixtures("in_memory")
def test_another_content_has_another_version_in_the_list() -> None:
    bucket = Bucket(Remote("s3://bucket/x"))
    first = bucket.put("a", b"1")
    assert bucket.list() == {"a": first}
    second = bucket.put("a", b"2")
    assert bucket.list() == {"a": second}
    assert first != second


@pytest.mark.usefixtures("in_memory")
def test_a_file_is_fetched_whole_and_only_in_the_version_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(Remote("s3://bucket/x"))
    old = bucket.put("a", b"1" * 100_000)
    monkeypatch.setattr(store, "_BLOCK", 30_000)
    bucket.download("a", tmp_path / "a", old)
    assert (tmp_path / "a").read_bytes() == b"1" * 100_000
    bucket.put("a", b"2")
    for name, tag in (("a", old), ("nothing", None)):
        with pytest.raises(SourceError, match=f"s3://bucket/x/{name} changed while it was read"):
            bucket.download(name, tmp_path / "b", tag)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


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
    assert (str(place), f"{place}", os.fspath(place), place.bucket) == (shown, shown, shown, bucket)
    assert str(place / "x.json") == f"{shown}/x.json"
    assert isinstance(place / "x.json", Remote)
    assert str(located(Path(str(place / "x")).parent)) == shown


@pytest.mark.parametrize("place", ["a/b", "/s3/x", ".", "owner/name:config@main", "a:b/c"])
def test_a_local_path_stays_as_it_is(place: str) -> None:
    assert type(located(Path(place))) is PosixPath
    assert located(place) == Path(place)
    assert isinstance(open_store(located(place)), Folder)


def test_a_local_folder_with_the_name_of_a_scheme_is_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s3:").mkdir()
    assert type(located("s3:/x")) is PosixPath


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
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "hidden-1")
    text = "GET http://me:hidden2@host/a?sig=hidden3 failed, key hidden-1"
    assert scrubbed(text) == "GET http://host/a failed, key ***"


def test_without_the_library_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(InputError, match=r"pip install 'gaincurate\[cloud\]'"):
        Bucket(Remote("s3://bucket/a")).get("x")
    write_json(tmp_path / "x", 1)
    assert Folder(tmp_path).get("x") == b"1\n"


def test_a_user_without_a_home_is_told_how_to_name_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", store.CACHE):
        monkeypatch.delenv(name, raising=False)

    def nobody(number: int) -> pwd.struct_passwd:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(InputError, match="no home folder for copies; set GAINCURATE_CACHE to a folder"):
        store.cache_folder()
