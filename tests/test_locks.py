from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from gaincurate.core.locks import Split, acquire, one_at_a_time, work_folder, writing
from gaincurate.errors import LockedError


@pytest.mark.parametrize(
    ("second", "sentence"),
    [(Split(), "another process is writing"), (Split(1, 2), "is writing --shard 1/2 of .*, or all of it")],
)
def test_a_plain_run_writes_alone(tmp_path: Path, second: Split, sentence: str) -> None:
    with writing(tmp_path, Split()), pytest.raises(LockedError, match=sentence), writing(tmp_path, second):
        pass
    with writing(tmp_path, Split()):
        assert (work_folder(tmp_path) / "lock").exists()


def test_parts_write_together_but_each_once(tmp_path: Path) -> None:
    with writing(tmp_path, Split(1, 3)), writing(tmp_path, Split(3, 3)):
        with pytest.raises(LockedError, match="is writing --shard 1/3 of"), writing(tmp_path, Split(1, 3)):
            pass
        with pytest.raises(LockedError, match="another process is writing"), writing(tmp_path, Split()):
            pass
    with writing(tmp_path, Split(2, 2)):
        assert work_folder(tmp_path).exists()


def test_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with writing(tmp_path, Split()):
            os.write(write, b"x")
            os.kill(os.getpid(), 9)
    assert os.read(read, 1) == b"x"
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    with writing(tmp_path, Split()):
        assert work_folder(tmp_path).exists()


def test_a_lock_on_a_removed_file_keeps_nobody_out(tmp_path: Path) -> None:
    with writing(tmp_path, Split(1, 2)):
        (work_folder(tmp_path) / "lock-1-of-2").unlink()
        with writing(tmp_path, Split(1, 2)):
            assert (work_folder(tmp_path) / "lock-1-of-2").exists()


def test_a_lock_file_that_is_removed_while_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock, removed = tmp_path / "lock", fcntl.flock, list[Path]()

    def racing(descriptor: int, kind: int) -> None:
        lock(descriptor, kind)
        if not removed:
            removed.append(path)
            path.unlink()

    monkeypatch.setattr(fcntl, "flock", racing)
    descriptor = acquire(path, fcntl.LOCK_EX)
    assert descriptor is not None
    assert os.fstat(descriptor).st_ino == path.stat().st_ino
    os.close(descriptor)


def test_the_short_lock_is_free_again(tmp_path: Path) -> None:
    for _ in range(2):
        with one_at_a_time(tmp_path):
            assert (work_folder(tmp_path) / "lock-folder").exists()
