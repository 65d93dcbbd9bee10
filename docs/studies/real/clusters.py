"""Measures clusters of embeddings as labels of a prior, on real models, beside level and subject.

Usage: python docs/studies/real/clusters.py MATH SET [--out docs/studies/real/clusters.json] [--seeds 10]

MATH is as in rates.py. SET is a scored set with embeddings of some of its problems, in a column `place` their
rows. Each model in turn is the target. The outcomes of references (8 of its rollouts each) give the means of
each label, and all of its rollouts judge.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rates import Model, by_labels, judge, read_math, summary

from gaincurate.core.scored_set import ScoredSet
from gaincurate.schedule.groups import cluster

CLUSTERS, REFERENCES = (8, 32), (64, 256, 1024)


def trials(
    models: dict[str, Model], labels: dict[str, tuple[list[str], list[str]]], seeds: int
) -> Iterator[dict[str, Any]]:
    """A dictionary for each target, number of references, seed and kind of label (coarse and fine)."""
    for number, (target, model) in enumerate(models.items()):
        if model.rollouts < 50:
            continue
        for seed in range(seeds):
            random = np.random.default_rng([number, seed, 11])
            shuffled = random.permutation(len(model.right))
            for references in REFERENCES:
                rows = np.sort(shuffled[:references])
                wins = model.group(rows, random)
                for name, (coarse, fine) in labels.items():
                    kind = {"target": target, "sources": name, "references": references}
                    yield {**kind, **judge(by_labels(coarse, fine, rows, wins), model, seed)}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("math", type=Path)
    parser.add_argument("set", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    scored = ScoredSet(given.set)
    places = np.concatenate([table.column("place").to_numpy() for table in scored.tables(["place"])])
    models, levels, both = read_math(given.math)
    models = {name: Model(model.right[places], model.rollouts) for name, model in models.items()}
    none = ["all"] * len(places)
    level, subject = [levels[i] for i in places], [both[i] for i in places]
    labels = {"none": (none, none), "level": (none, level), "level and subject": (level, subject)}
    for count in CLUSTERS:
        clusters = [str(number) for number in cluster(scored, count, 0)]
        labels[f"{count} clusters"] = (none, clusters)
        crossed = [f"{a} {b}" for a, b in zip(level, clusters, strict=True)]
        labels[f"level and {count} clusters"] = (level, crossed)
    entries = summary(list(trials(models, labels, given.seeds)))
    given.out.write_text(json.dumps(entries, separators=(",", ":")).replace('{"target', '\n{"target') + "\n")


if __name__ == "__main__":
    main()
