"""Which options are part of a set's identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gaincurate.core.artifact import Json
from gaincurate.core.files import differing_keys
from gaincurate.core.progress import Progress
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.plan import make_plan


def identity(rows: Path, model: Path, out: Path, **options: Any) -> Json:
    config = ScoreConfig(data=str(rows), model=str(model), out=out, **{"threads": 1, **options})
    return make_plan(config, Progress()).identity


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"inter_weight": 0.5}, ["inter_weight"]),
        ({"layer": 0}, ["layer"]),
        ({"site": "final_norm"}, ["layer", "site"]),
        ({"signals": ["angle", "nll"]}, ["logits_memory", "signals"]),
        ({"dtype": "bfloat16"}, ["dtype"]),
        ({"threads": 2}, ["threads"]),
        ({"backend": "triton"}, ["backend", "versions.triton"]),
        ({"batch_tokens": 64}, ["batch_tokens"]),
        ({"shard_rows": 8}, ["shard_rows"]),
        ({"limit": 39}, ["source.rows"]),
        ({"prompt_column": "answer"}, ["source.prompt_column"]),
        ({"answer_column": "level"}, ["source.answer_column"]),
        ({"id_column": "question"}, ["source.id_column"]),
        ({"system": "Be brief."}, ["segmentation.rendering", "segmentation.system"]),
        ({"max_length": 50}, ["segmentation.max_length"]),
        ({"on_overlong": "truncate"}, ["segmentation.overlong"]),
        ({"on_error": "skip", "on_overlong": "skip"}, []),
        ({"workers": 2}, []),
    ],
    ids=str,
)
def test_an_option_changes_the_identity_where_it_can_change_a_value(
    tmp_path: Path, tiny_model: Path, rows_file: Path, options: dict[str, Any], keys: list[str]
) -> None:
    before = identity(rows_file, tiny_model, tmp_path / "out")
    after = identity(rows_file, tiny_model, tmp_path / "other", **options)
    assert [key for key, _, _ in differing_keys(before, after)] == keys
