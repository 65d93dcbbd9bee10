"""Opens a run and advances it round by round: observe, prepare, draw, write.

A round's plan depends only on the scored set, the seed and the outcomes. So nothing is kept in memory between
rounds: each begins from the state that the last plan was written with, and a run that was killed resumes with
the same plans.

The options of a run are checked against its scored set and each other when it is opened; `Options.check_run`
of a strategy checks what only that strategy needs. What a strategy returns is checked before a round is
written.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.arrow import write_ipc
from gaincurate.core.artifact import RUN, Json
from gaincurate.core.files import make_folder, remove_temporaries
from gaincurate.core.foreign import json_value
from gaincurate.core.prompts import write_rows
from gaincurate.core.rng import Ints
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import write_sealed
from gaincurate.core.store import Remote, cache_folder
from gaincurate.difficulty.methods import read_rates
from gaincurate.errors import InputError, NotReadyError
from gaincurate.schedule import base, groups, observations
from gaincurate.schedule.base import Context
from gaincurate.schedule.checkpoints import AS_IT_IS, Held, first_model
from gaincurate.schedule.config import BY_EMBEDDING, STRATEGIES, ScheduleConfig
from gaincurate.schedule.groups import LEFT_OUT, PromptGroups
from gaincurate.schedule.observations import HISTORY, RATES, REPLAY, Note, silent
from gaincurate.schedule.rescore import OF_MODEL, rescore
from gaincurate.schedule.run import BASE, FORMAT, GROUPS, ORDER, ROLLOUTS, Order, Run, build, making

_LARGEST = 1e9  # of a predicted failure rate, because figures are computed from it


def start(config: ScheduleConfig, note: Note = silent, references: Path | None = None) -> Run:
    """Open a run and write its round 0, unless its strategy has to wait for something first.

    `references` is a file of the outcomes of round 0's references.

    Raises:
        InputError: an option does not fit the set or another option.
        OutputError: the scored set is unfinished or damaged, or the run's folder is not empty.
        LockedError: another process is starting the same run.
    """
    scored = ScoredSet(config.scored)
    kind = base.load(config.strategy)
    options = base.check_options(config.strategy, kind, config.options)
    by = config.by or kind.by
    ascending = config.ascending
    if ascending is None:
        ascending = kind.ascending and by == kind.by
    model = config.model or first_model(scored, note)
    config = config.model_copy(update={"model": model})
    _check_options(config, scored, kind, by, options)
    _check_references(config, kind, references)
    if isinstance(config.scored, Remote):
        where = {"folder": str(config.scored), "cache": str(cache_folder().absolute())}
    else:
        relative = os.path.relpath(config.scored, config.run)
        where = {"folder": str(config.scored.resolve()), "relative": relative}
    with making(config.run) as folder:
        scored.verify()
        if missing := build(folder / ORDER, scored, by, ascending=ascending):
            note(f"{missing:,} rows have no {by}; they come last")
        matches = None
        if config.where is not None:
            matches, unknown = observations.matching(scored, config.where, config.rollouts, note)
            counts = f"{matches.sum():,} of {len(scored):,} rows ({unknown.sum():,} have no value for it)"
            if matches.sum() < config.budget:
                few = f"holds for {counts}, and a round has {config.budget:,}"
                raise InputError(f"--where {config.where!r} {few}.")
            note(f"--where holds for {counts}")
        if config.stratify != "none" or matches is not None:
            groups.build(folder / GROUPS, scored, config, matches, note)
        if config.history:
            observations.build_history(folder / HISTORY, scored, config, note)
        if names := config.rates:
            write_ipc(folder / RATES, pa.table(dict(zip(names, read_rates(scored, names).T, strict=True))))
        # Paths are absolute from here on.
        given = options.model_dump(mode="json", include=set(config.options))
        settings = {"options": given, "by": by, "ascending": ascending}
        angles = pc.min_max(scored.column("gc_angle"))
        facts = {
            "format": FORMAT,
            "config": config.model_dump(mode="json") | settings,
            "params": options.model_dump(mode="json"),
            "scores": {**where, "manifest": scored.manifest_hash},
            "rows": len(scored),
            **({} if matches is None else {"kept": int(matches.sum())}),
            "angles": [angles["min"].as_py(), angles["max"].as_py()],
        }
        write_sealed(folder / RUN, facts)
        run, order = Run(folder, scored), Order(folder / ORDER).digest
        sets = dict.fromkeys(("ordered_by", "scores", "probe"), BASE)
        state: Json = {"format": FORMAT, "order": order, **sets, "taken": {}, "checkpoint": model}
        selector = selector_of(run)
        try:
            selector.prepare(Context(run, 0, order, model, note, reference_outcomes=references, opening=True))
        except NotReadyError as error:  # round 0 is planned by the first `advance`
            note(str(error).replace(str(folder), str(config.run)))
            learnt = _as_json(config, "state_dict", selector.state_dict())
            run.commit(state | {"round": -1, "selector": learnt, "rows": [], "finished": False})
        else:
            _write_round(run, selector, 0, state, {})
        sigma = selector.metrics().get("sigma")
        if sigma is not None and not 1 <= sigma <= len(scored) / 2:
            draws = "nearly even over the set" if sigma > 1 else "a few ranks wide"
            width = f"sigma is {sigma:g} ranks of {len(scored):,}, so draws are {draws}"
            note(f"warning: {width}; --sigma 0.1N is a tenth of the set")
    return Run(config.run)


def selector_of(run: Run, state: Json | None = None) -> base.Selector:
    """A run's selector at its start, or as a state left it."""
    config, strata = run.config, run.strata
    low, high = (angle or 0.0 for angle in run.facts["angles"])  # None in a set without angles
    if strata is not None and config.by is not None:
        order = Order(run.folder / ORDER) if state is None else run.order(state["order"])
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
    """Take the newest round's outcomes and write the next round; call it while holding `working_on`.

    If the run has no round yet, because its strategy had to wait for something, write round 0. `checkpoint`
    is the checkpoint of the round's training, needed if a re-scoring is due; `held` makes the folder of it
    that is scored or that rolls out references. `references` is a file of the outcomes of the next round's
    references, if a person has one.

    Returns:
        The next round's folder; None if that was the last round.

    Raises:
        InputError: the outcomes cannot be used, or a checkpoint is needed; the run is unchanged.
        NotReadyError: the strategy has to wait for something before it draws; the run is unchanged.
        GaincurateError: the re-scoring failed; what was scored is kept.
    """
    state, log = run.state, Json()
    if state["finished"]:
        raise InputError(f"{run.folder} is finished: all of its {run.config.rounds} rounds are done.")
    round_ = state["round"] + 1
    if round_ > 0:
        selector, state, inputs, log = _observe(run, state, checkpoint, note, held)
    elif checkpoint is not None:
        raise InputError(
            f"--checkpoint {checkpoint}: no round of {run.folder} was trained yet; round 0 is prepared with "
            "the model that training begins with (--model of `schedule start`)."
        )
    else:
        selector, inputs, checkpoint = selector_of(run, state), {}, state["checkpoint"]
    finished = round_ == run.config.rounds
    if not finished:
        if references is not None:
            _check_references(run.config, type(selector), references)
        selector.prepare(Context(run, round_, state["order"], checkpoint, note, held, references))
    if log:  # not in the plan, which a trainer that was killed and run again must not change
        run.log(**log)
    if not finished:
        _write_round(run, selector, round_, state, inputs)
        return run.round_folder(round_)
    metrics = _as_json(run.config, "metrics", selector.metrics())
    learnt = _as_json(run.config, "state_dict", selector.state_dict())
    run.commit(state | {"selector": learnt, "inputs": inputs, "metrics": metrics, "finished": True})
    return None


def _observe(
    run: Run, state: Json, checkpoint: str | None, note: Note, held: Held
) -> tuple[base.Selector, Json, Json, Json]:
    """Take the newest round's outcomes, score again if that is due, and pass the outcomes to the strategy.

    Returns the selector, the state, the inputs of the next plan, and a line of the log.
    """
    round_, plan = state["round"], run.plan(state["round"])
    run.settle_order(state["order"])
    outcomes = observations.take_outcomes(run, round_, note)
    late, taken = observations.late_outcomes(run, state, outcomes)
    selector, changes, drift = selector_of(run, state), Json(), None
    if run.rescores_after(round_):
        if checkpoint is None:
            raise InputError(
                f"a re-scoring is due after round {round_} (--rescore {run.config.rescore.what}) and there "
                "is no checkpoint: give --checkpoint to `schedule next`, or let the trainer write one below "
                "{output}."
            )
        with held(run, checkpoint) as folder:
            changes, drift = rescore(run, state, selector, folder, note)
        if "order" in changes and run.strata is not None:  # a rank has another row's group from now on
            selector = selector_of(run, {"selector": selector.state_dict(), "order": changes["order"]})
    state = state | changes | {"taken": taken}
    if checkpoint is not None:
        state["checkpoint"] = str(Path(checkpoint).resolve())
    concentration, source, over = observations.concentration_of(run, state["scores"], plan)
    assert outcomes.accuracy is not None  # or the coverage was refused
    tallies = list(outcomes.tallies.values())
    wins, losses = observations.sums_of(tallies)
    tokens = np.array([tally.tokens / max(tally.with_tokens, 1) for tally in tallies])
    rows, angle = np.asarray(state["rows"], np.int64), concentration or 0.0
    selector.observe(base.Observed(round_, rows, wins, losses, outcomes.accuracy, angle, late, tokens))
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
        "rescored": changes.get("scores"),
        "drift": drift,
        **(observations.calibration_of(plan, tallies) if "predicted" in plan else {}),
    }
    share, share_before = (each.get("effective") or 0 for each in (inputs, plan["inputs"]))
    if (why := observations.nothing_learnt(run, inputs)) is not None:
        note(f"warning: {why}")
    elif 0 < share < 0.5 and not 0 < share_before < 0.5:  # once, when it begins; 0 may be groups of one
        note(f"in round {round_}, {REPLAY}")
    log = {"what": "outcomes", "round": round_, "repeated": outcomes.repeated, "void": outcomes.void}
    return selector, state, inputs, log


def _write_round(run: Run, selector: base.Selector, round_: int, state: Json, inputs: Json) -> None:
    """Draw a round and write its rows, its state and, at last, its plan."""
    config, order, strata = run.config, run.order(state["order"]), run.strata
    ranks = _checked_draw(config, selector.draw(round_), len(order.rows))
    if config.order == "rank":
        ranks = np.sort(ranks)
    rows = order.rows[ranks]
    table, metrics = run.scored.take(rows), _as_json(config, "metrics", selector.metrics())
    angles = table.column("gc_angle").drop_null().to_pylist()
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
        "forecast": {  # the composition of the round
            "prompt_tokens": int(table.column("gc_prompt_tokens").to_numpy().sum()),
            "mean_question_tokens": float(table.column("gc_question_tokens").to_numpy().mean()),
            "mean_angle": math.fsum(angles) / len(angles) if angles else None,
            "with_angle": len(angles),
            "ranks": [int(ranks.min()), float(np.median(ranks)), int(ranks.max())],
        },
    }
    if strata is not None and (counts := _checked_shares(config, selector, strata, rows, round_)):
        plan["groups"] = {"by": config.stratify, "prompts": counts}
    if more := selector.plan_facts(rows):
        plan |= _checked_facts(config, selector, plan, more)
    learnt = _as_json(config, "state_dict", selector.state_dict())
    make_folder(run.round_folder(round_))
    remove_temporaries(run.round_folder(round_))
    write_data(run, round_, table, plan.get("rollouts"))
    of_round = {"round": round_, "selector": learnt, "rows": rows.tolist(), "finished": False}
    run.commit(state | of_round, plan)


def write_data(run: Run, round_: int, table: pa.Table, rollouts: list[int] | None) -> None:
    """Write the rows of the scored set that a round trains on, with the plan's group sizes if it has them."""
    shown = run.shown(table)
    if rollouts is not None:
        shown = shown.append_column(ROLLOUTS, pa.array(rollouts, pa.int64()))
    write_rows(run.data(round_), shown)


def _check_options(
    config: ScheduleConfig,
    scored: ScoredSet,
    kind: type[base.Selector],
    by: str | None,
    options: base.Options,
) -> None:
    """Check the options of a run, the strategy's own options, and the column of the order."""
    what, model, strategy = config.rescore.what, config.model or "", f"strategy {config.strategy}"
    is_path, wrong = model.startswith(("/", "./", "../", "~")), None
    if config.budget > len(scored):
        wrong = f"--budget {config.budget:,} is over the {len(scored):,} rows of {config.scored}"
    elif config.budget % config.align_to:
        wrong = f"--budget {config.budget:,} is no multiple of --align-to {config.align_to:,}"
    elif not 0 < config.reward_high - config.reward_low < math.inf:
        wrong = "--reward-range: the first must be less than the second"
    elif by is None and config.ascending is not None:
        wrong = f"--ascending and --descending: {strategy} has no order"
    elif config.by and kind.ordering == "none":
        wrong = f"--by {config.by}: {strategy} has no order; leave --by out"
    elif what == "off" and config.rescore.options:
        wrong = "--scoring goes with --rescore round, window or full"
    elif what in ("window", "full") and not (kind.ordering == "any" and by in OF_MODEL):
        wrong = f"--rescore {what} needs an order that may change, by a score of the model "
        wrong += f"({', '.join(OF_MODEL)}), and {strategy} goes by {by}; use --rescore round or off"
    elif what == "window" and kind.reach is base.Selector.reach:
        wrong = f"--rescore window: {strategy} does not say which ranks it can reach; use full"
    elif config.clusters and config.stratify != BY_EMBEDDING:
        wrong = f"clusters goes with --stratify {BY_EMBEDDING}"
    elif config.group_weights is not None and config.stratify in (BY_EMBEDDING, "none"):
        wrong = "--group-weights goes with --stratify COLUMN"
    elif config.rollouts and not config.where:
        wrong = f"--rollouts {config.rollouts} goes with --where"
    elif config.where and getattr(options, "reuse_references", None) is not None:
        wrong = "--where and reuse_references do not go together: references are of the whole set"
    elif is_path and not os.path.exists(os.path.expanduser(model)):
        wrong = f"--model {model}: there is no such folder"
    elif (config.history or config.rates) and not kind.takes_evidence:
        wrong = f"{strategy} does not read --history or --rates; posterior does"
    if wrong is not None:
        raise InputError(f"{wrong}.")
    options.check_run(config, scored)


def _check_references(config: ScheduleConfig, kind: type[base.Selector], outcomes: Path | None) -> None:
    if outcomes is not None and not kind.observes_references:
        why = f"strategy {config.strategy} observes no references"
        raise InputError(f"--reference-outcomes {outcomes}: {why}.")


# A user's strategy may return anything, and a wrong round must not be written.


def _as_json(config: ScheduleConfig, method: str, value: Any) -> Any:
    """The result of a strategy's method, after a trip through JSON."""
    if config.strategy in STRATEGIES:
        return value
    try:
        value = json_value(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"strategy {config.strategy}: {method} returns no JSON value: {error}.") from error
    for name, number in value.items() if method == "metrics" else ():
        if not isinstance(number, int | float):
            wrong = f"metrics gives {number!r} as {name!r}, which is no number"
            raise InputError(f"strategy {config.strategy}: {wrong}.")
    return value


def _checked_draw(config: ScheduleConfig, drawn: object, count: int) -> Ints:
    """The ranks that a strategy drew, `[budget]`: distinct, below `count`."""
    ranks = np.asarray(drawn)
    whole = ranks.dtype.kind in "iu" and ranks.shape == (config.budget,)
    distinct = len(np.unique(ranks)) if whole else 0
    if distinct < config.budget or ranks.min() < 0 or ranks.max() >= count:
        shown = f", {distinct} of them distinct" if whole else ""
        raise InputError(
            f"strategy {config.strategy} drew ranks of shape {ranks.shape} and type {ranks.dtype}{shown}; a "
            f"round needs {config.budget} distinct whole numbers from 0 to {count - 1}."
        )
    return ranks.astype(np.int64)


def _checked_shares(
    config: ScheduleConfig, selector: base.Selector, strata: PromptGroups, rows: Ints, round_: int
) -> dict[str, int] | None:
    """The number of prompts of each group, None without groups; an InputError for a quota that must hold."""
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


def _checked_facts(config: ScheduleConfig, selector: base.Selector, plan: Json, facts: Json) -> Json:
    """The facts that a strategy adds to a plan, checked: they replace no key and are readable later."""
    facts = _as_json(config, "plan_facts", facts)
    taken = plan.keys() if selector.observes_references else plan.keys() | {"references"}
    predicted = facts.get("predicted", [0.0] * config.budget)
    rollouts = facts.get("rollouts", [1] * config.budget)
    wrong = None
    if both := sorted(taken & facts.keys()):
        wrong = f"{both[0]!r}, which plans have already; take another name"
    elif len(predicted) != config.budget or not all(
        type(value) in (int, float) and abs(value) <= _LARGEST for value in predicted
    ):
        wrong = f"'predicted' that is no finite failure rate for each of the {config.budget:,} prompts"
    elif len(rollouts) != config.budget or not all(type(size) is int and size > 0 for size in rollouts):
        wrong = f"'rollouts' that is no whole number above 0 for each of the {config.budget:,} prompts"
    if wrong:
        raise InputError(f"strategy {config.strategy}: plan_facts gives {wrong}.")
    return facts
