"""Kills scoring runs at random instants. Usage: kill_loop.py DATA MODEL FOLDER KILLS. Prints one JSON object."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gaincurate.config import ScoreConfig
from gaincurate.scoring.pipeline import score_dataset
from kills import kill_at_random


def main(data: str, model: str, folder: Path, kills: int) -> dict[str, object]:
    """Compare every killed and finished set with an uninterrupted one."""

    def config(out: Path) -> ScoreConfig:
        return ScoreConfig(data=data, model=model, out=out, shard_rows=10, on_error="skip", threads=1)

    return kill_at_random(
        score_dataset, config, folder, kills, left=lambda out: len(list(out.glob("shard-*")))
    )


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
