from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from gaincurate.errors import SourceError
from gaincurate.scoring.readers.files import Reader
from gaincurate.scoring.readers.source import Cursor, Source, open_source


def table(source: Source) -> pa.Table:
    return pa.Table.from_batches(list(source.batches()), source.schema)


def lines(folder: Path, name: str, *prompts: str) -> Path:
    return tiny.write_jsonl(folder / name, [{"prompt": prompt} for prompt in prompts])


@dataclass(frozen=True)
class Counted:
    """A part of a source that counts how often and how far it is read."""

    part: Reader
    opened: list[int]
    given: list[int]

    @property
    def schema(self) -> pa.Schema:
        return self.part.schema

    @property
    def rows(self) -> int:
        return self.part.rows

    def batches(self, schema: pa.Schema, skip: int) -> Iterator[pa.RecordBatch]:
        self.opened.append(skip)
        for batch in self.part.batches(schema, skip):
            self.given.append(batch.num_rows)
            yield batch


def three_parts(folder: Path) -> Source:
    sizes = (1500, 1, 1300)
    rows = [[{"prompt": f"{part}-{i}"} for i in range(size)] for part, size in enumerate(sizes)]
    tiny.write_jsonl(folder / "0.jsonl", rows[0])
    (folder / "1.csv").write_text("prompt\n" + rows[1][0]["prompt"])
    pq.write_table(pa.Table.from_pylist(rows[2]), folder / "2.parquet", row_group_size=400)
    return open_source(str(folder / "*"))  # a folder of several formats is refused


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return three_parts(tmp_path_factory.mktemp("parts"))


@given(points=st.lists(st.integers(0, 2801), min_size=2, max_size=8))
def test_ascending_ranges_of_a_cursor_are_plain_slices_and_one_pass(
    source: Source, points: list[int]
) -> None:
    whole = table(source)
    assert whole.num_rows == 2801
    opened: list[int] = []
    counted: Any = tuple(Counted(reader, opened, []) for reader in source.readers)
    cursor = Cursor(Source(source.name, source.schema, source.rows, source.fingerprint, counted))
    ordered = sorted(points)
    for start, stop in zip(ordered[::2], ordered[1::2], strict=False):
        assert cursor.read(start, stop).equals(whole.slice(start, stop - start))
    assert len(opened) <= len(source.readers)


def test_a_cursor_that_is_sent_back_reads_again(source: Source) -> None:
    cursor, whole = Cursor(source), table(source)
    for start, stop in ((2000, 2100), (10, 20), (20, 1501), (0, 1)):
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
