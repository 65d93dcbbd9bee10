from __future__ import annotations

from pathlib import Path

import gaincurate
import tiny


def test_scores_a_file_end_to_end(tmp_path: Path, tiny_model: Path, rows_file: Path) -> None:
    out = tmp_path / "scored"
    summary = gaincurate.score(str(rows_file), str(tiny_model), out, shard_rows=16)
    assert summary.complete
    assert summary.rows == 40
    scored = gaincurate.open_scores(out)
    table = [row for part in scored.tables() for row in part.to_pylist()]
    assert [{k: row[k] for k in ("question", "answer", "level")} for row in table] == tiny.questions(40)
    assert len({row["gc_id"] for row in table}) == 40
    assert all(0 < row["gc_angle_intra"] <= 1.000001 for row in table)
