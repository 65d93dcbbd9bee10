"""Priors of pass rates by labels of prompts: a Beta law per label, fitted to outcomes (empirical Bayes).

The law of label l is Beta(s_l m_l, s_l (1 - m_l)). Its mean m_l is the label's pass rate, drawn towards the mean of
all prompts by c rollouts. Its strength s_l says how alike the label's prompts are. c is common to all labels, and
both it and s_l are the values under which outcomes of single prompts are most likely, each given the outcomes of
the other prompts. So a label that says nothing gets a small strength. A reader may ask for a proper hierarchical fit: leaving
one prompt out costs one pass over the outcomes and needs no approximation.

The same likelihood chooses which columns are labels (`best_labels`) and how much the outcomes of earlier runs
count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from gaincurate.core.rng import Floats, Ints
from gaincurate.schedule.strategies import beta

Counts = Floats
"""Wins and losses, `[2, prompts]`."""

JUDGES, _CHOOSERS = 2048, 1024
"""Observed prompts, evenly spaced, by which laws are fitted, and labels chosen."""
FEWEST = 16
"""Observed prompts that a choice of labels needs."""
_PULLS = (0.25, 1.0, 4.0, 16.0)
_STRENGTHS = np.array([0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
_OF_ALL = 4.0  # prompts that the likelihood of all labels counts for beside a label's own
_LEAST = 1e-3  # a mean is never 0 or 1: the law would be no law


@dataclass(frozen=True, slots=True)
class Law:
    """Beta parameters of each prompt before its own outcomes, `[prompts]` each, and how likely they make outcomes.

    `fit` is the log-likelihood of the judged prompts' outcomes, each given the outcomes of the others.
    """

    a: Floats
    b: Floats
    fit: float


def law_of(codes: Ints, wins: Floats, losses: Floats, base: Counts, history: Counts | None = None) -> Law:
    """The law of each prompt, by its label.

    A prompt's own outcomes are left out of its label's mean, because they count for the prompt itself.

    Args:
        codes: `[prompts]`, the label of each, from 0.
        wins: `[prompts]`, 0 where nothing was observed.
        losses: `[prompts]`.
        base: `[2, prompts]` or `[2, 1]`, wins and losses that prompts have besides, which no label's mean includes.
        history: `[2, prompts]`, wins and losses of an earlier run. They are part of a label's mean, and of the
            law of their prompt. Default: none.
    """
    size, seen = int(codes.max(initial=0)) + 1, np.flatnonzero(wins + losses)
    counts = np.array([wins, losses]) if history is None else np.array([wins, losses]) + history
    of_label = np.array([np.bincount(codes, row, size) for row in counts])
    everything = of_label.sum()
    before = base if history is None else base + history
    if everything <= 0:
        return Law(*np.broadcast_to(before, counts.shape).copy(), 0.0)
    mean_of_all = of_label[0].sum() / everything

    def means(rows: Ints | slice, pull: float) -> Floats:
        """Of each row's label without the row, drawn towards the mean of all."""
        others = np.maximum(of_label[:, codes[rows]] - counts[:, rows], 0.0)
        rates: Floats = (others[0] + pull * mean_of_all) / (others.sum(0) + pull)
        return np.clip(rates, _LEAST, 1 - _LEAST)

    # Without outcomes of this run, a law has to make those of the earlier run likely.
    judged, given = (counts, base) if not len(seen) else (np.array([wins, losses]), before)
    judges = evenly(seen if len(seen) else np.flatnonzero(counts.sum(0)), JUDGES)
    outcomes, given = judged[:, judges], np.broadcast_to(given, counts.shape)[:, judges]

    def likelihoods(pull: float) -> Floats:
        """`[strengths, judges]`."""
        rates = means(judges, pull)
        laws = [given + s * np.array([rates, 1 - rates]) for s in _STRENGTHS]
        return np.array([beta.log_evidences(*law, *outcomes) for law in laws])

    by_pull = {pull: likelihoods(pull) for pull in _PULLS}
    pull = max(_PULLS, key=lambda pull: float(by_pull[pull].sum(1).max()))
    each = by_pull[pull]
    of_labels = np.array([np.bincount(codes[judges], row, size) for row in each])
    best = np.argmax(of_labels + _OF_ALL * each.mean(1, keepdims=True), axis=0)  # [labels]
    strength, rates = _STRENGTHS[best][codes], means(slice(None), pull)
    return Law(*(before + strength * np.array([rates, 1 - rates])), float(each.sum(1).max()))


def best_labels(columns: Mapping[str, Ints], wins: Floats, losses: Floats, prior: float) -> tuple[str, ...]:
    """The columns whose values, crossed, predict outcomes best: none, one or two of them.

    Args:
        columns: codes of each column by its name, `[prompts]`.
        wins: `[prompts]`.
        losses: `[prompts]`.
        prior: wins and losses that every prompt has before it is seen.
    """
    seen = np.flatnonzero(wins + losses)
    if len(seen) < FEWEST or not columns:
        return ()
    seen = evenly(seen, _CHOOSERS)
    of_seen = {name: codes[seen] for name, codes in columns.items()}
    names = [(), *((name,) for name in of_seen), *combinations(of_seen, 2)]

    def fit(chosen: tuple[str, ...]) -> float:
        codes = crossed([of_seen[name] for name in chosen], len(seen))
        return law_of(codes, wins[seen], losses[seen], np.full((2, 1), prior)).fit

    return max(names, key=fit)  # of equal ones the first, which has the fewest columns


def crossed(columns: list[Ints], rows: int) -> Ints:
    """One code for each combination of values that occurs, `[rows]`."""
    codes = np.zeros(rows, np.int64)
    for column in columns:
        codes = np.unique(codes * (int(column.max(initial=0)) + 1) + column, return_inverse=True)[1]
    return codes.reshape(-1)


def evenly(rows: Ints, most: int) -> Ints:
    """At most so many of some rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64)]
