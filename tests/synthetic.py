"""A world whose difficulty is known: embeddings, policies with true failure rates, and their rollouts.

An embedding has independent factors whose strengths fall by a power law, as the states of language models
have, around a mean that is stronger still. A few factors, not the strongest, are the traits that difficulty
depends on. Policies share the most of it; each has strengths of its own in every trait and in smooth
functions of them, and a level of its own, so that only references can tell a new policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
TRAITS = (2, 4, 7, 11, 16, 22)
"""Which factors, from the strongest."""


@dataclass(frozen=True)
class World:
    """`embeddings` `[prompts, width]`; `truth` and `losses` (of `rollouts`) `[policies, prompts]`."""

    embeddings: npt.NDArray[np.float32]
    truth: Floats
    losses: Floats
    rollouts: int

    @property
    def observed(self) -> Floats:
        return self.losses / self.rollouts


def world(
    prompts: int, *, width: int = 64, policies: int = 8, rollouts: int = 8, own: float = 0.15, seed: int = 0
) -> World:
    """`own` is how far policies differ in a trait, of a shared strength of about 1."""
    random = np.random.default_rng(seed)
    factors = random.normal(size=(prompts, width))
    strengths = 3.0 * np.arange(1, width + 1) ** -0.7
    mix, _ = np.linalg.qr(random.normal(size=(width, width)))
    embeddings = (factors * strengths) @ mix + random.normal(size=width)
    traits = factors[:, TRAITS]
    shared, bends = random.choice([-1.0, 1.0], len(TRAITS)), random.normal(size=(len(TRAITS), 4))
    shared_curve, truth = random.normal(size=4), []
    for _ in range(policies):
        skill = shared + own * random.normal(size=len(TRAITS))
        curve = np.tanh(traits @ bends) @ (shared_curve + own * random.normal(size=4))
        logits = traits @ skill + curve
        logits = 2.0 * (logits - logits.mean()) / logits.std() + random.normal(0, 0.7)
        truth.append(1 / (1 + np.exp(-logits)))
    rates = np.array(truth)
    losses = random.binomial(rollouts, rates).astype(float)
    return World(embeddings.astype(np.float32), rates, losses, rollouts)
