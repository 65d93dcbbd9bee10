"""Kills scoring runs at random instants. Usage: kill_loop.py DATA MODEL FOLDER KILLS [SET]. Prints one JSON object."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas  # noqa: F401 (this and the others like it: what a run imports late is paid once)
import torch._dynamo  # noqa: F401
from transformers import AutoModel, LlamaModel, PreTrainedTokenizerFast  # noqa: F401

from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.pipeline import score_dataset
from kills import kill_folders


def main(data: str, model: str, folder: Path, kills: int, reuse: list[str]) -> dict[str, object]:
    """Compare every killed and finished set with an uninterrupted one; `reuse` as the option."""

    def config(out: Path) -> ScoreConfig:
        options = {"shard_rows": 10, "on_error": "skip", "threads": 1, "reuse": reuse}
        return ScoreConfig(**{"data": data, "model": model, "out": out, **options})  # type: ignore[arg-type]

    return kill_folders(score_dataset, config, folder, kills, left=lambda out: len(list(out.glob("shard-*"))))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])))
