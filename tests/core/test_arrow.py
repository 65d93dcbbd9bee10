from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.core import arrow
from gaincurate.core.artifact import IDENTITY, MANIFEST, Artifact
from gaincurate.core.files import digest_file, write_json
from gaincurate.core.scored_set import open_scores
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.difficulty.pass_rates import read_pass_rates
from gaincurate.difficulty.prompts import Completion
from gaincurate.difficulty.rollout_set import KIND, ROLLOUTS, RolloutSet, write_shard
from gaincurate.errors import GaincurateError, InputError, OutputError, SourceError
from gaincurate.scoring.readers.source import Cursor, open_source
from sets import make_set, scored_row

TEXTS = ["alpha", "be", "gamma"]
OFFSETS = struct.pack("<4i", 0, 5, 7, 12)
# Each keeps a reader that believes it inside the file's own mapping, so it is wrong without ending the process.
HOSTILE = {
    "beyond its buffer": (0, 5, 7, 60),
    "falling": (0, 5, 3, 12),
    "negative": (-4, 5, 7, 12),
    "beginning behind its end": (0, 40, 41, 42),
}


class RefusedError(InputError):
    """Only these tests raise it."""


refuse = RefusedError


def broken_offsets(data: bytes, offsets: tuple[int, ...]) -> bytes:
    """Arrow bytes that hold `TEXTS` once, with other offsets into them."""
    assert data.count(OFFSETS) == 1
    return data.replace(OFFSETS, struct.pack("<4i", *offsets))


def ipc(table: pa.Table, *, stream: bool = False) -> bytes:
    sink = pa.BufferOutputStream()
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_all(path: Path) -> pa.Table:
    """Every reader of the bytes of one file, as its first bytes say."""
    data = path.read_bytes()
    if data[:4] == b"PAR1":
        schema, _ = arrow.parquet_head(path, refuse)
        return pa.Table.from_batches(list(arrow.parquet_batches(path, refuse, rows=2)), schema)
    if data[:6] == b"ARROW1":
        return arrow.read_ipc(path, refuse)
    schema, batches = arrow.ipc_batches(path, refuse)
    return pa.Table.from_batches([arrow.validate(batch, path, refuse) for batch in batches], schema)


@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
@pytest.mark.parametrize("offsets", HOSTILE.values(), ids=HOSTILE)
def test_offsets_outside_a_buffer_are_refused(tmp_path: Path, offsets: tuple[int, ...], stream: bool) -> None:
    path, data = tmp_path / "x.arrow", ipc(pa.table({"text": TEXTS}), stream=stream)
    path.write_bytes(data)
    assert read_all(path).to_pydict() == {"text": TEXTS}
    path.write_bytes(broken_offsets(data, offsets))
    with pytest.raises(RefusedError):
        read_all(path)


def not_utf8() -> pa.Array:
    buffers = [None, pa.py_buffer(struct.pack("<2i", 0, 2)), pa.py_buffer(b"\xff\xfe")]
    return pa.Array.from_buffers(pa.string(), 1, buffers)


def test_text_that_is_no_utf8_is_refused_in_every_format(tmp_path: Path) -> None:
    table, path = pa.table({"text": not_utf8()}), tmp_path / "x"
    pq.write_table(table, tmp_path / "x.parquet")
    for data in (ipc(table), ipc(table, stream=True), (tmp_path / "x.parquet").read_bytes()):
        path.write_bytes(data)
        with pytest.raises(RefusedError, match="UTF8"):
            read_all(path)
    with pytest.raises(RefusedError, match="UTF8"):
        arrow.read_parquet(path, refuse)


def test_columns_that_arrow_itself_handles_badly_and_too_many_are_refused(tmp_path: Path) -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([1, 3], pa.int32()), pa.array(["x", None]))
    path = tmp_path / "x.arrow"
    union = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])
    views = pa.ListViewArray.from_arrays(pa.array([0, 0], pa.int32()), pa.array([1, 1], pa.int32()), [5])
    inside = pa.ExtensionArray.from_storage(pa.opaque(views.type, "a", "b"), views)
    for array, reason in (
        (pa.StructArray.from_arrays([runs], ["inner"]), "has the type run_end_encoded"),
        (pa.StructArray.from_arrays([union], ["inner"]), "has the type sparse_union"),
        (inside, "has the type list_view"),
        (pa.StructArray.from_arrays([[1], [2]], ["a", "a"]), r"two fields of one name \(a, a\)"),
        (pa.array([(1, 2, 3)], pa.month_day_nano_interval()), "has the type month_day_nano_interval"),
    ):
        path.write_bytes(ipc(pa.table({"c": array})))
        with pytest.raises(RefusedError, match=reason):
            read_all(path)
    path.write_bytes(ipc(pa.table({f"c{k}": [k] for k in range(4097)})))
    with pytest.raises(RefusedError, match="it has 4,097 columns, more than 4,096"):
        read_all(path)


def test_two_columns_of_one_name_in_parquet_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1], [2]], ["a", "a"]), tmp_path / "x.parquet")
    with pytest.raises(RefusedError, match="two columns named 'a'"):
        arrow.read_parquet(tmp_path / "x.parquet", refuse)


JSON_LINES = [
    ("[" * 100_000, "line 1 is broken (lists or objects stand more than 64 deep inside each other)"),
    ('{"a": 1}\n[\n[', "line 2 is broken"),
    ('{"a": 1}\n\n[1]', "line 3 is no JSON object"),
    ('{"a": 1}\n{"a": "x"}', "x"),
    ('{"a": "\\ud800"}', "a text in it holds half of a surrogate pair"),
    ('{"a": 100000000000000000000}', "it holds a whole number of more than 64 bits"),
    (json.dumps({f"c{k}": 1 for k in range(4097)}), "it has more than 4,096 columns"),
]


@pytest.mark.parametrize(("text", "why"), JSON_LINES)
def test_lines_of_json_that_are_no_table_are_refused(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(RefusedError, match=re.escape(why)):
        arrow.read_json_lines(path, refuse, ["a"])


@pytest.mark.parametrize("inside", [False, True])
def test_lists_of_a_negative_length_are_refused(inside: bool, tmp_path: Path) -> None:
    kind = pa.list_(pa.float16(), 77777)
    data = ipc(pa.schema({"a": pa.struct({"x": kind}) if inside else kind}).empty_table())
    length = (77777).to_bytes(4, "little")
    assert length in data
    path = tmp_path / "a.arrow"
    path.write_bytes(data.replace(length, (-77777).to_bytes(4, "little", signed=True)))
    for read in (arrow.open_ipc, arrow.ipc_batches):
        with pytest.raises(RefusedError, match="lists in it have a length below 0"):
            read(path, refuse)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (arrow.read_ipc, arrow.read_parquet, arrow.ipc_batches, arrow.parquet_head):
            with pytest.raises(RefusedError, match="no regular file"):
                read(path, refuse)


MIXED = pa.table(
    {
        "text": ["abc", "défg", None, "x" * 50],
        "list": pa.array([[1, 2], [], None, [3]]),
        "chat": pa.array([[{"role": "user", "content": "hi"}], [], None, [{"role": "a", "content": None}]]),
        "number": np.array([1, 2, 3, 4], np.float32),
        "coded": pa.array(["a", "b", "a", None]).dictionary_encode(),
        "flag": [True, None, False, True],
    }
)
_SINK = pa.BufferOutputStream()
pq.write_table(MIXED, _SINK)
WHOLE = {"file": ipc(MIXED), "stream": ipc(MIXED, stream=True), "parquet": _SINK.getvalue().to_pybytes()}


@given(
    kind=st.sampled_from(sorted(WHOLE)),
    place=st.integers(0, 1 << 20),
    written=st.sampled_from([-1, 0, 1, 5, 1000, 2**20, 2**31 - 1, -(2**31), 2**62]),
    width=st.sampled_from([1, 4, 8]),
)
def test_any_damage_does_no_harm(tmp_path: Path, kind: str, place: int, written: int, width: int) -> None:
    data, path = bytearray(WHOLE[kind]), tmp_path / "x"
    place %= len(data) - width
    data[place : place + width] = (written & (256**width - 1)).to_bytes(width, "little")
    path.write_bytes(data)
    try:
        table = read_all(path)
    except GaincurateError:
        return
    table.validate(full=True)
    if table.num_rows < 1000:
        assert len(table.to_pylist()) == table.num_rows


def test_a_data_file_cannot_bring_foreign_bytes_into_a_set(tmp_path: Path) -> None:
    path = tmp_path / "data.arrow"
    path.write_bytes(broken_offsets(ipc(pa.table({"prompt": TEXTS})), HOSTILE["beyond its buffer"]))
    with pytest.raises(SourceError, match=r"data\.arrow is no readable Arrow file"):
        Cursor(open_source(str(path))).read(0, 3)


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file of a set, and its hash and size in the manifest, as who made both could."""
    path.write_bytes(change(path.read_bytes()))
    manifest = json.loads((path.parent / MANIFEST).read_bytes())
    for entry in manifest["shards"]:
        if entry["file"] == path.name:
            entry |= {"hash": digest_file(path), "bytes": path.stat().st_size}
    write_json(path.parent / MANIFEST, manifest)


def texts_set(folder: Path) -> Path:
    return make_set(folder, [[scored_row("ids!"[:k] + "-", text) for k, text in enumerate(TEXTS)]])


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("offsets", HOSTILE.values(), ids=HOSTILE)
def test_a_scored_set_with_broken_offsets_is_refused_where_they_would_be_used(
    tmp_path: Path, offsets: tuple[int, ...], verify: bool
) -> None:
    folder = texts_set(tmp_path / "set")
    rewrite(folder / "shard-00000.arrow", lambda data: broken_offsets(data, offsets))
    uses: list[Callable[[Any], Any]] = [
        lambda scored: scored.take([0]),
        lambda scored: scored.rows(["-"]),
        lambda scored: scored.column("question"),
        lambda scored: list(scored.tables()),
    ]
    for use in uses:
        with pytest.raises(OutputError, match=r"shard-00000\.arrow is broken: .*score again"):
            use(open_scores(folder, verify=verify))
    # A column that is whole can be used alone: who needs the scores does not pay for the texts.
    assert open_scores(folder, verify=verify).column("gc_id").to_pylist() == ["-", "i-", "id-"]


@pytest.mark.parametrize("verify", [True, False])
def test_few_rows_of_many_are_validated_alone(tmp_path: Path, verify: bool) -> None:
    count = 200
    rows = [scored_row(f"id{k:03d}", f"question {k:03d}") for k in range(count)]
    folder = make_set(tmp_path / "set", [rows])
    offsets = np.arange(count + 1, dtype=np.int32) * len("question 000")
    wrong = offsets.copy()
    wrong[100] = offsets[-1] + 100

    def change(data: bytes) -> bytes:
        assert data.count(offsets.tobytes()) == 1
        return data.replace(offsets.tobytes(), wrong.tobytes())

    rewrite(folder / "shard-00000.arrow", change)
    for row in (99, 100):  # which end and begin there
        with pytest.raises(OutputError, match=r"shard-00000\.arrow is broken"):
            open_scores(folder, verify=verify).take([row])
        with pytest.raises(OutputError, match=r"shard-00000\.arrow is broken"):
            open_scores(folder, verify=verify).rows([f"id{row:03d}"])
    whole = open_scores(folder, verify=verify).take([101, 98])
    assert whole.column("question").to_pylist() == ["question 101", "question 098"]
    with pytest.raises(OutputError, match="is broken"):
        open_scores(folder, verify=verify).take(np.arange(101, 200))


def test_a_computed_column_with_broken_offsets_is_refused(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", [[scored_row(f"id{k}") for k in range(3)]])
    open_scores(folder).add_column("gc_note", ["id0", "id1", "id2"], pa.array(TEXTS), {})
    path = folder / "columns/gc_note.arrow"
    path.write_bytes(broken_offsets(path.read_bytes(), HOSTILE["beyond its buffer"]))
    described = path.with_suffix(".json")
    write_sealed(described, {**read_sealed(described), "hash": digest_file(path)})
    with pytest.raises(OutputError, match=r"gc_note\.arrow is broken: .*Delete that column's"):
        open_scores(folder).column("gc_note")


def rollouts(folder: Path, reward: float | None = 1.0) -> Path:
    folder.mkdir(parents=True)
    identity = {"format": 1, "kind": KIND}
    write_json(folder / IDENTITY, identity)
    judged = [(Completion("a", k, text, "stop", 2, 5), reward, None) for k, text in enumerate(TEXTS)]
    write_shard(folder, 0, identity, judged, [])
    Artifact(folder, ROLLOUTS).finish(identity, 1)
    return folder


def test_a_rollout_set_is_checked_as_a_scored_set_is(tmp_path: Path) -> None:
    folder = rollouts(tmp_path / "offsets")
    rewrite(folder / "shard-00000.arrow", lambda data: broken_offsets(data, HOSTILE["beyond its buffer"]))
    with pytest.raises(OutputError, match=r"shard-00000\.arrow is broken"):
        list(RolloutSet(folder).tables())
    assert [len(table) for table in RolloutSet(rollouts(tmp_path / "null", None)).tables()] == [3]


def test_pass_rates_are_of_a_whole_rollout_set(tmp_path: Path) -> None:
    folder = rollouts(tmp_path / "set")
    assert read_pass_rates(folder)[0].ids == ["a"]
    shard = folder / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes().replace(b"alpha", b"ALPHA"))
    with pytest.raises(OutputError, match="does not match the manifest"):
        read_pass_rates(folder)


def test_a_stream_with_another_one_after_it_is_refused_and_not_cut(tmp_path: Path) -> None:
    path, table = tmp_path / "x.arrow", pa.table({"a": [1, 2]})
    data = ipc(table, stream=True)
    path.write_bytes(data)
    assert read_all(path) == table
    path.write_bytes(data + data)
    with pytest.raises(RefusedError, match=f"{len(data)} bytes stand after the end of its stream"):
        read_all(path)
