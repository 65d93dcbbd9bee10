from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gaincurate.core.files import append_lines, digest_files, json_lines, write_atomic, write_lines
from gaincurate.errors import StorageError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)
)


@pytest.mark.parametrize(
    "write", [lambda path: write_atomic(path, b"x"), lambda path: append_lines(path, [{}])]
)
def test_a_pipe_where_a_file_of_our_own_belongs_is_refused(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StorageError, match=r"cannot write .*pipe: it is no regular file\. Put that right"):
        write(pipe)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_hash_of_files_depends_on_content_and_order_not_on_names(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, data in zip(paths, [b"x", b"y", b"x"], strict=True):
        path.write_bytes(data)
    a, b, c = paths
    assert digest_files([a, b]) == digest_files([c, b])
    assert digest_files([a, b]) != digest_files([b, a])
    assert digest_files([a, b]) != digest_files([a])


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
