"""All signals of a batch: takes its states, yields each prompt's scores or why it has none.

Knows nothing of how the states were made or where the scores go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gaincurate.config import ScoreConfig
from gaincurate.schema import Score
from gaincurate.scoring.angle import angle_scores
from gaincurate.scoring.embedding import embeddings
from gaincurate.scoring.head import Head
from gaincurate.scoring.likelihood import likelihoods
from gaincurate.scoring.pack import PackedStates
from gaincurate.scoring.segment import Segmented
from gaincurate.scoring.summary import Summary
from gaincurate_kernels import Backend

Measured = tuple[Score | str, int]
"""A prompt's scores, or why it has none; and how many of its scored tokens have no direction."""


class Signals:
    """What a run measures of each batch.

    Args:
        config: the run's options.
        backend: of the angle code.
        head: the output head, where a signal needs it.
        summary: the time that each signal takes is added here.
    """

    def __init__(self, config: ScoreConfig, backend: Backend, head: Head | None, summary: Summary) -> None:
        self._config = config
        self._backend: Backend = backend
        self._head = head
        self._summary = summary

    def __call__(self, states: PackedStates, prompts: Sequence[Segmented]) -> list[Measured]:
        """Every prompt of a batch, in its order."""
        with self._summary.timed("angle"):
            angles = angle_scores(
                states, prompts, inter_weight=self._config.inter_weight, backend=self._backend
            )
        found: list[Score | str] = [
            "its hidden states are not finite" if score is None else score for score in angles.scores
        ]
        if "embedding" in self._config.signals:
            with self._summary.timed("embedding"):
                found = _with_embeddings(found, states)
        if self._head is not None:
            with self._summary.timed("head"):
                found = self._with_likelihoods(found, states, prompts, self._head)
        return list(zip(found, angles.zero_vectors, strict=True))

    def _with_likelihoods(
        self, scores: list[Score | str], states: PackedStates, prompts: Sequence[Segmented], head: Head
    ) -> list[Score | str]:
        wanted = self._config.signals
        made = likelihoods(states, prompts, head, nll="nll" in wanted, entropy="entropy" in wanted)
        found: list[Score | str] = []
        for score, own in zip(scores, made, strict=True):
            if isinstance(score, str):
                found.append(score)
            elif own is None:
                found.append("its NLL or entropy is not finite")
            else:
                found.append(replace(score, nll=own.nll, entropy=own.entropy, last_entropy=own.last_entropy))
        return found


def _with_embeddings(scores: list[Score | str], states: PackedStates) -> list[Score | str]:
    assert states.final is not None
    return [
        score
        if isinstance(score, str)
        else "its hidden states are not finite"
        if mean is None
        else replace(score, embedding=mean)
        for score, mean in zip(scores, embeddings(states.final, states.questions), strict=True)
    ]
