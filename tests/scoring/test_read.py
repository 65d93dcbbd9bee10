from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from gaincurate.errors import SourceError, StorageError
from gaincurate.scoring.pipeline import score
from gaincurate.scoring.readers.files import Reader
from gaincurate.scoring.readers.source import Cursor, Source, open_source


def table(source: Source, start: int = 0) -> pa.Table:
    return pa.Table.from_batches(list(source.batches(start)), source.schema)


def texts(data: str | Path, split: str | None = None, limit: int | None = None) -> Any:
    return table(open_source(str(data), split=split, limit=limit)).column("prompt").to_pylist()


def lines(folder: Path, name: str, *prompts: str) -> Path:
    return tiny.write_jsonl(folder / name, [{"prompt": prompt} for prompt in prompts])


def test_a_glob_reads_its_files_by_name_and_passes_over_folders(tmp_path: Path) -> None:
    lines(tmp_path, "b.jsonl", "b1", "b2")
    lines(tmp_path, "a.jsonl", "a1")
    lines(tmp_path, "c.json", "c1")
    (tmp_path / "aa.jsonl").mkdir()
    (tmp_path / "deep/er").mkdir(parents=True)
    lines(tmp_path / "deep/er", "d.jsonl", "d1")
    assert texts(tmp_path / "*.jsonl") == ["a1", "b1", "b2"]
    assert texts(tmp_path / "[bc].json*") == ["b1", "b2", "c1"]
    assert texts(tmp_path / "**/*.jsonl") == ["a1", "b1", "b2", "d1"]
    with pytest.raises(SourceError, match="no file matches"):
        open_source(str(tmp_path / "x*.jsonl"))


def test_a_folder_with_splits_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no data")
    lines(tmp_path, "train-00001-of-00002.jsonl", "t2")
    lines(tmp_path, "train-00000-of-00002.jsonl", "t1")
    lines(tmp_path, "test.jsonl", "e1")
    assert texts(tmp_path, split="train") == ["t1", "t2"]
    assert texts(tmp_path, split="test") == ["e1"]


def test_what_cannot_be_data_says_why(tmp_path: Path) -> None:
    for name in ("none/", "splits/", "formats/"):
        (tmp_path / name).mkdir()
    for name in ("splits/train.jsonl", "splits/test.jsonl", "formats/train.jsonl"):
        lines(tmp_path, name, "one")
    pq.write_table(pa.table({"prompt": ["one"]}), tmp_path / "formats/train.parquet")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "a.parquet").write_bytes(b"")
    for name, split, sentence in [
        ("none", None, "holds no data file; the endings read are .json"),
        ("none.jsonl", None, "none.jsonl does not exist"),
        ("pipe.jsonl", None, "is no regular file, nor a link to one"),
        ("loop", None, "is no regular file, nor a link to one"),
        ("/dev/null", None, "is no regular file, nor a link to one"),
        ("a.parquet", None, "a.parquet is empty"),
        ("formats", None, r"several formats \(train.jsonl, train.parquet\), perhaps the same rows"),
        ("splits", None, r"holds several splits \(test.jsonl, train.jsonl\); choose one with --split"),
        ("splits", "dev", "has no file with the split 'dev' in its name: test.jsonl"),
        ("splits/test.jsonl", "test", "--split test chooses within a folder or data set"),
    ]:
        with pytest.raises(SourceError, match=sentence):
            open_source(str(tmp_path / name), split=split)
    with pytest.raises(StorageError, match="file name too long"):
        open_source("x" * 5000)


def test_files_of_one_source_share_a_schema_wide_enough_for_all(tmp_path: Path) -> None:
    x, y = {"role": "user", "content": "x"}, {"content": "y", "role": "user", "name": "n"}
    rows = [
        {"prompt": [x], "level": 1, "extra": {"a": 1}},
        {"prompt": [y], "level": 0.5, "extra": {"b": "z", "a": 2}},
        {"extra": None, "prompt": [], "only": "here"},
    ]
    for i, row in enumerate(rows):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{i}.parquet")
    found = table(open_source(str(tmp_path)))
    assert found.column_names == ["prompt", "level", "extra", "only"]
    assert found.to_pylist() == [
        {"prompt": [{**x, "name": None}], "level": 1.0, "extra": {"a": 1, "b": None}, "only": None},
        {"prompt": [y], "level": 0.5, "extra": {"a": 2, "b": "z"}, "only": None},
        {"prompt": [], "level": None, "extra": None, "only": "here"},
    ]


def test_a_column_that_a_file_lacks_may_be_null_whatever_the_others_say(tmp_path: Path) -> None:
    strict = pa.schema(
        [pa.field("prompt", pa.string(), nullable=False), pa.field("n", pa.int8(), nullable=False)]
    )
    pq.write_table(pa.table({"prompt": ["x"], "n": [1]}, schema=strict), tmp_path / "1.parquet")
    pq.write_table(pa.table({"prompt": ["y"]}, schema=pa.schema([strict.field(0)])), tmp_path / "2.parquet")
    source = open_source(str(tmp_path))
    assert source.schema.field("n").nullable
    assert not source.schema.field("prompt").nullable
    assert table(source).column("n").to_pylist() == [1, None]


def test_the_limit_takes_the_first_rows_across_files(tmp_path: Path) -> None:
    lines(tmp_path, "1.jsonl", "a", "b")
    lines(tmp_path, "2.jsonl", "c", "d")
    for limit in (1, 2, 3, 4, 9):
        source = open_source(str(tmp_path), limit=limit)
        assert source.rows == min(limit, 4)
        assert table(source).num_rows == source.rows
        assert table(source, source.rows - 1).num_rows == 1
    assert texts(tmp_path, limit=3) == ["a", "b", "c"]


def test_the_fingerprint_is_of_the_content_and_its_order_not_of_the_name(tmp_path: Path) -> None:
    def fingerprint(*contents: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for i, content in enumerate(contents):
            lines(folder, f"{i}{len(content)}.jsonl", content)
        return open_source(str(folder)).fingerprint

    first = fingerprint("a", "b")
    assert fingerprint("a", "b") == first
    assert len({first, fingerprint("b", "a"), fingerprint("a"), fingerprint("a", "c")}) == 4


def test_a_scored_set_is_a_source_with_its_ids(tmp_path: Path, tiny_model: Path, rows_file: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    score(str(rows_file), str(tiny_model), first, shard_rows=16, device="cpu")
    score(str(first), str(tiny_model), again, shard_rows=7, device="cpu", site="final_norm")
    before, after = (table(open_source(str(out))) for out in (first, again))
    source = ["question", "answer", "level", "gc_id"]
    assert after.select(source).equals(before.select(source))
    assert after.column_names == before.column_names
    assert after.column("gc_angle").to_pylist() != before.column("gc_angle").to_pylist()


def three_parts(folder: Path) -> Source:
    sizes = (1500, 1, 1300)
    rows = [[{"prompt": f"{part}-{i}"} for i in range(size)] for part, size in enumerate(sizes)]
    tiny.write_jsonl(folder / "0.jsonl", rows[0])
    table = pa.Table.from_pylist(rows[1])
    with pa.ipc.new_file(folder / "1.arrow", table.schema) as writer:
        writer.write_table(table)
    pq.write_table(pa.Table.from_pylist(rows[2]), folder / "2.parquet", row_group_size=400)
    return open_source(str(folder / "*"))  # a folder of several formats is refused


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return three_parts(tmp_path_factory.mktemp("parts"))


@given(points=st.lists(st.integers(0, 2801), min_size=2, max_size=8))
def test_ranges_of_a_cursor_are_slices_and_ascending_ones_one_pass(source: Source, points: list[int]) -> None:
    whole = table(source)
    assert whole.num_rows == 2801
    opened: list[int] = []

    def counted(reader: Reader) -> Reader:
        def raw(schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
            opened.append(skip)
            yield from reader.raw(schema, skip)

        return replace(reader, raw=raw)

    cursor = Cursor(replace(source, readers=tuple(map(counted, source.readers))))
    ordered = sorted(points)
    for start, stop in zip(ordered[::2], ordered[1::2], strict=False):
        assert cursor.read(start, stop).equals(whole.slice(start, stop - start))
    assert len(opened) <= len(source.readers)
    for start, stop in ((2000, 2100), (10, 20), (20, 1501), (0, 1)):  # sent back, it reads again
        assert cursor.read(start, stop).equals(whole.slice(start, stop - start))


def test_a_source_that_became_shorter_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path, "a.jsonl", *"abcdef")
    cursor = Cursor(open_source(str(path)))
    lines(tmp_path, "a.jsonl", *"abc")
    assert cursor.read(0, 2).num_rows == 2
    with pytest.raises(SourceError, match="ended at row 3 of 6: it changed while it was read"):
        cursor.read(4, 6)


def test_eight_times_the_rows_take_less_than_twice_the_memory(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.jsonl"
        with path.open("w") as file:
            for i in range(rows):
                file.write(
                    json.dumps({"prompt": "word " * 20 + str(i), "level": i, "tags": ["a"] * 5}) + "\n"
                )
        tracemalloc.start()
        try:
            source = open_source(str(path))
            cursor = Cursor(source)
            for start in range(0, rows, 500):
                assert cursor.read(start, start + 500).num_rows == 500
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2000)  # imports and caches
    assert peak(16_000) < peak(2000) * 2
