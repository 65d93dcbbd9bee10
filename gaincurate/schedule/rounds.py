"""The composer: takes a scored set and what came back, yields the next round.

observe -> re-score where due -> move -> predict where the strategy asks -> draw -> write. A round's plan
depends on the scored set, the seed and the outcomes alone. Knows nothing of how a round is trained.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.artifact import EXECUTION, Json
from gaincurate.errors import InputError
from gaincurate.files import json_lines, remove_temporaries, write_json
from gaincurate.schedule import base
from gaincurate.schedule.calibration import calibration_of
from gaincurate.schedule.check import check_draw, check_options_of_a_run
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.dots import Dots
from gaincurate.schedule.foresight import Foresight, foresee
from gaincurate.schedule.noise import Ints
from gaincurate.schedule.observed import Note, concentration_of, late_outcomes, silent, take_outcomes
from gaincurate.schedule.order import Order, build
from gaincurate.schedule.orders import ORDER
from gaincurate.schedule.references import ask
from gaincurate.schedule.rescore import AS_IT_IS, Held, Rescored, due, rescore
from gaincurate.schedule.rows import training_rows, write_rows
from gaincurate.schedule.run import BASE, FORMAT, RUN, Run, making
from gaincurate.schema import ID
from gaincurate.scored_set import ScoredSet

_KEPT = ("order", "ordered_by", "scores", "probe", "checkpoint")


def start(config: ScheduleConfig, note: Note = silent) -> Run:
    """Open a run and write its round 0.

    Raises:
        InputError: an option does not go with the set or with another option.
        OutputError: the scored set is unfinished or damaged, or the run's folder holds something.
        LockedError: another process starts the same run.
    """
    scored = ScoredSet(config.scored)
    kind = base.load(config.strategy)
    options = base.check_options(config.strategy, kind, config.options)
    given = options.model_dump(mode="json", include=set(config.options))  # paths are whole from here on
    by = config.by or kind.by
    ascending = config.ascending
    if ascending is None:
        ascending = kind.ascending if by == kind.by else False
    check_options_of_a_run(config, scored, kind, by, options)
    with making(config.run) as folder:
        scored.verify()
        missing = build(folder / ORDER, scored, by, ascending=ascending)
        if missing:
            note(f"{missing:,} rows have no {by}; they come last")
        angles = pc.min_max(scored.column("gc_angle"))
        facts = {
            "format": FORMAT,
            "config": {
                **config.model_dump(mode="json"),
                "options": given,
                "by": by,
                "ascending": ascending,
                "model": config.model or model_of(config.scored),
            },
            "params": options.model_dump(mode="json"),
            "scores": {
                "folder": str(config.scored.resolve()),
                "relative": os.path.relpath(config.scored, config.run),
                "manifest": scored.manifest_hash,
            },
            "rows": len(scored),
            "rows_without_value": missing,
            "angles": [angles["min"].as_py(), angles["max"].as_py()],
        }
        write_json(folder / RUN, facts)
        run = Run(folder)
        state = {
            "order": Order(folder / ORDER).digest,
            "ordered_by": BASE,
            "scores": BASE,
            "probe": BASE,
            "taken": {},
            "checkpoint": run.config.model,
        }
        selector = selector_of(run)
        if isinstance(selector, Dots):  # round 0 needs what references did
            kept = {"format": FORMAT, "round": -1, **state, "rows": [], "selector": selector.state()}
            run.commit({**kept, "inputs": {}, "finished": False}, None)
            ask(run, selector, 0)
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


def model_of(scored: Path) -> str | None:
    """The model that scored a set, by the name that it was given; a folder here by its whole path."""
    path = scored / EXECUTION
    name = None
    for _, entry in json_lines(path) if path.exists() else ():
        if entry is not None and "model" in entry:
            name = str(entry["model"])
    return str(Path(name).resolve()) if name is not None and Path(name).exists() else name


def selector_of(run: Run, state: Json | None = None) -> base.Selector:
    """A run's selector at its start, or as a state left it."""
    config, low_high = run.config, run.facts["angles"]
    pool = base.Pool(run.facts["rows"], config.budget, config.seed, (low_high[0], low_high[1]))
    selector = base.build(config.strategy, pool, config.options)
    if state is not None:
        selector.restore(state["selector"])
    return selector


def advance(
    run: Run,
    checkpoint: str | None = None,
    note: Note = silent,
    held: Held = AS_IT_IS,
    references: Path | None = None,
) -> Path | None:
    """Take the newest round's outcomes and write the next one; call it while holding `working_on`.

    Of a run that has no round yet, because its strategy first has to know what references do, write round 0.

    Args:
        run: the run.
        checkpoint: what the round's training left; needed where a re-scoring is due.
        note: told what a person should know.
        held: makes of the checkpoint the folder that is scored, or that references are rolled out with.
        references: their outcomes for the next round, where a person has them in a file.

    Returns:
        The next round's folder; None where that was the last round.

    Raises:
        InputError: the outcomes cannot be used, or a checkpoint is needed; nothing is changed.
        GaincurateError: the re-scoring failed; what was scored is kept.
    """
    state, config = run.state, run.config
    if state.get("finished"):
        raise InputError(f"{run.folder} is finished: all of its {config.rounds} rounds are done.")
    round_ = state["round"]
    if round_ < 0:
        if checkpoint is not None:
            raise InputError(
                f"--checkpoint {checkpoint}: no round of {run.folder} was trained yet; its first references "
                f"are "
                "observed with the model that training begins with (--model of `schedule start`)."
            )
        selector = selector_of(run, state)
        told = _foresight(run, selector, 0, state["checkpoint"], note, held, references)
        _write_round(run, selector, 0, {name: state[name] for name in (*_KEPT, "taken")}, {}, told)
        return run.round_folder(0)
    run.orders.settle(state["order"])
    found = take_outcomes(run, round_, note)
    late, taken = late_outcomes(run, state, found)
    selector = selector_of(run, state)
    fresh = Rescored()
    if due(config, round_):
        fresh = rescore(run, state, selector, checkpoint, note, held)
    state = {key: state[key] for key in ("rows", *_KEPT)} | fresh.changes() | {"taken": taken}
    if checkpoint is not None:
        state["checkpoint"] = str(Path(checkpoint).resolve())
    rows = np.asarray(state["rows"], np.int64)
    concentration, source, over = concentration_of(run, state["scores"], run.ids(round_), rows)
    assert found.accuracy is not None  # or the coverage was refused
    tallies = list(found.tallies.values())
    selector.observe(
        base.Observed(
            round_,
            rows,
            np.array([math.fsum(tally.successes) for tally in tallies]),
            np.array([len(tally.successes) - math.fsum(tally.successes) for tally in tallies]),
            found.accuracy,
            concentration,
            late,
        )
    )
    inputs = {
        "round": round_,
        "accuracy": found.accuracy,
        "effective": found.effective,
        "concentration": concentration,
        "concentration_from": source,
        "concentration_over": over,
        "prompts": sum(bool(t.successes or t.unjudged) for t in tallies),
        "rollouts": found.rollouts,
        "unjudged": found.unjudged,
        "late": len(late[0]),
        "completion_tokens": found.tokens,
        "rescored": fresh.scores,
        "drift": fresh.drift,
        **calibration_of(run.plan(round_), tallies),
    }
    told = None
    if round_ + 1 < config.rounds:
        told = _foresight(run, selector, round_ + 1, checkpoint, note, held, references)
    elif references is not None:
        note(f"warning: {references} was not read: round {round_} is the last, and no other needs references")
    # Not in the plan, which a trainer that was killed and run again must not change.
    run.log(what="outcomes", round=round_, repeated=found.repeated, void=found.void)
    if round_ + 1 < config.rounds:
        _write_round(run, selector, round_ + 1, state, inputs, told)
        return run.round_folder(round_ + 1)
    last = {"format": FORMAT, "round": round_, **state, "selector": selector.state()}
    run.commit({**last, "inputs": inputs, "metrics": selector.metrics(), "finished": True}, None)
    return None


def _foresight(
    run: Run,
    selector: base.Selector,
    round_: int,
    checkpoint: str | None,
    note: Note,
    held: Held,
    references: Path | None,
) -> Foresight | None:
    """What a strategy that goes by predictions knows before a draw."""
    if isinstance(selector, Dots):
        return foresee(run, selector, round_, checkpoint, note, held, references)
    if references is not None:
        raise InputError(
            f"--reference-outcomes {references}: strategy {run.config.strategy} observes no references."
        )
    return None


def _write_round(
    run: Run,
    selector: base.Selector,
    round_: int,
    state: Json,
    inputs: Json,
    told: Foresight | None = None,
) -> None:
    """Draw a round and write its rows, its state and, at last, its plan."""
    config, order = run.config, run.orders.find(state["order"])
    if told is not None and isinstance(selector, Dots):
        selector.inform(told.values, told.references)
    ranks = np.asarray(selector.draw(round_), np.int64)
    check_draw(config, ranks, len(order))
    if config.order == "rank":
        ranks = np.sort(ranks)
    rows = order.rows[ranks]
    table = run.scored.take(rows)
    run.round_folder(round_).mkdir(parents=True, exist_ok=True)
    remove_temporaries(run.round_folder(round_))
    shown = training_rows(table, run.scored.identity, bare=config.bare, with_scores=config.with_scores)
    write_rows(run.data(round_), shown)
    metrics = selector.metrics()
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
        "forecast": _forecast(table, ranks),
    }
    if told is not None:
        plan |= {"predicted": told.values[rows].tolist(), "references": told.told}
    kept = {"format": FORMAT, "round": round_, **state, "rows": rows.tolist()}
    run.commit({**kept, "selector": selector.state(), "finished": False}, plan)


def _forecast(table: pa.Table, ranks: Ints) -> Json:
    """What a round will be made of, before it is trained."""
    angles = table.column("gc_angle").to_numpy()
    return {
        "prompt_tokens": int(table.column("gc_prompt_tokens").to_numpy().sum()),
        "mean_question_tokens": float(table.column("gc_question_tokens").to_numpy().mean()),
        "mean_angle": math.fsum(angles.tolist()) / len(angles),
        "ranks": [int(ranks.min()), float(np.median(ranks)), int(ranks.max())],
    }
