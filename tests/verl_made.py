"""Runs and files for the tests with verl's real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import runs
from gaincurate.schedule.run import Run

GIVEN = ["+data.gaincurate.data_source=some/set", "+data.gaincurate.answer_column=question"]


def files(folder: Path, rows: int = 3, name: str = "val") -> Path:
    """A file in verl's columns."""
    path = folder / f"{name}.parquet"
    pq.write_table(
        pa.Table.from_pylist(
            [
                {
                    "prompt": [{"role": "user", "content": f"{name} {i}"}],
                    "data_source": "some/set",
                    "reward_model": {"style": "rule", "ground_truth": str(i)},
                    "extra_info": {"index": i},
                }
                for i in range(rows)
            ]
        ),
        path,
    )
    return path


def begin(folder: Path, **options: Any) -> Run:
    """A run of four rounds of eight prompts, and a file to validate with beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    files(folder)
    return runs.begin(folder, **{"rounds": 4, "budget": 8} | options)


def around(folder: Path) -> list[str]:
    """Overrides that a machine without a GPU needs, and where things are."""
    return [
        *GIVEN,
        f"data.val_files={folder}/val.parquet",
        f"trainer.default_local_dir={folder}/checkpoints",
        "trainer.logger=[console]",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "algorithm.adv_estimator=grpo",
        "critic.enable=False",
    ]
