from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

import ledger_writer
from full_disk import no_file_above
from gaincurate.errors import InputError, LockedError, OutputError, StorageError
from gaincurate.replay import ledger as ledger_module
from gaincurate.replay.ledger import Ledger, read
from rollouts import digests, group


def steps(folder: Path) -> list[int]:
    """Of the groups in a ledger, each compared with what was appended."""
    found = list(read(folder))
    assert digests(found) == digests(group(f"p{one.step}", one.step) for one in found)
    return [one.step for one in found]


def append(ledger: Ledger, first: int, count: int = 1) -> None:
    ledger.append([group(f"p{n}", n) for n in range(first, first + count)])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.arrows"))


def writer(folder: Path, first: int, count: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, ledger_writer.__file__, str(folder), str(first)]
    path = os.pathsep.join(one for one in sys.path if one)
    return subprocess.Popen(
        command + ([str(count)] if count is not None else []),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_what_was_appended_is_read_in_order_and_to_the_bit(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        append(ledger, 0, 3)
        ledger.append([])
        append(ledger, 3)
        assert steps(tmp_path / "l") == [0, 1, 2, 3]
    with Ledger(tmp_path / "l") as ledger:
        assert ledger.cut == 0
        append(ledger, 4)
    assert steps(tmp_path / "l") == [0, 1, 2, 3, 4]
    assert files(tmp_path / "l") == ["segment-00000000.arrows"]


def test_a_segment_is_an_arrow_stream(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        append(ledger, 0, 2)
        append(ledger, 2)
    table = pa.ipc.open_stream(tmp_path / ledger_module.segment_name(0)).read_all()
    assert table.column("gc_id").to_pylist() == ["p0", "p1", "p2"]
    assert table.column("group_size").to_pylist() == [4, 4, 4]
    made = group("p1", 1)
    assert table.column("logprobs")[1].as_py() == [one.tolist() for one in made.logprobs]
    assert table.column("correct")[1].as_py() == made.correct.tolist()


def test_a_write_that_was_cut_off_at_any_byte_is_found_and_cut(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ends = [(tmp_path / ledger_module.segment_name(0)).stat().st_size]
        for first, count in ((0, 1), (1, 2)):
            append(ledger, first, count)
            ends.append((tmp_path / ledger_module.segment_name(0)).stat().st_size)
    path = tmp_path / ledger_module.segment_name(0)
    whole = path.read_bytes()
    places = {place + near for place in ends for near in range(-9, 10)} | set(range(0, len(whole), 61))
    for size in sorted(place for place in places if 0 <= place <= len(whole)):
        path.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends)  # nothing, the schema, one append, both
        left = [[], [], [0], [0, 1, 2]][kept]
        assert steps(tmp_path) == left  # a reader leaves the piece out
        with Ledger(tmp_path) as ledger:
            assert ledger.cut == size - [0, *ends][kept]
            assert path.stat().st_size == ends[max(kept, 1) - 1]
            append(ledger, 7)
        assert steps(tmp_path) == [*left, 7]


def test_a_tail_that_the_disk_left_empty_is_cut_too(tmp_path: Path) -> None:
    """After a power cut a file can have its length and not its bytes."""
    with Ledger(tmp_path) as ledger:
        append(ledger, 0)
        path = tmp_path / ledger_module.segment_name(0)
        end = path.stat().st_size
        append(ledger, 1)
    whole = path.read_bytes()
    for kept in (0, 4, 8, 40, 200, len(whole) - end - 8 * 40):
        path.write_bytes(whole[: end + kept] + bytes(len(whole) - end - kept))
        assert steps(tmp_path) == [0]
        with Ledger(tmp_path) as ledger:
            assert ledger.cut == len(whole) - end
        assert steps(tmp_path) == [0]


def test_a_pipe_in_the_place_of_a_segment_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        append(ledger, 0)
    segment = tmp_path / ledger_module.segment_name(0)
    segment.unlink()
    os.mkfifo(segment)
    for use in (lambda: list(read(tmp_path)), lambda: Ledger(tmp_path)):
        with pytest.raises(StorageError, match="it is no regular file"):
            use()


def test_damage_that_no_killed_writer_did_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path, segment_bytes=1) as ledger:
        append(ledger, 0)
        append(ledger, 1)
    first = tmp_path / ledger_module.segment_name(0)
    whole = first.read_bytes()
    first.write_bytes(whole[:-8])
    with pytest.raises(
        OutputError, match=rf"^{first} is damaged at byte \d+: take that file away to read the o"
    ):
        list(read(tmp_path))
    with pytest.raises(OutputError, match="is damaged at byte"):
        Ledger(tmp_path, keep_versions=5)
    place = whole.rindex(group("p0", 0).logprobs[1].tobytes())
    first.write_bytes(whole[:place] + b"\x00" + whole[place + 1 :])
    with pytest.raises(OutputError, match="the row does not match the digest in it"):
        list(read(tmp_path))
    # In the newest, in front of whole appends.
    first.write_bytes(
        whole[:place] + b"\x00" + whole[place + 1 :] + whole[len(ledger_module.stream_head()) :]
    )
    (tmp_path / ledger_module.segment_name(1)).unlink()
    for act in (lambda: list(read(tmp_path)), lambda: Ledger(tmp_path)):
        with pytest.raises(OutputError, match="the row does not match the digest in it"):
            act()


def test_a_message_of_a_kind_that_arrow_does_not_know_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        append(ledger, 0)
    path = tmp_path / ledger_module.segment_name(0)
    whole, end = path.read_bytes(), len(ledger_module.stream_head())

    def unknown(first: int, last: int) -> bytes:
        """The segment with the one byte changed that says what a message is."""
        for place in range(first + 8, last):
            made = whole[:place] + b"\x63" + whole[place + 1 :]
            with suppress(pa.ArrowException, OSError):
                if pa.ipc.read_message(pa.py_buffer(made[first:])).type == "unknown":
                    return made
        raise AssertionError

    for hostile in (unknown(0, end), unknown(end, len(whole))):
        path.write_bytes(hostile + whole[end:])  # not the newest piece, which a kill may have cut
        with pytest.raises(OutputError, match="is damaged at byte"):
            list(read(tmp_path))


def test_what_was_acknowledged_is_never_cut_for_damage_in_front_of_it(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        path = tmp_path / ledger_module.segment_name(0)
        begin = path.stat().st_size
        append(ledger, 0, 2)
        append(ledger, 2)
    whole = path.read_bytes()
    for place in (0, 4, 8, 20, 60):  # the first batch's mark, length and header
        path.write_bytes(whole[: begin + place] + bytes(4) + whole[begin + place + 4 :])
        for act in (lambda: list(read(tmp_path)), lambda: Ledger(tmp_path)):
            with pytest.raises(OutputError, match="is damaged"):
                act()
        assert path.stat().st_size == len(whole)


def test_another_format_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        append(ledger, 0)
    path = tmp_path / ledger_module.segment_name(0)
    path.write_bytes(path.read_bytes().replace(b'"rollout_groups": 1', b'"rollout_groups": 2'))
    with pytest.raises(OutputError) as caught:
        list(read(tmp_path))
    assert str(caught.value) == (
        f"{path} holds no rollout groups of format 1; use the gaincurate version that wrote it."
    )


def test_a_folder_without_a_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"^{tmp_path}/x holds no ledger of rollout groups.$"):
        list(read(tmp_path / "x"))


@pytest.mark.parametrize("given", [{"keep_versions": 0}, {"segment_bytes": 0}])
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, given: dict[str, int]) -> None:
    (name,) = given
    with pytest.raises(InputError, match=f"^{name} is 0; it is a whole number from 1.$"):
        Ledger(tmp_path, **given)


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        append(ledger, 0)
        with pytest.raises(LockedError) as caught:
            Ledger(tmp_path)
        assert str(caught.value) == (
            f"another process is writing {tmp_path}; wait for it, or stop it and run this again."
        )
        append(ledger, 1)
    with Ledger(tmp_path) as ledger:
        append(ledger, 2)
    assert steps(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize(("keep", "span"), [(1, 1), (8, 2), (40, 10)])
def test_old_segments_leave_whole_and_the_disk_is_bounded(tmp_path: Path, keep: int, span: int) -> None:
    sizes = []
    for begin in (0, 150):  # the second opening knows what the first wrote
        with Ledger(tmp_path, keep_versions=keep) as ledger:
            for step in range(begin, begin + 150):
                append(ledger, step)
                sizes.append(sum((tmp_path / name).stat().st_size for name in files(tmp_path)))
    left = steps(tmp_path)
    assert left == list(range(left[0], 300))
    assert keep <= 299 - left[0] <= keep + span + 1
    assert max(sizes) < (keep + span + 3) * sizes[0]
    assert len(files(tmp_path)) <= keep // max(span, 1) + 3


@pytest.mark.parametrize("keep", [1, 3, 8])
def test_a_group_that_is_just_as_old_as_is_kept_stays(tmp_path: Path, keep: int) -> None:
    with Ledger(tmp_path, keep_versions=keep) as ledger:
        for step in range(3 * keep + 6):
            append(ledger, step)
            assert set(range(max(0, step - keep), step + 1)) <= set(steps(tmp_path))


def test_segments_are_bounded_by_bytes_and_none_leaves_without_an_age(tmp_path: Path) -> None:
    with Ledger(tmp_path, segment_bytes=6000) as ledger:
        for step in range(30):
            append(ledger, step)
    assert steps(tmp_path) == list(range(30))
    each = [(tmp_path / name).stat().st_size for name in files(tmp_path)]
    assert len(each) > 3
    assert all(6000 <= size < 12000 for size in each[:-1])


def test_the_disk_has_it_before_it_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced, real = tmp_path / ledger_module.segment_name(0), list[int](), os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            synced.append(path.stat().st_size)

    with Ledger(tmp_path) as ledger:
        monkeypatch.setattr(os, "fsync", fsync)
        for step in range(3):
            append(ledger, step)
            assert synced[step:] == [path.stat().st_size]


def test_a_full_disk_loses_nothing_and_the_ledger_goes_on(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        append(ledger, 0)
        end = (tmp_path / ledger_module.segment_name(0)).stat().st_size
        with (
            no_file_above(end + 100),
            pytest.raises(StorageError) as caught,
        ):
            append(ledger, 1, 3)
        assert str(caught.value) == (
            f"cannot write {tmp_path / ledger_module.segment_name(0)}: the file size limit is reached. What was appended "
            "before is kept; put that right and run the same command again to go on."
        )
        assert steps(tmp_path) == [0]
        assert (tmp_path / ledger_module.segment_name(0)).stat().st_size == end
        append(ledger, 4)
    assert steps(tmp_path) == [0, 4]


def test_a_new_segment_that_cannot_begin_loses_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path, segment_bytes=1) as ledger:
        append(ledger, 0)
        with no_file_above(10), pytest.raises(StorageError):
            append(ledger, 1)
        append(ledger, 2)
    assert steps(tmp_path) == [0, 2]


def test_killed_at_any_instant_everything_acknowledged_is_there(tmp_path: Path) -> None:
    chance, first = random.Random(7), 0
    for _ in range(6):
        process = writer(tmp_path, first)
        assert process.stdout is not None
        acknowledged = first - 1
        for _ in range(chance.randrange(1, 60)):
            line = process.stdout.readline()
            if not line.startswith("cut"):
                acknowledged = int(line)
        process.kill()
        rest = process.stdout.read().split()  # said before it died
        process.wait()
        process.stdout.close()
        acknowledged = max([acknowledged, *map(int, rest)])
        found = steps(tmp_path)
        assert found == list(range(len(found)))  # in order, none lost or doubled
        assert acknowledged + 1 <= len(found) <= acknowledged + 3  # at most one append more than was said
        first = len(found)
    assert first > 60
    with Ledger(tmp_path) as ledger:
        append(ledger, first)
    assert steps(tmp_path) == list(range(first + 1))


def test_a_reader_sees_a_whole_beginning_while_another_process_writes(tmp_path: Path) -> None:
    process = writer(tmp_path, 0, 150)
    assert process.stdout is not None
    assert process.stdout.readline() == "cut 0\n"
    seen = 0
    for line in process.stdout:
        found = steps(tmp_path)
        assert found == list(range(len(found)))
        assert len(found) >= max(seen, int(line) + 1)
        seen = len(found)
        if seen > 250:
            break
    process.stdout.read()
    process.stdout.close()
    assert process.wait() == 0
    assert steps(tmp_path) == list(range(300))


def test_a_reader_passes_over_a_segment_that_leaves_meanwhile(tmp_path: Path) -> None:
    with Ledger(tmp_path, keep_versions=8) as ledger:
        for step in range(6):
            append(ledger, step)
        reading = read(tmp_path)
        assert next(reading).step == 0
        for step in range(6, 40):
            append(ledger, step)
        rest = [one.step for one in reading]
    # The segment at hand is read to its end, those that left are passed over, and the list is as it was.
    assert rest[:2] == [1, 2]
    assert set(rest) <= set(range(1, 6))
