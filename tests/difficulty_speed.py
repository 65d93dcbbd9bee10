"""How long 10,000 prompts take: `PYTHONPATH=.:kernels:tests python tests/difficulty_speed.py FOLDER [WIDTH]`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

import embedded
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.embeddings import of_ids
from gaincurate.difficulty.predict import MethodName, _all_rows, make
from gaincurate.difficulty.predictor import Adapter, DifficultyPredictor, Shape

if __name__ == "__main__":
    folder, width = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1536
    random = np.random.default_rng(0)
    if not (folder / "manifest.json").exists():
        embedded.make_set(folder, random.normal(size=(10_000, width)).astype(np.float16), shards=10)
    scored, chosen = ScoredSet(folder, verify=False), embedded.names(256)
    failure = random.integers(0, 9, 256) / 8
    embedding = {"model": "some-model", "weights": "w" * 32, "width": width}
    adapter = Adapter(DifficultyPredictor(Shape(width)).eval(), embedding, {}, "")
    of_ids([scored], chosen)  # the files are in memory after this, as after scoring
    methods: list[MethodName] = ["adapter", "gp"]
    for method in methods:
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            found = make(method, scored, chosen, failure, adapter=adapter)
            ids, values = _all_rows(scored, found)
            times.append(time.perf_counter() - begin)
            assert len(values) == len(ids) == 10_000
        print(
            f"{method}: {min(times):.2f} to {max(times):.2f} s, {torch.get_num_threads()} threads, width {width}"
        )
