"""Scores prompts again at a checkpoint: a new set, a new order, or neither.

A fixed probe is scored first; while its ranks stay the same, the rest is not scored. A separate process runs
`gaincurate score`, so this one loads no model and the device is free for the trainer afterwards. Every new
set is of one checkpoint only, because scores of two checkpoints are not comparable. Killed work resumes.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.arrow import write_ipc
from gaincurate.core.artifact import MANIFEST, Json
from gaincurate.core.files import make_folder, write_atomic, write_json
from gaincurate.core.process import command_lock, last_line, run_command
from gaincurate.core.rng import Floats, Ints, permutation
from gaincurate.core.schema import ID, LIKELIHOODS, PREFIX, SCORE_FIELDS
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.core.stats import spearman
from gaincurate.errors import GaincurateError, InputError, OutputError, TrainerError
from gaincurate.schedule.base import Selector
from gaincurate.schedule.checkpoints import weights_of, why_incomplete
from gaincurate.schedule.run import Order, Run, build, sorted_by, write_order

OF_MODEL = (*(field.name for field in SCORE_FIELDS if field.name.startswith("gc_angle")), *LIKELIHOODS)
"""The columns to order by that a checkpoint changes."""
_COUNTS = ("gc_prompt_tokens", "gc_prefix_tokens", "gc_question_tokens")
_PROBE_STREAM = 2


def rescore(
    run: Run, state: Json, selector: Selector, checkpoint: str, note: Callable[[str], None]
) -> tuple[Json, float | None]:
    """Score the prompts that the run's options name with the round's checkpoint, a folder.

    Returns:
        The changes of the run's state, and the rank correlation of new scores with those in use. The changes
        are `scores`, the set that C_t is taken from, `probe`, the set that later probes are compared with,
        `order`, the digest of a new order, and `ordered_by`, the set that it goes by.

    Raises InputError for a checkpoint that is not complete, GaincurateError if the scoring failed, and
    OutputError for a checkpoint that reads the prompts as other tokens than the first model.
    """
    config, round_ = run.config.rescore, state["round"]
    if (why := why_incomplete(Path(checkpoint))) is not None:
        raise InputError(f"the checkpoint of round {round_} cannot be used: {why}.", path=checkpoint)
    name = f"scores/{round_:05d}"
    if config.what == "round":
        # C_t moves with the level of the angles, which a rank correlation does not see: no probe here.
        rows = np.asarray(state["rows"], np.int64)
        scored = _scored(run, round_, checkpoint, name, rows, note)
        return {"scores": name}, _drift(run, state, scored, rows, "gc_angle")
    by, ascending = str(run.config.by), bool(run.config.ascending)
    drift, changes = None, {"scores": name, "ordered_by": name}
    if config.probe:
        rows, probe = probe_rows(run), f"{name}-probe"
        changes["probe"] = probe
        drift = _drift(run, state, _scored(run, round_, checkpoint, probe, rows, note), rows, by)
        if drift is not None and drift >= config.drift:
            close = f"the probe's rank correlation with the scores in use is {drift:.3f}"
            note(f"round {round_}: {close}, so the rest is not scored again")
            return {}, drift
    order = run.order(state["order"])
    if config.what == "full":
        build(run.next_order, _scored(run, round_, checkpoint, name, None, note), by, ascending=ascending)
    else:
        reach = selector.reach(config.every)
        assert reach is not None  # or `schedule start` refused
        ranks = np.arange(reach[0], reach[1] + 1)
        rows = np.union1d(order.rows[ranks], np.asarray(state["rows"], np.int64))
        scored = _scored(run, round_, checkpoint, name, rows, note)
        ids = run.scored.take(order.rows[ranks]).column(ID)
        values = _values(scored, ids, by)  # all from one checkpoint
        by_value = sorted_by(values, ids, ascending=ascending)
        rows, held = order.rows.copy(), order.values.copy()
        rows[ranks], held[ranks] = rows[ranks[by_value]], values[by_value]
        write_order(run.next_order, rows, held)
    return {**changes, "order": Order(run.next_order).digest}, drift


def probe_rows(run: Run) -> Ints:
    """`[probe]`: the fixed probe's rows, evenly at random from the whole set, sorted."""
    rows, size = run.facts["rows"], run.config.rescore.probe
    return np.sort(permutation(run.config.seed, 0, _PROBE_STREAM, rows)[:size])


def _drift(run: Run, state: Json, scored: ScoredSet, rows: Ints, by: str) -> float | None:
    """Rank correlation of new scores with the last probe's; None if they are too few or all equal."""
    ids = run.scored.take(rows).column(ID)
    before = ScoredSet(run.set_folder(state["probe"]), verify=False)
    drift = spearman(_values(before, ids, by), _values(scored, ids, by))
    run.log(what="drift", round=state["round"], drift=drift, against=state["probe"])
    return drift


def _values(scored: ScoredSet, ids: pa.ChunkedArray, name: str) -> Floats:
    """A score column at these ids."""
    places = pc.index_in(ids, value_set=scored.column(ID).combine_chunks())
    column = pc.cast(scored.column(name), pa.float64()).combine_chunks()
    values: Floats = column.take(places.combine_chunks()).to_numpy(zero_copy_only=False)
    return values


def _scored(
    run: Run, round_: int, checkpoint: str, name: str, rows: Ints | None, note: Callable[[str], None]
) -> ScoredSet:
    """The set of these rows (None: all) under the checkpoint; scores it unless it is there."""
    out, work = run.folder / name, run.folder / "work"
    base: ScoredSet | pa.Table = run.scored if rows is None else run.scored.take(rows)
    make_folder(work)
    made_by, wanted = work / f"{out.name}.json", {"checkpoint": checkpoint, "weights": weights_of(checkpoint)}
    if out.exists() and not (made_by.exists() and read_sealed(made_by) == wanted):
        shutil.rmtree(out)  # of a checkpoint that this round was trained past since
    if not (out / MANIFEST).exists():
        write_sealed(made_by, wanted)
        note(f"round {round_}: scoring {len(base):,} prompts with {checkpoint}")
        data = str(work / f"{out.name}.arrow")
        if isinstance(base, ScoredSet):
            data = str(base.folder / "shard-*.arrow")
        else:
            columns = [n for n in base.column_names if not n.startswith(PREFIX) or n == ID]
            write_ipc(Path(data), base.select(columns).combine_chunks())
        config = work / f"{out.name}.options.json"
        write_json(config, options_of(run.scored.identity, work, run.config.by))
        make_folder(out.parent)
        words = ["score", data, "--model", checkpoint, "--out", str(out), "--config", str(config)]
        words += run.config.rescore.options  # flags win over the file
        log, what = run.round_folder(round_) / "scoring.log", f"scoring the checkpoint of round {round_}"
        seconds = run_gaincurate(run, words, log, "scoring.lock", what)
        run.log(what="scoring", round=round_, set=name, seconds=seconds, checkpoint=checkpoint)
    scored = ScoredSet(out, verify=False)
    for column in (ID, *_COUNTS):  # the same rows, read as as many tokens in each span
        if not base.column(column).equals(scored.column(column)):
            raise OutputError(
                f"{scored.folder} has other prompts than the run's scored set ({column} differs): does the "
                "checkpoint have the tokenizer and the chat template of the model that scored the set?",
                column=column,
            )
    return scored


def run_gaincurate(run: Run, words: Sequence[str], log: Path, lock: str, what: str) -> float:
    """Run `gaincurate` with these arguments in a separate process, and return the seconds that it took.

    Raises:
        GaincurateError: it failed; what was done is kept.
    """
    try:
        with command_lock(run.folder, lock) as held:
            command = [sys.executable, "-m", "gaincurate", *words]
            return run_command(command, environment={}, log=log, lock=held)
    except TrainerError as error:
        raise GaincurateError(
            f"{what} failed: {last_line(log) or 'it said nothing'} (log: {log}). What was done is kept; run "
            "the same command again to go on.",
            log=str(log),
        ) from error


def options_of(identity: Json, work: Path, by: str | None = None) -> Json:
    """The options of `gaincurate score` that render prompts and read states as in a set with this identity.

    They name a file in `work` for a text that an option would take for the name of a file. The new set has
    the column `by`.
    """
    source, segmentation = identity["source"], identity.get("segmentation", {})
    options: Json = {"id_column": ID, "prompt_column": source["prompt_column"]}
    options |= {
        name: segmentation[name]
        for name in ("system_override", "shots", "template_kwargs", "max_length")
        if segmentation.get(name)
    }
    system = segmentation.get("system")
    if system is not None and system.startswith("@"):  # which would name a file
        write_atomic(work / "system.txt", f"{system}\n".encode())
        options["system"] = f"@{work / 'system.txt'}"
    elif system is not None:
        options["system"] = system
    if segmentation.get("overlong") == "truncate":
        options["on_overlong"] = "truncate"
    options |= {"site": identity["site"], "inter_weight": identity.get("inter_weight", 1.0)}
    if identity.get("layer") is not None:
        options["layer"] = identity["layer"]
    if by in LIKELIHOODS:
        options["signals"] = ["angle", "nll" if by == LIKELIHOODS[0] else "entropy"]
    return {**options, "dtype": identity["dtype"]}
