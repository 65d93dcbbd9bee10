from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import polars
import pyarrow as pa
import pytest
from hypothesis import given

from gaincurate.core.scored_set import ScoredSet, open_scores
from gaincurate.errors import InputError, OutputError
from sets import make_set, scored_row

ROWS = [scored_row(f"id-{i}", f"question {i}", angle=i / 100) for i in range(40)]
BY_ID = {row["gc_id"]: row for row in ROWS}


SHARDS = [ROWS[:16], [], ROWS[16:32], ROWS[32:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_set(tmp_path / "set", SHARDS)


def ours(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the float32 that is stored."""
    return [{**row, **{k: pytest.approx(row[k]) for k in ("gc_angle", "gc_angle_intra")}} for row in rows]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> ScoredSet:
    return open_scores(make_set(tmp_path_factory.mktemp("set"), SHARDS))


@given(st.lists(st.sampled_from(sorted(BY_ID)), max_size=60))
def test_rows_come_in_the_order_asked_for_and_as_often(opened: ScoredSet, ids: list[str]) -> None:
    assert opened.rows(ids).to_pylist() == ours([BY_ID[name] for name in ids])


def test_columns_and_tables_hold_all_rows_in_source_order(folder: Path) -> None:
    scored = open_scores(folder)
    assert len(scored) == 40
    assert scored.column("gc_id").to_pylist() == [row["gc_id"] for row in ROWS]
    assert scored.columns == scored.schema.names
    tables = list(scored.tables(["question", "gc_id"]))
    assert [table.num_rows for table in tables] == [16, 0, 16, 8]
    assert tables[0].column_names == ["question", "gc_id"]
    assert scored.row("id-17") == ours([ROWS[17]])[0]


def test_an_unknown_id_or_column_is_named(folder: Path) -> None:
    scored = open_scores(folder)
    with pytest.raises(
        InputError, match=r"no row with id 'nix' \(and 1 more of those asked for\)\."
    ) as error:
        scored.rows(["id-3", "nix", "id-4", "nox"])
    assert error.value.data["ids"] == ["nix", "nox"]
    with pytest.raises(InputError, match=r"has no row with id 'nix'\.$"):
        scored.row("nix")
    with pytest.raises(InputError, match=r"has no column 'gc_angel'; it has question, gc_id, gc_prompt_tok"):
        scored.column("gc_angel")


def test_rows_are_found_without_opening_the_shards_behind_them(folder: Path) -> None:
    damage(folder / "shard-00003.arrow")
    scored = open_scores(folder)
    assert scored.rows(["id-30", "id-2"]).num_rows == 2
    with pytest.raises(OutputError, match=r"shard-00003\.arrow does not match the manifest"):
        scored.row("id-39")


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_changed_shard_is_found_when_it_is_opened_or_at_once(folder: Path) -> None:
    damage(folder / "shard-00002.arrow")
    with pytest.raises(OutputError, match="missing, cut short or changed"):
        open_scores(folder).verify()
    with pytest.raises(OutputError, match="missing, cut short or changed"):
        open_scores(folder).column("gc_angle")
    assert len(open_scores(folder, verify=False).column("gc_angle")) == 40


@pytest.mark.parametrize("harm", ["missing", "short"])
def test_a_missing_or_short_shard_is_found_on_opening(folder: Path, harm: str) -> None:
    path = folder / "shard-00003.arrow"
    data = path.read_bytes()
    path.unlink()
    if harm == "short":
        path.write_bytes(data[:-1])
    with pytest.raises(OutputError, match=r"shard-00003\.arrow does not match the manifest"):
        open_scores(folder)


def test_a_computed_column_is_joined_by_id_and_null_elsewhere(folder: Path) -> None:
    scored = open_scores(folder)
    scored.add_column("gc_difficulty", ["id-33", "id-0"], pa.array([0.25, 0.75]), {"by": "a test"})
    scored.add_column("gc_note", ["id-1"], pa.array(["x"]), {})
    expected = [0.75, *[None] * 32, 0.25, *[None] * 6]
    for again in (scored, open_scores(folder)):
        assert again.column("gc_difficulty").to_pylist() == expected
        assert again.schema.names[-2:] == ["gc_difficulty", "gc_note"]
        assert again.row("id-1")["gc_note"] == "x"
        assert again.computed_columns()["gc_difficulty"]["how"] == {"by": "a test"}
        assert again.computed_columns()["gc_difficulty"]["manifest"] == scored.manifest_hash


def test_a_computed_column_can_be_made_again_and_can_be_empty(folder: Path) -> None:
    scored = open_scores(folder)
    scored.add_column("gc_x", ["id-1"], pa.array([1]), {})
    scored.add_column("gc_x", ["id-2"], pa.array([2]), {})
    assert scored.column("gc_x").to_pylist() == [None, None, 2, *[None] * 37]
    scored.add_column("gc_x", [], pa.array([], pa.int64()), {})
    assert scored.column("gc_x").null_count == 40


@pytest.mark.parametrize(
    ("name", "ids", "reason"),
    [
        ("difficulty", ["id-1"], "the name must be gc_ and letters, digits or underscores"),
        ("gc_../x", ["id-1"], "the name must be gc_"),
        ("gc_angle", ["id-1"], "part of the shards, which are immutable"),
        ("gc_x", ["id-1", "id-2"], "one value for each id"),
        ("gc_x", ["id-1", "id-1"], "each id once"),
        ("gc_x", ["nix"], "has no row with id 'nix'"),
    ],
)
def test_a_bad_computed_column_is_refused_and_not_written(
    folder: Path, name: str, ids: list[str], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        open_scores(folder).add_column(name, ids, pa.array([1.0] * max(1, ids.count("id-1"))), {})
    assert not (folder / "columns").exists()


def test_a_column_of_another_set_is_refused(folder: Path, tmp_path: Path) -> None:
    open_scores(folder).add_column("gc_x", ["id-1"], pa.array([1.0]), {})
    other = make_set(tmp_path / "other", [ROWS[:16]])
    (folder / "columns").rename(other / "columns")
    with pytest.raises(OutputError, match="was made for another set"):
        open_scores(other).column("gc_x")


def test_a_computed_column_without_description_is_not_read(folder: Path) -> None:
    scored = open_scores(folder)
    scored.add_column("gc_x", ["id-1"], pa.array([1.0]), {})
    (folder / "columns/gc_x.json").unlink()  # killed between the two writes
    assert "gc_x" not in open_scores(folder).schema.names


@pytest.mark.parametrize("harm", ["values", "gone", "description", "older description"])
def test_a_damaged_computed_column_is_refused(folder: Path, harm: str) -> None:
    scored = open_scores(folder)
    scored.add_column("gc_x", ["id-1"], pa.array([1.0]), {})
    values, description = folder / "columns/gc_x.arrow", folder / "columns/gc_x.json"
    before = description.read_bytes()
    if harm == "values":
        damage(values)
    elif harm == "gone":
        values.unlink()
    elif harm == "description":
        description.write_text("{")
    else:
        scored.add_column("gc_x", ["id-1"], pa.array([2.0]), {})
        description.write_bytes(before)
    with pytest.raises(OutputError, match=r"gc_x\.(arrow|json) is .*damaged( \(.*\))?; delete that column's"):
        _ = open_scores(folder).schema


def test_a_rollout_set_is_not_taken_for_a_scored_one(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"format": 1, "kind": "rollouts", "prompts": 3, "shards": []}))
    with pytest.raises(
        OutputError, match=f"^{folder} is no scored set: it holds rollouts; give another folder"
    ):
        open_scores(folder)


def test_what_is_no_finished_set_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"is no scored set: it has no manifest\.json"):
        open_scores(tmp_path)
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text[: len(text) // 2])
    with pytest.raises(OutputError, match="is damaged. Delete that file and run the same"):
        open_scores(folder)
    manifest.write_text(json.dumps({**json.loads(text), "format": 2}))
    with pytest.raises(OutputError, match="has format 2, this version reads 1"):
        open_scores(folder)
    manifest.unlink()
    with pytest.raises(OutputError, match="is not finished"):
        open_scores(folder)


def computed(folder: Path) -> list[dict[str, Any]]:
    """The rows that readers see, with a computed column that odd ones lack."""
    scored = open_scores(folder)
    scored.add_column("gc_half", [row["gc_id"] for row in ROWS[::2]], pa.array(range(20)), {})
    return [{**row, "gc_half": None if place % 2 else place // 2} for place, row in enumerate(ours(ROWS))]


def test_tables_of_other_libraries_have_all_rows_and_the_computed_columns(folder: Path) -> None:
    expected = computed(folder)
    scored = open_scores(folder)
    assert polars.DataFrame(scored).to_dicts() == expected  # by the Arrow stream
    assert pa.table(scored).to_pylist() == expected
    assert pa.table(scored).schema == scored.schema
    assert scored.to_table(["gc_half"]).column_names == ["gc_half"]


def test_rows_are_walked_through_and_taken_by_place(folder: Path) -> None:
    expected = computed(folder)
    scored = open_scores(folder)
    assert list(scored) == expected
    assert [scored[0], scored[17], scored[-1]] == [expected[0], expected[17], expected[39]]
    for place in (40, -41):
        with pytest.raises(IndexError, match=f"has 40 rows; there is no row {place}"):
            scored[place]
        with pytest.raises(InputError, match=f"has 40 rows; there is no row {place}"):
            scored.take([3, place])


@pytest.mark.parametrize("name", ["../set/shard-00000.arrow", "shard-00001.arrow"])
def test_a_manifest_names_files_of_its_folder_each_once(folder: Path, name: str) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["shards"][0]["file"] = name
    path.write_text(json.dumps(manifest))
    with pytest.raises(OutputError, match=r"manifest\.json is damaged"):
        open_scores(folder)
