from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset
import pytest

import ledger_writer
from full_disk import no_file_above
from gaincurate.errors import InputError, LockedError, OutputError, StorageError
from gaincurate.replay.ledger import Ledger, read
from rollouts import digests, group


def steps(folder: Path) -> list[int]:
    """Of the groups in a ledger, each compared with what was appended."""
    found = list(read(folder))
    assert digests(found) == digests(group(f"p{one.step}", one.step) for one in found)
    return [one.step for one in found]


def append(ledger: Ledger, first: int, count: int = 1) -> None:
    ledger.append([group(f"p{n}", n) for n in range(first, first + count)])


def writer(folder: Path, first: int, count: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, ledger_writer.__file__, str(folder), str(first)]
    path = os.pathsep.join(one for one in sys.path if one)
    return subprocess.Popen(
        command + ([str(count)] if count is not None else []),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_appended_groups_are_read_in_order_and_to_the_bit_by_anybody(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        append(ledger, 0, 3)
        ledger.append([])
        append(ledger, 3)
        assert steps(tmp_path) == [0, 1, 2, 3]
    with Ledger(tmp_path) as ledger:
        append(ledger, 4)
    assert steps(tmp_path) == [0, 1, 2, 3, 4]
    table = pyarrow.dataset.dataset(sorted(tmp_path.glob("*.parquet"))).to_table()
    assert table.column("gc_id").to_pylist() == ["p0", "p1", "p2", "p3", "p4"]
    made = group("p1", 1)
    assert table.column("logprobs")[1].as_py() == [one.tolist() for one in made.logprobs]


def test_a_damaged_file_and_an_absent_ledger_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"^{tmp_path}/x holds no ledger of rollout groups.$"):
        list(read(tmp_path / "x"))
    with Ledger(tmp_path) as ledger:
        append(ledger, 0)
        append(ledger, 1)
    first, _ = sorted(tmp_path.glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-8])
    with pytest.raises(OutputError, match=f"^{first} is damaged: .* remove the file.$"):
        list(read(tmp_path))


def test_an_age_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^keep_versions is 0; it is a whole number from 1.$"):
        Ledger(tmp_path, keep_versions=0)


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        append(ledger, 0)
        with pytest.raises(LockedError):
            Ledger(tmp_path)
        append(ledger, 1)
    with Ledger(tmp_path) as ledger:
        append(ledger, 2)
    assert steps(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize("keep", [1, 8])
def test_groups_as_old_as_asked_stay_and_older_ones_leave(tmp_path: Path, keep: int) -> None:
    for begin in (0, 15):  # the second opening sees the files of the first
        with Ledger(tmp_path, keep_versions=keep) as ledger:
            for step in range(begin, begin + 15):
                append(ledger, step)
                assert steps(tmp_path) == list(range(max(0, step - keep), step + 1))


def test_a_full_disk_loses_nothing_and_the_ledger_goes_on(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        append(ledger, 0)
        with no_file_above(100), pytest.raises(StorageError) as caught:
            append(ledger, 1, 3)
        assert str(caught.value).endswith(
            "the file size limit is reached. What was appended before is kept; put that right and run the same "
            "command again to go on."
        )
        assert steps(tmp_path) == [0]
        append(ledger, 4)
    assert steps(tmp_path) == [0, 4]


def test_killed_at_any_instant_everything_acknowledged_is_there(tmp_path: Path) -> None:
    chance, first = random.Random(7), 0
    for _ in range(4):
        process = writer(tmp_path, first)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        acknowledged = first - 1
        for _ in range(chance.randrange(1, 40)):
            acknowledged = int(process.stdout.readline())
        process.kill()
        rest = process.stdout.read().split()  # said before it died
        process.wait()
        process.stdout.close()
        acknowledged = max([acknowledged, *map(int, rest)])
        found = steps(tmp_path)
        assert found == list(range(len(found)))  # in order, none lost or doubled
        assert acknowledged + 1 <= len(found) <= acknowledged + 3  # at most one append more than was said
        first = len(found)
    with Ledger(tmp_path):
        assert not list(tmp_path.glob(".*.tmp"))


def test_a_reader_passes_over_a_file_that_leaves_meanwhile(tmp_path: Path) -> None:
    with Ledger(tmp_path, keep_versions=8) as ledger:
        for step in range(6):
            append(ledger, step)
        reading = read(tmp_path)
        assert next(reading).step == 0
        for step in range(6, 12):
            append(ledger, step)
        assert [one.step for one in reading] == [3, 4, 5]
