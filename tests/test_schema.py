from __future__ import annotations

import json
from dataclasses import fields

import datasets
import pyarrow as pa

from gaincurate.core.schema import SCORE_FIELDS, Score, scored_schema, scored_table, source_fields

NAMES = [field.name for field in SCORE_FIELDS]
RESERVED = {
    "prompt", "messages", "completion", "label", "reward", "rewards", "advantages", "uid", "index", "data_source",
}  # fmt: skip


def test_the_score_columns_are_the_contract() -> None:
    counts = ["gc_prompt_tokens", "gc_prefix_tokens", "gc_question_tokens"]
    angles = ["gc_angle", "gc_angle_intra", "gc_angle_inter", "gc_angle_intra_offdiag"]
    expected = {"gc_id": "string", **dict.fromkeys(counts, "int32"), **dict.fromkeys(angles, "float")}
    assert {field.name: str(field.type) for field in SCORE_FIELDS} == expected
    assert all(field.nullable for field in SCORE_FIELDS)
    assert not RESERVED & set(NAMES)


def test_source_columns_come_first_with_their_own_metadata_and_nullability() -> None:
    first = pa.field("b", pa.list_(pa.int8()), nullable=False)
    source = pa.schema(
        [first, pa.field("a", pa.string(), metadata={b"k": b"v"})], metadata={b"pandas": b"{}"}
    )
    found = scored_schema(source)
    assert found.names == ["b", "a", *NAMES]
    assert found.metadata == {b"pandas": b"{}"}
    for name in source.names:
        assert found.field(name).equals(source.field(name), check_metadata=True)
    assert scored_schema(source.remove_metadata()).metadata is None


def test_score_columns_of_the_source_are_replaced_and_lookalikes_kept() -> None:
    source = pa.schema([(name, pa.string()) for name in ("gc_angle", "x", "gc_old", "gcx", "gc_id")])
    assert [field.name for field in source_fields(source)] == ["x", "gcx"]
    assert scored_schema(source).names == ["x", "gcx", *NAMES]
    assert scored_schema(scored_schema(source)).equals(scored_schema(source))


def test_features_name_every_column_and_keep_what_a_type_alone_cannot_say() -> None:
    kinds = {"prompt": datasets.Value("string"), "kind": datasets.ClassLabel(names=["easy", "hard"])}
    found = scored_schema(datasets.Features({**kinds, "gc_old": datasets.Value("int64")}).arrow_schema)
    read = datasets.Features.from_arrow_schema(found)
    assert list(read) == found.names
    assert read["kind"] == datasets.ClassLabel(names=["easy", "hard"])
    assert read.arrow_schema.types == found.types
    listed = json.loads(found.metadata[b"huggingface"])["info"]["features"]
    assert list(listed) == found.names
    assert datasets.Features.from_dict(listed) == read


def test_rows_with_a_score_get_its_columns_with_null_for_none() -> None:
    values = [("a", 9, 0, 1, 1.0, 1.0, None, None), ("b", 30, 4, 20, 0.75, 0.5, 0.25, -0.125)]
    names = [field.name for field in fields(Score)]
    scores = [Score(**dict(zip(names, row[1:], strict=False))) for row in values]  # type: ignore[arg-type]
    source = pa.table({"x": pa.array(["no", "one", "two"], pa.string_view()), "gc_old": [0, 1, 2]})
    table = scored_table(source, ["none", "a", "b"], dict(enumerate(scores, 1)))
    assert table.column("x").to_pylist() == ["one", "two"]
    assert table.drop_columns(["x"]).to_pylist() == [dict(zip(NAMES, row, strict=True)) for row in values]
    assert scored_table(source, ["none", "a", "b"], {}).schema == table.schema
