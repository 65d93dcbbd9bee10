"""What `score --dry-run` says, against the run itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from command import run
from gaincurate.core.locks import Split
from gaincurate.core.progress import Progress
from gaincurate.core.scored_set import open_scores
from gaincurate.errors import GaincurateError, InputError, OutputError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.pipeline import estimate, score_dataset


def config(folder: Path, model: Path, **changes: Any) -> ScoreConfig:
    data = folder / "rows.jsonl"
    if not data.exists():
        tiny.write_jsonl(data, tiny.questions(20))
    given: dict[str, Any] = {"data": str(data), "model": str(model), "out": folder / "out", "threads": 1}
    return ScoreConfig(**given | {"shard_rows": 4} | changes)


def test_rows_tokens_and_shards_are_those_of_the_run(tmp_path: Path, tiny_model: Path) -> None:
    asked = config(tmp_path, tiny_model)
    before = estimate(asked, Progress())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]
    half = asked.model_copy(update={"split_run": Split(1, 2)})
    score_dataset(half)
    left = estimate(asked, Progress())
    assert estimate(half, Progress())["rows_left"] == 0
    score_dataset(asked)
    lengths = open_scores(tmp_path / "out").column("gc_prompt_tokens").to_pylist()
    assert (before["rows_left"], before["shards"], before["there"]) == (20, 5, 0)
    assert (before["tokens"], before["longest"]) == (sum(lengths), max(lengths))
    # Shards 0, 2 and 4 were the first half's.
    assert (left["rows_left"], left["there"], left["tokens"]) == (8, 3, sum(lengths[4:8] + lengths[12:16]))
    done = estimate(asked, Progress())
    assert (done["rows_left"], done["there"], done["tokens"]) == (0, 5, 0)


def test_what_the_run_would_refuse_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    score_dataset(config(tmp_path, tiny_model, limit=4))
    with pytest.raises(OutputError, match="^16 rows more: "):
        estimate(config(tmp_path, tiny_model), Progress())
    assert estimate(config(tmp_path, tiny_model, overwrite=True), Progress())["rows_left"] == 20
    with pytest.raises(GaincurateError, match="ids must be unique"):
        estimate(config(tmp_path, tiny_model, out=tmp_path / "new", id_column="level"), Progress())
    for changes in ({"engine": "ray"}, {"reuse": str(tmp_path / "out")}):
        with pytest.raises(InputError, match="leave --engine ray and --reuse out"):
            estimate(config(tmp_path, tiny_model, **changes), Progress())


def test_the_command_prints_it_and_a_row_that_cannot_be_scored(tmp_path: Path, tiny_model: Path) -> None:
    rows = [*tiny.questions(3), {"question": " ", "answer": "1", "level": 0}]
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    words = ("score", data, "-m", tiny_model, "-o", tmp_path / "out")
    shown = run(*words, "--dry-run")
    assert shown.exit_code == 0
    assert "4 rows of 4 to score with " in shown.stdout
    assert "1 of these rows cannot be scored: row 3 (from 0): " in shown.stdout
    assert json.loads(run(*words, "--dry-run", "--json").stdout)["rows_left"] == 4
    assert not (tmp_path / "out").exists()
