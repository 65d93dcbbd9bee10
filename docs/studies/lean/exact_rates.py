"""Writes the exact chance of a right answer for each prompt of a file, under the model of a world.

Usage: python docs/studies/lean/exact_rates.py WORLD PROMPTS.jsonl OUT.jsonl. PROMPTS has `question`,
`answer`, `source` and perhaps `level`. The policy is the one that rollouts of `loop.py` come from.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import torch
import transformers
from policy import Policy
from world import Prompts

from gaincurate.core.files import json_lines, write_lines


def main(world: Path, prompts: Path, out: Path) -> None:
    """Read, judge, write."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = [{"level": 1, **row} for _, row in json_lines(prompts) if row]
    columns = {name: [row[name] for row in rows] for name in ("question", "answer", "source", "level")}
    scored: Any = SimpleNamespace(take=pa.table(columns).take)
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "model")
    rates = Prompts(scored, np.arange(len(rows)), tokenizer).accuracies(Policy(world / "model"))
    kept = zip(rows, rates.tolist(), strict=True)
    write_lines(out, [{"source": r["source"], "level": r["level"], "rate": round(p, 6)} for r, p in kept])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
