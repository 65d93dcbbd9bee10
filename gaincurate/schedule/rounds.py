"""Opens a run and goes on with it round by round: observe, prepare, draw, write.

A round's plan depends on the scored set, the seed and the outcomes alone. So nothing is kept in memory
between rounds: each begins from the state that the last plan was written with, and a run that was killed goes
on to the same plans.

Options of a run are checked against its scored set and each other before hours are spent. What only one
strategy asks for is checked by its own `Options.check_run`. What a strategy returns is checked here, once,
before a round is written.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.artifact import RUN, Json
from gaincurate.core.files import make_folder, remove_temporaries
from gaincurate.core.foreign import json_value
from gaincurate.core.prompts import training_rows, write_rows
from gaincurate.core.rng import Ints
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import write_sealed
from gaincurate.core.store import Remote, cache_folder
from gaincurate.core.where import Mask
from gaincurate.errors import InputError, NotReadyError
from gaincurate.schedule import base, groups, history
from gaincurate.schedule.calibration import calibration_of
from gaincurate.schedule.checkpoints import AS_IT_IS, Held
from gaincurate.schedule.config import BY_EMBEDDING, STRATEGIES, ScheduleConfig
from gaincurate.schedule.context import Context
from gaincurate.schedule.first_model import first_model
from gaincurate.schedule.observations import (
    REPLAY,
    Note,
    concentration_of,
    late_outcomes,
    nothing_learnt,
    silent,
    take_outcomes,
)
from gaincurate.schedule.ordering import Order, build
from gaincurate.schedule.rescore import OF_MODEL, Rescored, due, rescore
from gaincurate.schedule.run import BASE, FORMAT, GROUPS, ORDER, ROLLOUTS, Run, making
from gaincurate.schedule.selection import matching
from gaincurate.schedule.strata import LEFT_OUT, Strata

_LARGEST = 1e9  # of a predicted failure rate, because figures are computed from it
_CARRIED_OVER = ("order", "ordered_by", "scores", "probe", "checkpoint")


def start(config: ScheduleConfig, note: Note = silent) -> Run:
    """Open a run and write its round 0, unless its strategy has to wait for something before that.

    Raises:
        InputError: an option does not go with the set or with another option.
        OutputError: the scored set is unfinished or damaged, or the run's folder holds something.
        LockedError: another process starts the same run.
    """
    scored = ScoredSet(config.scored)
    kind = base.load(config.strategy)
    options = base.check_options(config.strategy, kind, config.options)
    own_options = options.model_dump(mode="json", include=set(config.options))  # paths are whole from here on
    by = config.by or kind.by
    ascending = config.ascending
    if ascending is None:
        ascending = kind.ascending if by == kind.by else False
    model = config.model or first_model(scored, note)
    check_options_of_a_run(config.model_copy(update={"model": model}), scored, kind, by, options)
    with making(config.run) as folder:
        scored.verify()
        missing = build(folder / ORDER, scored, by, ascending=ascending)
        if missing:
            note(f"{missing:,} rows have no {by}; they come last")
        matches = _matches(config, scored, note)
        if config.stratify != "none" or matches is not None:
            groups.build(folder / GROUPS, scored, config, matches, note)
        known = history.build(folder / history.HISTORY, scored, config, note) if config.history else None
        if config.rates:
            history.build_rates(folder / history.RATES, scored, config.rates)
        angles = pc.min_max(scored.column("gc_angle"))
        facts = {
            "format": FORMAT,
            "config": {
                **config.model_dump(mode="json"),
                "options": own_options,
                "by": by,
                "ascending": ascending,
                "model": model,
            },
            "params": options.model_dump(mode="json"),
            "scores": {**_where(config), "manifest": scored.manifest_hash},
            "rows": len(scored),
            **({} if matches is None else {"kept": int(matches.sum())}),
            **({} if known is None else {"history": known}),
            "rows_without_value": missing,
            "angles": [angles["min"].as_py(), angles["max"].as_py()],
        }
        write_sealed(folder / RUN, facts)
        run = Run(folder, scored)
        state = {
            "order": Order(folder / ORDER).digest,
            "ordered_by": BASE,
            "scores": BASE,
            "probe": BASE,
            "taken": {},
            "checkpoint": run.config.model,
        }
        selector = selector_of(run)
        try:
            selector.prepare(Context(run, 0, state["order"], run.config.model, note, opening=True))
        except NotReadyError:  # round 0 is planned by the first `advance`
            run.commit({**_state(run, selector, -1, state), "rows": [], "inputs": {}, "finished": False})
        else:
            _write_round(run, selector, 0, state, {})
        sigma = selector.metrics().get("sigma")
        if sigma is not None and not 1 <= sigma <= len(scored) / 2:
            kind_of = "nearly even over the set" if sigma > 1 else "a few ranks wide"
            note(
                f"warning: sigma is {sigma:g} ranks of {len(scored):,}, so draws are {kind_of}; --sigma 0.1N "
                "is a tenth of the set"
            )
    return Run(config.run)


def _where(config: ScheduleConfig) -> Json:
    """Where the scored set is, for the run to find it again."""
    if isinstance(config.scored, Remote):
        return {"folder": str(config.scored), "cache": str(cache_folder().absolute())}
    return {
        "folder": str(config.scored.resolve()),
        "relative": os.path.relpath(config.scored, config.run),
    }


def selector_of(run: Run, state: Json | None = None) -> base.Selector:
    """A run's selector at its start, or as a state left it."""
    config, strata = run.config, run.strata
    low, high = (angle or 0.0 for angle in run.facts["angles"])  # None in a set without angles
    if strata is not None and config.by is not None:
        order = Order(run.orders.current) if state is None else run.orders.find(state["order"])
        strata = strata.by_rank(order.rows)
    pool = base.Pool(run.facts["rows"], config.budget, config.seed, (low, high), strata, config.align_to)
    selector = base.build(config.strategy, pool, config.options)
    if state is not None:
        selector.load_state_dict(state["selector"])
    return selector


def advance(
    run: Run,
    checkpoint: str | None = None,
    note: Note = silent,
    held: Held = AS_IT_IS,
    references: Path | None = None,
) -> Path | None:
    """Take the newest round's outcomes and write the next one; call it while holding `working_on`.

    Of a run that has no round yet, because its strategy had to wait for something, write round 0.

    Args:
        run: the run.
        checkpoint: what the round's training left; needed where a re-scoring is due.
        note: takes what a person should know.
        held: makes of the checkpoint the folder that is scored, or that references are rolled out with.
        references: their outcomes for the next round, where a person has them in a file.

    Returns:
        The next round's folder; None where that was the last round.

    Raises:
        InputError: the outcomes cannot be used, or a checkpoint is needed; nothing is changed.
        NotReadyError: the strategy has to wait for something before it draws; nothing is changed.
        GaincurateError: the re-scoring failed; what was scored is kept.
    """
    state = run.state
    if state["finished"]:
        raise InputError(f"{run.folder} is finished: all of its {run.config.rounds} rounds are done.")
    if state["round"] < 0:
        learned = _before_round_0(run, state, checkpoint)
        checkpoint = state["checkpoint"]
    else:
        learned = _observe(run, state, checkpoint, note, held)
    round_, selector = state["round"] + 1, learned.selector
    if round_ == run.config.rounds:
        if references is not None:
            why = f"round {state['round']} is the last, and no other needs references"
            note(f"warning: {references} was not read: {why}")
        run.log(**learned.log)
        last = _state(run, selector, state["round"], learned.state)
        metrics = _metrics(run, selector)
        run.commit({**last, "inputs": learned.inputs, "metrics": metrics, "finished": True})
        return None
    if references is not None and not selector.observes_references:
        raise InputError(
            f"--reference-outcomes {references}: strategy {run.config.strategy} observes no references."
        )
    selector.prepare(Context(run, round_, learned.state["order"], checkpoint, note, held, references))
    if learned.log:
        run.log(**learned.log)
    _write_round(run, selector, round_, learned.state, learned.inputs)
    return run.round_folder(round_)


@dataclass(frozen=True, slots=True)
class _Learned:
    """A run after its newest round: the selector that has learnt from it, and what is written of it.

    `state` is the next round's but for its rows, and `inputs` what its plan says that it was computed from.
    `log` is not in the plan, which a trainer that was killed and run again must not change.
    """

    selector: base.Selector
    state: Json
    inputs: Json
    log: Json


def _before_round_0(run: Run, state: Json, checkpoint: str | None) -> _Learned:
    """A run that was opened and has no round yet."""
    if checkpoint is not None:
        raise InputError(
            f"--checkpoint {checkpoint}: no round of {run.folder} was trained yet; round 0 is prepared with "
            "the model that training begins with (--model of `schedule start`)."
        )
    unchanged = {name: state[name] for name in (*_CARRIED_OVER, "taken")}
    return _Learned(selector_of(run, state), unchanged, {}, {})


def _observe(run: Run, state: Json, checkpoint: str | None, note: Note, held: Held) -> _Learned:
    """Take the newest round's outcomes, score again where that is due, and have the strategy learn."""
    round_ = state["round"]
    plan = run.plan(round_)
    run.orders.settle(state["order"])
    rows = np.asarray(state["rows"], np.int64)
    outcomes = take_outcomes(run, round_, note)
    late, taken = late_outcomes(run, state, outcomes)
    selector = selector_of(run, state)
    fresh = Rescored()
    if due(run.config, round_):
        if checkpoint is None:
            raise InputError(
                f"a re-scoring is due after round {round_} (--rescore {run.config.rescore.what}) and there "
                "is no checkpoint: give --checkpoint to `schedule next`, or let the trainer write one below "
                "{output}."
            )
        with held(run, checkpoint) as folder:
            fresh = rescore(run, state, selector, folder, note)
        if fresh.order is not None and run.strata is not None:  # a rank has another row's group from now on
            selector = selector_of(run, {"selector": selector.state_dict(), "order": fresh.order})
    state = {key: state[key] for key in ("rows", *_CARRIED_OVER)} | fresh.changes() | {"taken": taken}
    if checkpoint is not None:
        state["checkpoint"] = str(Path(checkpoint).resolve())
    concentration, source, over = concentration_of(run, state["scores"], plan)
    assert outcomes.accuracy is not None  # or the coverage was refused
    tallies = list(outcomes.tallies.values())
    wins = np.array([math.fsum(tally.successes) for tally in tallies])
    counts = np.array([len(tally.successes) for tally in tallies])
    tokens = np.array([tally.mean_tokens for tally in tallies])
    selector.observe(
        base.Observed(
            round_, rows, wins, counts - wins, outcomes.accuracy, concentration or 0.0, late, tokens
        )
    )
    inputs = {
        "round": round_,
        "accuracy": outcomes.accuracy,
        **outcomes.shares(),
        "concentration": concentration,
        "concentration_from": source,
        "concentration_over": over,
        "prompts": sum(bool(t.successes or t.unjudged) for t in tallies),
        "rollouts": outcomes.rollouts,
        "unjudged": outcomes.unjudged,
        "late": len(late[0]),
        "completion_tokens": outcomes.tokens,
        "rescored": fresh.scores,
        "drift": fresh.drift,
        **calibration_of(plan, tallies),
    }
    if (why := nothing_learnt(run, inputs)) is not None:
        note(f"warning: {why}")
    else:
        shares = (inputs.get("effective"), plan["inputs"].get("effective"))  # the round's, and the last one's
        if [share is not None and share < 0.5 for share in shares] == [True, False]:
            note(f"in round {round_}, {REPLAY}")
    log = {"what": "outcomes", "round": round_, "repeated": outcomes.repeated, "void": outcomes.void}
    return _Learned(selector, state, inputs, log)


def _state(run: Run, selector: base.Selector, round_: int, state: Json) -> Json:
    """A state with what the selector has learnt, but for the rows of a round."""
    learnt = _as_json(run.config, "state_dict", selector.state_dict())
    return {"format": FORMAT, "round": round_, **state, "selector": learnt}


def _metrics(run: Run, selector: base.Selector) -> Json:
    metrics: Json = _as_json(run.config, "metrics", selector.metrics())
    for name, value in metrics.items():
        if not isinstance(value, int | float):
            raise InputError(
                f"strategy {run.config.strategy}: metrics gives {value!r} as {name!r}, which is no number."
            )
    return metrics


def _write_round(run: Run, selector: base.Selector, round_: int, state: Json, inputs: Json) -> None:
    """Draw a round and write its rows, its state and, at last, its plan."""
    config, order = run.config, run.orders.find(state["order"])
    ranks = check_draw(config, selector.draw(round_), len(order))
    if config.order == "rank":
        ranks = np.sort(ranks)
    rows = order.rows[ranks]
    strata = run.strata
    counts = None if strata is None else check_shares(config, selector, strata, rows, round_)
    table = run.scored.take(rows)
    metrics = _metrics(run, selector)
    plan = {
        "format": FORMAT,
        "round": round_,
        "ids": table.column(ID).to_pylist(),
        "strategy": config.strategy,
        "params": run.facts["params"],
        "mu": metrics.get("mu"),
        "sigma": metrics.get("sigma"),
        "metrics": metrics,
        "order": {"by": config.by, "ordered_by": state["ordered_by"], "digest": state["order"]},
        "inputs": inputs,
        "forecast": _composition(table, ranks),
    }
    if counts is not None:
        plan["groups"] = {"by": config.stratify, "prompts": counts}
    more = _as_json(config, "plan_facts", selector.plan_facts(rows))
    check_plan_facts(config, selector, plan, more)
    full_state = {**_state(run, selector, round_, state), "rows": rows.tolist(), "finished": False}
    make_folder(run.round_folder(round_))
    remove_temporaries(run.round_folder(round_))
    write_data(run, round_, table, more.get("rollouts"))
    run.commit(full_state, plan | more)


def write_data_again(run: Run, round_: int) -> None:
    """Write the rows of a planned round whose file is gone."""
    table = run.scored.take(np.array(run.state_of(round_)["rows"]))
    write_data(run, round_, table, run.rollouts(round_))


def write_data(run: Run, round_: int, table: pa.Table, rollouts: list[int] | None) -> None:
    """Write the rows that a round trains on.

    Args:
        run: the run.
        round_: the round.
        table: its rows of the scored set.
        rollouts: its plan's group sizes, where it has them.
    """
    config = run.config
    shown = training_rows(table, run.scored.identity, bare=config.bare, with_scores=config.with_scores)
    if rollouts is not None:
        shown = shown.append_column(ROLLOUTS, pa.array(rollouts, pa.int64()))
    write_rows(run.data(round_), shown)


def _composition(table: pa.Table, ranks: Ints) -> Json:
    """What a round will be made of, before it is trained."""
    angles = table.column("gc_angle").drop_null().to_pylist()
    return {
        "prompt_tokens": int(table.column("gc_prompt_tokens").to_numpy().sum()),
        "mean_question_tokens": float(table.column("gc_question_tokens").to_numpy().mean()),
        "mean_angle": math.fsum(angles) / len(angles) if angles else None,
        "with_angle": len(angles),
        "ranks": [int(ranks.min()), float(np.median(ranks)), int(ranks.max())],
    }


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
    if config.rollouts is not None and config.where is None:
        raise InputError(f"--rollouts {config.rollouts} goes with --where.")
    if config.where is not None and getattr(options, "reuse_references", None) is not None:
        raise InputError(
            "--where and --reuse-references do not go together: references are of the whole set."
        )
    model = config.model
    if (
        model is not None
        and model.startswith(("/", "./", "../", "~"))
        and not os.path.exists(os.path.expanduser(model))  # whatever the name
    ):
        raise InputError(f"--model {model}: there is no such folder.")
    if (config.history or config.rates) and not kind.takes_evidence:
        option = "--history" if config.history else "--rates"
        raise InputError(f"strategy {config.strategy} does not read {option}; strategy posterior does.")
    options.check_run(config, scored)


def _as_json(config: ScheduleConfig, method: str, value: object) -> Any:
    """What a method of a strategy returned, as JSON gives it back. A user's own may return anything.

    Raises:
        InputError: it is no JSON value, or holds NaN or infinity.
    """
    if config.strategy in STRATEGIES:
        return value
    try:
        return json_value(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"strategy {config.strategy}: {method} returns no JSON value: {error}.") from error


def check_draw(config: ScheduleConfig, drawn: object, count: int) -> Ints:
    """What a strategy drew, as ranks. A user's own may be wrong, and a round that is must not be written.

    Raises:
        InputError: it is.
    """
    wrong = None
    try:
        ranks = np.asarray(drawn)
    except ValueError:  # lists of several lengths
        ranks = np.asarray(None)
    if ranks.dtype.kind not in "iu":
        wrong = f"drew {type(drawn).__name__} of {ranks.dtype}, and ranks are whole numbers"
    elif ranks.shape != (config.budget,):
        wrong = f"drew {ranks.shape} ranks for a budget of {config.budget}"
    elif len(np.unique(ranks)) < len(ranks):
        wrong = "drew a rank twice"
    elif ranks.min() < 0 or ranks.max() >= count:
        wrong = f"drew a rank outside 0 to {count - 1}"
    if wrong:
        raise InputError(f"strategy {config.strategy} {wrong}.")
    return ranks.astype(np.int64)


def check_shares(
    config: ScheduleConfig, selector: base.Selector, strata: Strata, rows: Ints, round_: int
) -> dict[str, int] | None:
    """How many prompts of each group a round has; None where there is one group beside rows left out.

    Args:
        config: the run's options.
        selector: what drew them. One that leaves references out may have to take from other groups.
        strata: the run's groups, by row.
        rows: `[budget]`, of the prompts.
        round_: the round.

    Raises:
        InputError: they are not the groups' quotas.
    """
    counts = np.bincount(strata.labels[rows], minlength=len(strata.names))
    quotas = strata.quotas(config.budget, round_)
    wrong = np.flatnonzero(counts != quotas)
    if len(wrong) and not (selector.leaves_out or selector.observes_references):
        group, asked = wrong[0], "--where" if strata.is_one else f"--stratify {config.stratify}"
        raise InputError(
            f"strategy {config.strategy} drew {counts[group]:,} prompts of group {strata.names[group]!r}, "
            f"and with {asked} round {round_} has {quotas[group]:,} of it. Pool.draw and Pool.pick keep the "
            "shares."
        )
    prompts = dict(zip(strata.names, counts.tolist(), strict=True))
    prompts.pop(LEFT_OUT, None)
    return None if strata.is_one else prompts


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
    numbers = all(isinstance(v, float | int) and not isinstance(v, bool) for v in predicted)
    if len(predicted) != config.budget or not numbers or not (np.abs(predicted) <= _LARGEST).all():
        raise InputError(
            f"strategy {config.strategy}: plan_facts gives {len(predicted):,} values as 'predicted'; "
            "needed is "
            f"a finite failure rate for each of the {config.budget:,} prompts."
        )
    rollouts = facts.get("rollouts", [1] * config.budget)
    if len(rollouts) != config.budget or not all(type(size) is int and size > 0 for size in rollouts):
        raise InputError(
            f"strategy {config.strategy}: plan_facts gives {len(rollouts):,} values as 'rollouts'; needed is "
            f"a whole number above 0 for each of the {config.budget:,} prompts."
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


def _matches(config: ScheduleConfig, scored: ScoredSet, note: Note) -> Mask | None:
    """For which rows `--where` holds, and a note of how many; None without it."""
    if config.where is None:
        return None
    matches = matching(scored, config.where, config.rollouts)
    holds, unknown = int(matches.rows.sum()), int(matches.unknown.sum())
    counts = f"holds for {holds:,} of {len(scored):,} rows ({unknown:,} have no value for it)"
    if holds < config.budget:
        raise InputError(f"--where {config.where!r} {counts}, and a round has {config.budget:,}.")
    note(f"--where {counts}")
    if matches.warning is not None:
        note(matches.warning)
    return matches.rows


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
