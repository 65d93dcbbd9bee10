"""The figures of docs/studies/difficulty_real/README.md at full size: `PYTHONPATH=.:kernels python tests/synthetic_figures.py`."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from gaincurate.core.stats import pearson
from gaincurate.difficulty.config import Recipe
from gaincurate.difficulty.metrics import noise_ceiling
from gaincurate.difficulty.predictor import Shape, by_references
from gaincurate.difficulty.train import Policy, fit
from synthetic import world

TRAINED, REFERENCES = 6, 256


def figures(own: float, seed: int, *, prompts: int, unseen: int, shape: Shape, recipe: Recipe) -> None:
    made = world(prompts + REFERENCES + unseen, width=shape.width, own=own, seed=seed)
    train = np.arange(prompts)
    references, asked = prompts + np.arange(REFERENCES), prompts + REFERENCES + np.arange(unseen)
    embeddings = torch.from_numpy(made.embeddings)
    begin = time.perf_counter()
    policies = [Policy(f"policy {i}", train, made.observed[i, train]) for i in range(TRAINED)]
    fitted = fit(embeddings, policies, shape, recipe)
    print(f"own {own}, seed {seed}: fitted in {time.perf_counter() - begin:.0f} s")
    for policy in range(TRAINED, len(made.truth)):
        failure = made.observed[policy]
        with torch.inference_mode():
            coded = fitted.predictor.encode(embeddings[references])
        rates = torch.from_numpy(failure[references]).float()
        found = {
            "adapter": by_references(fitted.predictor, made.embeddings[asked], coded, rates),
        }
        losses = made.losses[policy, asked]
        ceiling = noise_ceiling(made.rollouts - losses, losses) or float("nan")
        alike = np.corrcoef(made.truth[policy], made.truth[:TRAINED].mean(0))[0, 1]
        line = f"  policy {policy}, correlation with those trained on {alike:.2f}, ceiling {ceiling:.3f}:"
        for name, values in found.items():
            reached = pearson(values, failure[asked]) or float("nan")
            line += f" {name} {reached:.3f} ({reached / ceiling:.2f} of it)"
        print(line, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    for own in (0.15, 0.4):
        for seed in (0, 1):
            figures(
                own, seed, prompts=3000, unseen=2000, shape=Shape(256), recipe=Recipe(epochs=10, held_out=0.0)
            )
