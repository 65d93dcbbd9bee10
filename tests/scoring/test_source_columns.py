from __future__ import annotations

import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny
from gaincurate.core.schema import PREFIX
from gaincurate.scoring.pipeline import score

ROWS = 7
PROMPTS = pa.array([f"how many apples {'are there ' * (i % 3)}{i}?" for i in range(ROWS)])


def spread(*values: Any) -> list[Any]:
    """The values and a null, again and again."""
    cycle = [*values, None]
    return [cycle[i % len(cycle)] for i in range(ROWS)]


LETTERS = pa.array(spread("a", "b")).dictionary_encode()
NESTED = pa.struct([("a", pa.int16()), ("b", pa.list_(pa.struct([("c", pa.string()), ("d", pa.bool_())])))])
NESTED_VALUES = spread({"a": 1, "b": [{"c": "x", "d": None}]}, {"a": None, "b": []}, {"a": 2, "b": None})

# What pyarrow, `datasets` and polars all read.
COMMON: dict[str, pa.Array] = {
    "dictionary": LETTERS,
    "dictionary_int8": LETTERS.cast(pa.dictionary(pa.int8(), pa.string())),
    "dictionary_inside": pa.StructArray.from_arrays([LETTERS], ["d"]),
    "timestamp_ns_utc": pa.array(spread(1, -5, 10**18), pa.timestamp("ns", "UTC")),
    "timestamp_us": pa.array(spread(1, -5), pa.timestamp("us")),
    "date": pa.array(spread(1, -5), pa.date32()),
    "time": pa.array(spread(1, 5), pa.time64("us")),
    "duration": pa.array(spread(1, -5), pa.duration("ms")),
    "decimal": pa.array(spread(Decimal("1.10"), Decimal("-3.00")), pa.decimal128(12, 2)),
    "nested": pa.array(NESTED_VALUES, NESTED),
    "lists": pa.array(spread([1], [], [2, None])),
    "lists_of_lists": pa.array(spread([[1], []], [], [None])),
    "large_string": pa.array(spread("a", ""), pa.large_string()),
    "large_list": pa.array(spread([1], []), pa.large_list(pa.int16())),
    "fixed_list": pa.array(spread([1, 2], [3, 4]), pa.list_(pa.float32(), 2)),
    "null": pa.nulls(ROWS),
    "list_of_null": pa.array(spread([], []), pa.list_(pa.null())),
    "binary": pa.array(spread(b"a", b"", b"\xff")),
    "bool": pa.array(spread(True, False)),
    "float16": pa.array(np.arange(ROWS, dtype=np.float16)),
    "uint64": pa.array(spread(2**64 - 1, 0), pa.uint64()),
    "int8": pa.array(spread(-128, 127), pa.int8()),
    "odd_floats": pa.array(spread(float("inf"), -0.0, 5e-324)),
    "text": pa.array(spread("", "\0", "é\U0001f600\r\n")),
    "prompt.with.dots": pa.array(spread(1, 2)),
}
PAIRS, INDEXES = (
    pa.array([[i, 1] for i in range(ROWS)], pa.list_(pa.int32(), 2)),
    pa.array(spread(0, 1), pa.int8()),
)
# What pyarrow reads and one of the two others does not.
RARE: dict[str, pa.Array] = {
    "nan": pa.array(spread(float("nan"), 1.0)),
    "uuid": pa.array([uuid.UUID(int=i).bytes for i in range(ROWS)], pa.uuid()),
    "json": pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(spread("{}", "[1]"))),
    "tensor": pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int32(), [2]), PAIRS),
    "map": pa.array(spread([("a", 1)], []), pa.map_(pa.string(), pa.int32())),
    "decimal256": pa.array(spread(Decimal("1.10")), pa.decimal256(50, 2)),
    "fixed_binary": pa.array(spread(b"ab", b"cd"), pa.binary(2)),
    "empty_struct": pa.array(spread({}), pa.struct([])),
    "ordered": pa.DictionaryArray.from_arrays(INDEXES, pa.array(["low", "high"]), ordered=True),
}


def source_table(columns: dict[str, pa.Array]) -> pa.Table:
    fields = [pa.field("prompt", pa.string(), nullable=False, metadata={b"of": b"prompt"})]
    fields += [pa.field(name, array.type) for name, array in columns.items()]
    return pa.table([PROMPTS, *columns.values()], schema=pa.schema(fields, metadata={b"kept": b"yes"}))


def write(table: pa.Table, folder: Path, kind: str) -> Path:
    if kind == "parquet":
        pq.write_table(table, folder / "source.parquet", row_group_size=4)
        return folder / "source.parquet"
    new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    # One dictionary for all batches: the file format has no other.
    with new(folder / "source.arrow", table.schema) as writer:
        writer.write_table(table.unify_dictionaries(), max_chunksize=4)
    return folder / "source.arrow"


def through_ipc(table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.unify_dictionaries())
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def shards(path: Path, out: Path, model: Path) -> list[Path]:
    score(str(path), str(model), out, shard_rows=3, device="cpu", threads=1)
    return sorted(out.glob("shard-*.arrow"))


def opened(paths: list[Path]) -> pa.Table:
    tables = [pa.ipc.open_file(str(path)).read_all() for path in paths]
    kept = {k: v for k, v in (tables[0].schema.metadata or {}).items() if k != b"gaincurate"}
    return pa.concat_tables(t.replace_schema_metadata(kept) for t in tables)


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    names = [name for name in found.column_names if not name.startswith(PREFIX)]
    assert names == expected.column_names
    for name in names:
        assert found.schema.field(name).equals(expected.schema.field(name), check_metadata=True), name
        # Through text, because NaN is not equal to itself.
        assert repr(found.column(name).to_pylist()) == repr(expected.column(name).to_pylist()), name
    found.validate(full=True)


@pytest.mark.parametrize("kind", ["file", "stream", "parquet"])
def test_every_source_column_is_in_the_shards_as_it_was(kind: str, tmp_path: Path, tiny_model: Path) -> None:
    columns = COMMON | RARE
    if kind == "parquet":  # has no type for it
        columns = {k: v for k, v in columns.items() if k != "empty_struct"}
    path = write(source_table(columns), tmp_path, kind)
    # What Parquet's own reader says is the source, after a way through IPC, which names no field of a map.
    expected = through_ipc(pq.read_table(path)) if kind == "parquet" else source_table(columns)
    found = opened(shards(path, tmp_path / "out", tiny_model))
    assert_same(found, expected)
    assert found.schema.metadata == expected.schema.metadata
    assert found.num_rows == ROWS


def test_shards_open_in_polars_with_the_source_columns(tmp_path: Path, tiny_model: Path) -> None:
    path = write(source_table(COMMON), tmp_path, "file")
    files = shards(path, tmp_path / "out", tiny_model)
    frame = polars.concat([polars.read_ipc(file) for file in files], how="vertical_relaxed")
    # Polars' own reading of the source is the oracle: it has no type for some of these.
    source = polars.read_ipc(path)
    for name in source.columns:
        assert frame[name].cast(source[name].dtype).to_list() == source[name].to_list(), name
        assert frame[name].dtype == source[name].dtype or "Categorical" in str(source[name].dtype)
    assert frame["gc_angle"].dtype == polars.Float32
    assert frame["gc_angle"].null_count() == 0


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_class_labels_and_other_features_outlive_scoring(kind: str, tmp_path: Path, tiny_model: Path) -> None:
    datasets.disable_progress_bars()
    text, vector = datasets.Value("string"), datasets.List(datasets.Value("float32"), length=2)
    kinds = {"kind": datasets.ClassLabel(names=["easy", "hard"]), "vector": vector}
    features = datasets.Features({"prompt": datasets.List({"role": text, "content": text}), **kinds})
    rows = [
        {"prompt": [{"role": "user", "content": text}], "kind": i % 2, "vector": [i, 0.5]}
        for i, text in enumerate(PROMPTS.to_pylist())
    ]
    made = datasets.Dataset.from_list(rows, features=features)
    path = tmp_path / ("source" if kind == "saved" else "source.parquet")
    (made.save_to_disk if kind == "saved" else made.to_parquet)(path)
    files = [str(p) for p in shards(path, tmp_path / "out", tiny_model)]
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset("arrow", data_files=files, split="train", cache_dir=cache)
    assert {name: loaded.features[name] for name in features} == dict(features)
    assert loaded.select_columns(list(features)).to_list() == rows


def test_a_file_of_polars_with_its_views_goes_through(tmp_path: Path, tiny_model: Path) -> None:
    columns = {
        "prompt": [[{"role": "user", "content": text}] for text in PROMPTS.to_pylist()],
        "note": spread("", "a text that is too long to lie in the view itself"),
        "raw": spread(b"", b"bytes that are too long to lie in the view itself"),
        "tags": spread(["x", None], []),
        "kind": polars.Series(spread("easy", "hard"), dtype=polars.Enum(["easy", "hard"])),
    }
    frame = polars.DataFrame(columns)
    frame.write_ipc(tmp_path / "a.arrow")
    expected = pa.ipc.open_file(tmp_path / "a.arrow").read_all()
    assert expected.schema.field("note").type == pa.string_view()
    files = shards(tmp_path / "a.arrow", tmp_path / "out", tiny_model)
    assert_same(opened(files), expected)
    assert polars.concat(map(polars.read_ipc, files)).select(frame.columns).equals(frame)
    shards(tmp_path / "a.arrow", tmp_path / "again", tiny_model)
    for file in files:
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_score_columns_of_a_source_are_replaced_and_its_id_is_kept(tmp_path: Path, tiny_model: Path) -> None:
    rows = [
        {"gc_id": f"own-{i}", "gc_angle": "old", "question": text, "gc_mine": i, "level": i}
        for i, text in enumerate(PROMPTS.to_pylist())
    ]
    path = tiny.write_jsonl(tmp_path / "a.jsonl", rows)
    table = opened(shards(path, tmp_path / "out", tiny_model))
    assert table.column("gc_id").to_pylist() == [f"own-{i}" for i in range(ROWS)]
    assert table.schema.field("gc_angle").type == pa.float32()
    assert table.column_names[:2] == ["question", "level"]
    assert "gc_mine" not in table.column_names
    assert len(table.column_names) == len(set(table.column_names))
