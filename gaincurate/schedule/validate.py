"""Whether a run's options go with its scored set and with each other, before hours are spent.

What only one strategy asks for is checked by its own `Options.check_run`. Draws and facts of users' own
strategies are checked here too, before a round is written.
"""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import numpy as np

from gaincurate.core.artifact import Json
from gaincurate.core.rng import Ints
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.schedule import base
from gaincurate.schedule.config import BY_EMBEDDING, ScheduleConfig
from gaincurate.schedule.rescore import OF_MODEL
from gaincurate.schedule.strata import Strata


def check_options_of_a_run(
    config: ScheduleConfig,
    scored: ScoredSet,
    kind: type[base.Selector],
    by: str | None,
    options: base.Options,
) -> None:
    """See that a run may be opened.

    Args:
        config: the run's options.
        scored: the set.
        kind: the strategy.
        by: the column of the order.
        options: the strategy's own.

    Raises:
        InputError: an option does not go with the set or with another option.
    """
    _check_sizes(config, scored)
    _check_order(config, kind, by)
    _check_groups(config)
    model = config.model
    if (
        model is not None
        and model.startswith(("/", "./", "../", "~"))
        and not Path(model).expanduser().exists()
    ):
        raise InputError(f"--model {model}: there is no such folder.")
    options.check_run(config, scored)


def check_draw(config: ScheduleConfig, ranks: Ints, count: int) -> None:
    """A user's own strategy may be wrong; a round that is must not be written.

    Raises:
        InputError: it is.
    """
    wrong = None
    if ranks.shape != (config.budget,):
        wrong = f"drew {ranks.shape} ranks for a budget of {config.budget}"
    elif len(np.unique(ranks)) < len(ranks):
        wrong = "drew a rank twice"
    elif ranks.min() < 0 or ranks.max() >= count:
        wrong = f"drew a rank outside 0 to {count - 1}"
    if wrong:
        raise InputError(f"strategy {config.strategy} {wrong}.")


def check_shares(
    config: ScheduleConfig, selector: base.Selector, strata: Strata | None, rows: Ints, round_: int
) -> dict[str, int] | None:
    """How many prompts of each group a round has; None where a run has no groups.

    Args:
        config: the run's options.
        selector: what drew them. One that leaves references out may have to take from other groups.
        strata: the run's groups, by row.
        rows: `[budget]`, of the prompts.
        round_: the round.

    Raises:
        InputError: they are not the groups' quotas.
    """
    if strata is None:
        return None
    counts = np.bincount(strata.labels[rows], minlength=len(strata.names))
    quotas = strata.quotas(config.budget, round_)
    wrong = np.flatnonzero(counts != quotas)
    if len(wrong) and not selector.observes_references:
        group = wrong[0]
        raise InputError(
            f"strategy {config.strategy} drew {counts[group]:,} prompts of group {strata.names[group]!r}, "
            f"and with --stratify {config.stratify} round {round_} has {quotas[group]:,} of it. Pool.draw "
            "and Pool.pick keep the shares."
        )
    return dict(zip(strata.names, counts.tolist(), strict=True))


def check_plan_facts(config: ScheduleConfig, selector: base.Selector, plan: Json, facts: Json) -> None:
    """See that what a strategy adds to a plan takes the place of nothing and can be read later.

    Raises:
        InputError: it is not so.
    """
    taken = plan.keys() if selector.observes_references else plan.keys() | {"references"}
    if both := sorted(taken & facts.keys()):
        raise InputError(
            f"strategy {config.strategy}: plan_facts gives {both[0]!r}, which plans have already; take "
            "another name."
        )
    predicted = facts.get("predicted", [0.0] * config.budget)
    if len(predicted) != config.budget or not np.isfinite(np.array(predicted, float)).all():
        raise InputError(
            f"strategy {config.strategy}: plan_facts gives {len(predicted):,} values as 'predicted'; "
            "needed is "
            f"a finite failure rate for each of the {config.budget:,} prompts."
        )


def _check_sizes(config: ScheduleConfig, scored: ScoredSet) -> None:
    rows, align = len(scored), config.align_to
    if config.budget > rows:
        raise InputError(
            f"--budget {config.budget:,} is over the {rows:,} rows of {config.scored}; a round's prompts are "
            "distinct."
        )
    if config.budget % align:
        near = [
            n for n in (config.budget // align * align, -(-config.budget // align) * align) if 0 < n <= rows
        ]
        raise InputError(
            f"--budget {config.budget:,} is no multiple of --align-to {align:,}; the nearest are "
            f"{' and '.join(f'{n:,}' for n in near) or 'none that the set has rows for'}."
        )
    if not config.reward_low < config.reward_high or not math.isfinite(
        config.reward_high - config.reward_low
    ):
        raise InputError(
            f"--reward-range {config.reward_low:g},{config.reward_high:g}: the first must be "
            "less than the second."
        )


def _check_groups(config: ScheduleConfig) -> None:
    by = config.stratify
    if config.clusters is not None and by != BY_EMBEDDING:
        raise InputError(f"--clusters {config.clusters} goes with --stratify {BY_EMBEDDING}.")
    if config.group_weights is not None and by in (BY_EMBEDDING, "none"):
        raise InputError("--group-weights goes with --stratify COLUMN, whose groups have names.")


def _check_order(config: ScheduleConfig, kind: type[base.Selector], by: str | None) -> None:
    if config.ascending is not None and by is None:
        raise InputError(
            f"--ascending and --descending are for an order, and strategy {config.strategy} has none."
        )
    if config.by is not None and kind.ordering == "none":
        raise InputError(f"--by {config.by}: strategy {config.strategy} has no order; leave --by out.")
    what = config.rescore.what
    if what == "off" and config.rescore.options:
        raise InputError(
            f"--scoring {shlex.join(config.rescore.options)!r}: --rescore off does no scoring; leave "
            "--scoring out, or give --rescore round, window or full."
        )
    if what in ("window", "full") and not (kind.ordering == "any" and by in OF_MODEL):
        if kind.ordering != "any":
            why = f"strategy {config.strategy} has no order that may change"
        else:
            why = f"strategy {config.strategy} goes by {by}, which no checkpoint changes"
        raise InputError(
            f"--rescore {what} needs an order by a score of the model ({', '.join(OF_MODEL)}), and {why}. "
            "Use --rescore round or off."
        )
    if what == "window" and kind.reach is base.Selector.reach:
        raise InputError(
            f"--rescore window: strategy {config.strategy} does not say which ranks it can reach; use full."
        )
