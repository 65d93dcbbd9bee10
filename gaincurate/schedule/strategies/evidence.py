"""Priors of pass rates by labels of prompts: a Beta law for each label, fitted to outcomes (empirical Bayes).

The law of label l is Beta(s m, s (1 - m)). The mean m is the label's pass rate, drawn towards the mean of
all prompts by c rollouts. The strength s says how alike the prompts of the label are. c is common to all
labels. Both are the values under which the outcomes of single prompts are most likely, each prompt given
the outcomes of the others. So a label that tells nothing gets a small strength. A reader may ask for a full
hierarchical model: leaving one prompt out needs one pass over the outcomes and no approximation.

The same likelihood chooses the columns that are labels, and the weights of other sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from gaincurate.core.rng import Floats, Ints
from gaincurate.difficulty import beta

Counts = Floats
"""Wins and losses, `[2, prompts]`."""

JUDGES, _CHOOSERS = 2048, 1024
"""Observed prompts at most, evenly spaced, by which laws are fitted, and by which labels are chosen."""
_CROSSED = 3  # columns, the best, that are tried in pairs
_FEWEST = 16  # observed prompts for a choice of labels
_COST = 7.0
"""Of a column, in log likelihood: it has to make outcomes 1,000 times as likely. The best of six columns with
random values gains 2 at the median, and more than 6 in one of 20 sets of 16 to 512 prompts."""
_PULLS = (0.25, 1.0, 4.0, 16.0)  # c
_STRENGTHS = np.array([0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])  # s
_OF_ALL = 4.0  # prompts that the mean likelihood of all labels counts for in the choice of one label's s
_LEAST = 1e-3  # a mean is never 0 or 1


@dataclass(frozen=True, slots=True)
class Law:
    """Beta parameters of each prompt before its own outcomes.

    `fit` is the log-likelihood of the outcomes that judged the law, up to a constant.
    """

    counts: Counts
    fit: float


def law_of(labels: Ints, outcomes: Counts, base: Counts, history: Counts | None = None) -> Law:
    """The law of each prompt, by its label.

    The outcomes of a prompt are left out of the mean of its label, because they count for the prompt itself.

    Args:
        labels: `[prompts]`, from 0.
        outcomes: `[2, prompts]`, 0 where nothing was observed.
        base: `[2, prompts]` or `[2, 1]`, wins and losses that prompts have besides, in no label's mean.
        history: `[2, prompts]`, wins and losses in earlier training: part of the mean of a label and of the
            law of their prompt. Default: none.
    """
    every = outcomes if history is None else outcomes + history
    before = np.broadcast_to(base if history is None else base + history, outcomes.shape)
    if not every.any():
        return Law(before, 0.0)
    size = int(labels.max(initial=0)) + 1
    of_label = np.array([np.bincount(labels, row, size) for row in every])
    mean_of_all = of_label[0].sum() / of_label.sum()

    def means(rows: Ints | slice, pull: float) -> Floats:
        """Of each row's label without the row, `[rows]`."""
        others = np.maximum(of_label[:, labels[rows]] - every[:, rows], 0.0)
        rates: Floats = (others[0] + pull * mean_of_all) / (others.sum(0) + pull)
        return np.clip(rates, _LEAST, 1 - _LEAST)

    # Before this run has outcomes, a law has to make those of earlier training likely.
    judged, given = (outcomes, before) if outcomes.any() else (every, np.broadcast_to(base, outcomes.shape))
    judges = evenly(np.flatnonzero(judged.sum(0)), JUDGES)
    judged, given = judged[:, judges], given[:, judges]

    def likelihoods(pull: float) -> Floats:
        """Of each judge under each strength, `[strengths, judges]`."""
        rates = means(judges, pull)
        laws = [given + strength * np.array([rates, 1 - rates]) for strength in _STRENGTHS]
        return np.array([beta.log_evidences(*law, *judged) for law in laws])

    by_pull = {pull: likelihoods(pull) for pull in _PULLS}
    pull = max(_PULLS, key=lambda pull: float(by_pull[pull].sum(1).max()))
    fits = by_pull[pull]
    of_labels = np.array([np.bincount(labels[judges], row, size) for row in fits])
    strengths = _STRENGTHS[np.argmax(of_labels + _OF_ALL * fits.mean(1, keepdims=True), axis=0)][labels]
    rates = means(slice(None), pull)
    return Law(before + strengths * np.array([rates, 1 - rates]), float(fits.sum(1).max()))


def best_labels(columns: Mapping[str, Ints], outcomes: Counts, prior: float) -> tuple[str, ...]:
    """The columns whose values, crossed, predict outcomes best, each at a `_COST`: none, one or two of them.

    Args:
        columns: the codes of each column by its name, `[prompts]`.
        outcomes: `[2, prompts]`.
        prior: wins and losses that every prompt has before it is observed.
    """
    seen = evenly(np.flatnonzero(outcomes.sum(0)), _CHOOSERS)
    if len(seen) < _FEWEST:
        return ()

    def fit(names: tuple[str, ...]) -> float:
        labels = crossed([columns[name][seen] for name in names], len(seen))
        return law_of(labels, outcomes[:, seen], np.full((2, 1), prior)).fit

    fits = {names: fit(names) for names in [(), *((name,) for name in columns)]}
    best = sorted(columns, key=lambda name: -fits[name,])[:_CROSSED]
    fits |= {names: fit(names) for names in combinations([name for name in columns if name in best], 2)}
    return max(fits, key=lambda names: fits[names] - _COST * len(names))


def crossed(columns: list[Ints], rows: int) -> Ints:
    """A number from 0 for each combination of values that occurs, `[rows]`."""
    labels = np.zeros(rows, np.int64)
    for column in columns:
        labels = labels * (int(column.max(initial=0)) + 1) + column
        labels = np.unique(labels, return_inverse=True)[1].reshape(-1)
    return labels


def evenly(rows: Ints, most: int) -> Ints:
    """At most so many of some rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64)]
