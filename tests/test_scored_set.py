from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

import gaincurate
import tiny
from gaincurate.errors import InputError, OutputError
from gaincurate.scored_set import ScoredSet


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("set")
    data = tiny.write_jsonl(folder / "rows.jsonl", tiny.questions(30))
    gaincurate.score(str(data), str(tiny_model), folder / "out", shard_rows=8)
    return folder / "out"


@pytest.fixture
def scored(made: Path, tmp_path: Path) -> ScoredSet:
    shutil.copytree(made, tmp_path / "copy")
    return gaincurate.open_scores(tmp_path / "copy")


def test_rows_come_back_by_id_in_the_order_asked_for(scored: ScoredSet) -> None:
    assert len(scored) == 30
    ids = scored.column("gc_id").to_pylist()
    every = [row for table in scored.tables() for row in table.to_pylist()]
    asked = [29, 0, 17, 8, 9]
    assert scored.rows([ids[i] for i in asked]).to_pylist() == [every[i] for i in asked]
    assert scored.row(ids[12]) == every[12]
    assert scored.rows([]).num_rows == 0


def test_an_unknown_id_or_column_is_named(scored: ScoredSet) -> None:
    ids = scored.column("gc_id").to_pylist()
    with pytest.raises(InputError, match=r"has no row with id 'x' \(and 1 more of those asked for\)"):
        scored.rows(["x", ids[0], "y"])
    with pytest.raises(InputError, match="has no column 'gc_nll'; it has question, answer"):
        scored.column("gc_nll")


def test_a_changed_or_missing_file_is_refused(scored: ScoredSet) -> None:
    path = scored.folder / "shard-00001.arrow"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OutputError, match=r"shard-00001.arrow does not match the manifest"):
        scored.verify()
    path.unlink()
    with pytest.raises(OutputError, match=r"shard-00001.arrow does not match the manifest"):
        gaincurate.open_scores(scored.folder)


def test_a_computed_column_is_joined_by_id_and_null_elsewhere(scored: ScoredSet) -> None:
    ids = scored.column("gc_id").to_pylist()
    scored.add_column("gc_difficulty", ids[5:9][::-1], pa.array([0.4, 0.3, 0.2, 0.1]), {"by": "test"})
    again = gaincurate.open_scores(scored.folder)
    assert again.column("gc_difficulty").to_pylist()[4:10] == [None, 0.1, 0.2, 0.3, 0.4, None]
    assert again.computed_columns()["gc_difficulty"]["how"] == {"by": "test"}
    assert again.row(ids[6])["gc_difficulty"] == 0.2


def test_a_computed_column_must_be_new_and_fit(scored: ScoredSet) -> None:
    ids = scored.column("gc_id").to_pylist()
    for name in ("difficulty", "gc_a/b"):
        with pytest.raises(InputError, match="the name must be gc_ and letters"):
            scored.add_column(name, ids[:1], pa.array([1.0]), {})
    with pytest.raises(InputError, match="immutable"):
        scored.add_column("gc_angle", ids[:1], pa.array([1.0]), {})
    with pytest.raises(InputError, match="one value for each id"):
        scored.add_column("gc_x", [ids[0], ids[0]], pa.array([1.0, 2.0]), {})
    with pytest.raises(InputError, match="no row with id"):
        scored.add_column("gc_x", ["nobody"], pa.array([1.0]), {})


def test_a_computed_column_of_another_set_is_refused(scored: ScoredSet) -> None:
    scored.add_column("gc_x", scored.column("gc_id").to_pylist()[:1], pa.array([1.0]), {})
    manifest = scored.folder / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(OutputError, match="made for another set"):
        gaincurate.open_scores(scored.folder).column("gc_x")
