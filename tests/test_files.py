from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gaincurate.core.files import (
    append_line,
    append_lines,
    digest_bytes,
    digest_file,
    digest_files,
    digest_json,
    json_lines,
    remove_temporaries,
    temporary_folder,
    write_atomic,
    write_json,
    write_lines,
)
from gaincurate.errors import StorageError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)
)


def test_a_pipe_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_bytes)
        write_atomic(pipe, b"text", named=True)
        assert read.result() == b"text"
    assert (pipe.is_fifo(), [p.name for p in tmp_path.iterdir()]) == (True, ["pipe"])
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="the disk is full"):
        write_atomic(tmp_path / "full", b"text", named=True)
    assert (tmp_path / "full").is_symlink()


@pytest.mark.parametrize("write", [lambda path: write_atomic(path, b"x"), lambda path: append_line(path, {})])
def test_a_pipe_where_a_file_of_our_own_belongs_is_refused(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StorageError, match=r"cannot write .*pipe: it is no regular file\. Put that right"):
        write(pipe)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_path_without_a_name_cannot_be_written() -> None:
    with pytest.raises(StorageError, match=r"cannot write \.: is a directory"):
        write_atomic(Path("."), b"x")


@given(st.dictionaries(st.text(), JSON))
def test_a_json_hash_ignores_the_order_of_keys_and_nothing_else(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert digest_json(turned) == digest_json(value)
    assert digest_json({**value, "more": 1} if "more" not in value else {}) != digest_json(value)


def test_hashes_are_128_bits_of_blake2b_in_hex(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 3_000_000)  # more than a block
    expected = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    assert digest_file(path) == digest_bytes(path.read_bytes()) == expected


def test_a_hash_of_files_depends_on_content_and_order_not_on_names(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, data in zip(paths, [b"x", b"y", b"x"], strict=True):
        path.write_bytes(data)
    a, b, c = paths
    assert digest_files([a, b]) == digest_files([c, b])
    assert digest_files([a, b]) != digest_files([b, a])
    assert digest_files([a, b]) != digest_files([a])


def test_written_json_is_readable_and_ends_with_a_line_break(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"ä": [1]})
    assert (tmp_path / "x.json").read_text("utf-8") == '{\n  "ä": [\n    1\n  ]\n}\n'
    assert json.loads((tmp_path / "x.json").read_bytes()) == {"ä": [1]}


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "input/output error"),
    ],
    ids=lambda value: str(value).replace(" ", "-"),
)
def test_a_write_that_fails_leaves_the_old_file_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, reason: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "x"
    path.write_bytes(b"old")
    monkeypatch.setattr(f"{'os' if step == 'fsync' else 'pathlib.Path'}.{step}", fail)
    with pytest.raises(StorageError) as caught:
        write_atomic(path, b"new")
    assert str(caught.value) == (
        f"cannot write {path}: {reason}. Put that right and run the same command again."
    )
    assert caught.value.exit_code == 1
    assert caught.value.data == {"path": str(path), "errno": number}
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"x": b"old"}


def test_the_disk_has_the_file_before_its_name_and_the_name_before_the_write_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen, real = tmp_path / "x", list[tuple[str, bytes, bool]](), os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        held = b"" if is_folder else b"".join(p.read_bytes() for p in tmp_path.iterdir() if p != path)
        seen.append(("folder" if is_folder else "file", held, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(path, b"new")
    assert seen == [("file", b"new", False), ("folder", b"", True)]


def test_an_interrupted_write_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "x", b"new")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*/none/x: no such file or directory\."):
        write_atomic(tmp_path / "none/x", b"")
    with pytest.raises(StorageError, match=r"cannot read .*/none: no such file or directory\."):
        digest_file(tmp_path / "none")


def test_without_room_for_temporary_files_the_sentence_says_where_it_was_sought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder() as folder:
        (folder / "x").touch()
        assert folder.parent == tmp_path
    assert not folder.exists()
    monkeypatch.setattr(os, "mkdir", full)
    with (
        pytest.raises(StorageError, match=f"to {tmp_path}: the disk is full. Make room there, or"),
        temporary_folder(),
    ):
        pass
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(os, "open", full)
    with (
        pytest.raises(StorageError, match="/usr/tmp or the current folder. Make room there, or name"),
        temporary_folder(),
    ):
        pass


def test_only_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    kept = ["shard-00000.arrow", ".hidden", "x.tmp", "manifest.json"]
    for name in [*kept, ".shard-00001.arrow.17.tmp", ".manifest.json.4.tmp"]:
        (tmp_path / name).write_bytes(b"")
    remove_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)


@given(st.lists(st.dictionaries(st.text(max_size=8), JSON, max_size=4), max_size=6))
def test_lines_that_were_written_are_read_again(tmp_path_factory: Any, values: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("lines") / "new" / "x.jsonl"
    assert write_lines(path, values) == len(values)
    assert list(json_lines(path)) == list(json_lines(path.read_bytes())) == list(enumerate(values, 1))


def test_a_line_without_an_object_is_none_and_blank_or_unfinished_ones_are_left_out() -> None:
    deep = b"[" * 100_000
    data = b'{"a": 1}\n\n  \nno\n[1]\nnull\n\xff\n' + deep + b'\n{"b": "\xe2\x80\xa8"}\n{"c": 3}'
    numbered = [(1, {"a": 1}), (4, None), (5, None), (6, None), (7, None), (8, None), (9, {"b": "\u2028"})]
    assert list(json_lines(data)) == numbered
    assert list(json_lines(data, 9)) == numbered[1:]  # the first line ends there
    assert list(json_lines(data, 8)) == numbered


def test_lines_are_appended_after_what_a_killed_writer_left(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    append_lines(path, [{"a": 1}])
    path.write_bytes(path.read_bytes() + b'{"b": ')
    append_lines(path, [{"c": 3}, {"d": 4}])
    assert list(json_lines(path)) == [(1, {"a": 1}), (2, None), (3, {"c": 3}), (4, {"d": 4})]
