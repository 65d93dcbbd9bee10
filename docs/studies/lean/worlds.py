"""Makes the world in which most prompts teach nothing, out of the study's.

Usage: python docs/studies/lean/worlds.py STUDY FOLDER.
STUDY is what docs/studies/head_to_head/study.py made, with `--world` or without. The new world has its model,
its held-out prompts and its training prompts, and besides them harder ones of the same generators that the
model cannot answer: sums and products of large numbers, long words. They are real tasks with true answers. Of
a uniform step's groups a quarter differ in reward, as with small models on real sets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "head_to_head"))

from prompts import FILES, Task, distinct

from gaincurate.core.files import json_lines, write_lines

SEED = 3
READ = ("train", "heldout")
HARD = [
    Task("chain_sum", 9, 320, 0, {"min_terms": 4, "max_terms": 6, "min_digits": 3, "max_digits": 4}),
    Task("products", 9, 320, 0, {"min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 4}),
    Task("spell_backward", 9, 480, 0, {"min_word_len": 9, "max_word_len": 14}),
    Task("simple_equations", 9, 280, 0, {"min_terms": 3, "max_terms": 4, "min_value": 100, "max_value": 999}),
]


def main(study: Path, folder: Path) -> None:
    """Write the prompts, link what is the same, score the training set."""
    read = {name: [row for _, row in json_lines(study / "prompts" / FILES[name]) if row] for name in READ}
    taken = {str(row["question"]) for rows in read.values() for row in rows}
    hard: list[dict[str, Any]] = [
        row
        for number, task in enumerate(HARD)
        for row in distinct(task, 100 * SEED + number, task.prompts, taken)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / FILES["train"], read["train"] + hard)
    for name in ("model", "heldout"):
        if not (folder / name).exists():
            (folder / name).symlink_to((study / name).resolve())
    print(f"{len(hard):,} prompts beside {len(read['train']):,}")
    score = ["score", folder / FILES["train"], "--model", folder / "model", "--out", folder / "scored"]
    command = [
        sys.executable,
        "-m",
        "gaincurate",
        *score,
        "--signals",
        "angle,nll,embedding",
        "--threads",
        "1",
    ]
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
