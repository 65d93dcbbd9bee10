from __future__ import annotations

import hashlib
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tiny
from gaincurate.core.prompts import Columns
from gaincurate.core.source_columns import find_columns
from gaincurate.errors import SourceError
from gaincurate.scoring.ids import RECORD, digest, ids_of, write_ids
from gaincurate.scoring.readers.source import Source, open_source

# An independent writer of the JSON that the rule names: no json.dumps, so that its options are tested too.
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return '"' + "".join(_ESCAPES.get(c, f"\\u{ord(c):04x}" if c < " " else c) for c in value) + '"'
    if isinstance(value, dict):
        return "{" + ",".join(f"{written(k)}:{written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return repr(value)


def in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    return [in_order(v) for v in value] if isinstance(value, list) else value


def rule(messages: list[dict[str, Any]], answer: Any) -> str:
    chat = [{"role": m["role"], "content": m["content"]} for m in messages]
    text = f"[{written(chat)},{written(in_order(answer))}]"
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
answers = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
message = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": text})


@given(st.lists(message, min_size=1, max_size=4), text.filter(lambda t: bool(t.strip())), answers)
@example([{"role": "user", "content": "é\n"}], "é\n", {"b": True, "a": [1, 2.5]})
def test_a_digest_is_the_written_rule(messages: list[dict[str, Any]], prompt: str, answer: Any) -> None:
    assert digest(messages, Columns("prompt"), answer).hex() == rule(messages, answer)
    assert digest(prompt, Columns("prompt"), answer).hex() == rule(user(prompt), answer)


@pytest.mark.parametrize("value", [None, "", " ", [], [None], [{"role": None, "content": "x"}]])
def test_a_row_without_a_prompt_has_an_id_too(value: Any) -> None:
    assert digest(value, Columns("prompt"), "1") != digest(value, Columns("prompt"), "2")


def ids(source: Source, folder: Path, chunk: int | None = None, **asked: str) -> list[str]:
    columns = find_columns(source.schema, **asked)
    write_ids(folder / "ids.bin", source.batches(), columns)
    table = pa.Table.from_batches(list(source.batches()), source.schema)
    found, step = list[str](), chunk or source.rows
    for start in range(0, source.rows, step):
        part = table.slice(start, step)
        records = np.fromfile(folder / "ids.bin", RECORD)[start : start + part.num_rows]
        found += ids_of(part, columns, start, records)
    return found


def source_of(folder: Path, rows: list[dict[str, Any]]) -> Source:
    return open_source(str(tiny.write_jsonl(folder / "rows.jsonl", rows)))


def test_equal_rows_are_numbered_in_file_order_whatever_the_batches(tmp_path: Path) -> None:
    random.seed(1)
    rows = [{"prompt": f"q{random.randrange(900)}", "answer": str(i % 2)} for i in range(3000)]
    seen: dict[str, int] = {}
    expected = []
    for row in rows:
        name = rule(user(row["prompt"]), row["answer"])
        copy = seen[name] = seen.get(name, -1) + 1
        expected.append(f"{name}-{copy}" if copy else name)
    assert max(seen.values()) > 2
    source = source_of(tmp_path, rows)
    assert ids(source, tmp_path) == expected
    assert ids(source, tmp_path, chunk=257) == expected
    assert len(set(expected)) == 3000


def test_the_same_rows_have_the_same_ids_in_every_format(tmp_path: Path) -> None:
    rows = [{"prompt": f'q {i} "é"\n, end', "answer": f"answer {i}", "level": i} for i in range(20)]
    table = pa.Table.from_pylist(rows)
    (tmp_path / "f").mkdir()
    tiny.write_jsonl(tmp_path / "f/a.jsonl", rows)
    pq.write_table(table, tmp_path / "f/a.parquet", row_group_size=6)
    with pa.ipc.new_stream(tmp_path / "f/a.arrow", table.schema) as writer:
        writer.write_table(table)
    kinds = {
        "prompt": pa.dictionary(pa.int32(), pa.string()),
        "answer": pa.large_string(),
        "level": pa.int8(),
    }
    pq.write_table(table.cast(pa.schema(kinds)), tmp_path / "f/b.parquet")
    chat = [{**row, "prompt": user(str(row["prompt"]))} for row in rows]
    tiny.write_jsonl(tmp_path / "f/b.jsonl", chat)
    expected = [rule(user(str(row["prompt"])), row["answer"]) for row in rows]
    for path in sorted((tmp_path / "f").iterdir()):
        assert ids(open_source(str(path)), tmp_path) == expected, path.name


@pytest.mark.parametrize("name", ["key", "number", "deep.uid"])
def test_an_id_column_gives_its_values(name: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": "same", "key": k, "number": n, "deep": {"uid": k}}
        for k, n in zip("baé", (30, 1, 2), strict=True)
    ]
    expected = ["30", "1", "2"] if name == "number" else ["b", "a", "é"]
    assert ids(source_of(tmp_path, rows), tmp_path, id_column=name) == expected


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["a", None, "b"], "id column 'key' is null in row 1"),
        (["a", "b", ""], "id column 'key' is empty in row 2"),
        (["a", "b", "a"], "id column 'key' has the same value in rows 0 and 2"),
        ([7, 8, 7], "id column 'key' has the same value in rows 0 and 2"),
    ],
)
def test_a_bad_id_column_leaves_nothing(values: list[Any], reason: str, tmp_path: Path) -> None:
    source = source_of(tmp_path, [{"prompt": "same", "key": value} for value in values])
    with pytest.raises(SourceError, match=reason):
        ids(source, tmp_path, id_column="key")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_row_that_changed_since_its_id_was_made_is_named(tmp_path: Path) -> None:
    rows = tiny.questions(8)
    source = source_of(tmp_path, rows)
    columns = find_columns(source.schema)
    write_ids(tmp_path / "ids.bin", source.batches(), columns)
    rows[5]["question"] = "another"
    changed = pa.Table.from_pylist(rows)
    records = np.fromfile(tmp_path / "ids.bin", RECORD)
    assert len(ids_of(changed.slice(0, 5), columns, 0, records[:5])) == 5
    with pytest.raises(SourceError, match=r"row 5 \(from 0\) is not what it was when the ids were made"):
        ids_of(changed.slice(4), columns, 4, records[4:])


def test_ids_of_batches_do_not_hold_the_source_in_memory(tmp_path: Path) -> None:
    # Endless batches: whoever gathered them first would never return; the fourth failing shows they stream.
    source = source_of(tmp_path, tiny.questions(4))
    seen = itertools.count()

    def endless() -> Any:
        for batch in itertools.cycle(list(source.batches())):
            if next(seen) == 100:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        write_ids(tmp_path / "ids.bin", endless(), find_columns(source.schema))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
