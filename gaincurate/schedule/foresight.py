"""What strategy `dots` prepares a draw with: references observed, every other prompt predicted from them.

Rollouts and predictions are commands of `gaincurate difficulty` in processes of their own. So nothing here
loads a model, the device is free again for the trainer, and killed work goes on where it was.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from gaincurate.core.artifact import MANIFEST, Json, broken, open_table
from gaincurate.core.files import digest_file, reading, write_json
from gaincurate.core.process import command_lock, last_line, run_command
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.difficulty.metrics import COLUMNS, Target
from gaincurate.errors import GaincurateError, InputError, OutputError, TrainerError
from gaincurate.schedule.base import load
from gaincurate.schedule.calibration import carried
from gaincurate.schedule.checkpoints import weights_of, why_incomplete
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.context import Context
from gaincurate.schedule.observations import Note
from gaincurate.schedule.references import OBSERVED, Asked, Seen, ask, needed, place_of, read
from gaincurate.schedule.run import MADE, Run
from gaincurate.schedule.strategies.dots_options import DotsOptions

Aim = Literal["difficulty", "variance", "auto"]
_PREDICTED = "predicted"
_OPTIONS = "rollouts.options.json"


def see_live(run: Run, checkpoints: bool) -> None:
    """See that a trainer can follow a run in one long process.

    Args:
        run: the run.
        checkpoints: at every round's end there is one of the trainer's, of the policy as it is then.

    Raises:
        InputError: its references are observed in a way that such a trainer has no part in.
    """
    rollout = run.config.options.get("rollout")
    if not load(run.config.strategy).observes_references:
        return
    if rollout is not None and (checkpoints or "server" in rollout):
        return
    raise InputError(
        f"{run.folder} observes references between rounds, and a trainer that follows it live does not wait "
        'for their outcomes. Start a run with --rollout and with "server", a server of the newest policy, in '
        "it. With --rollout alone, train with `gaincurate.trainers.trl.attach` or in segments with "
        "`gaincurate schedule run`."
    )


def observes_with_checkpoint(config: ScheduleConfig) -> bool:
    """Whether a run's references are rolled out with its newest checkpoint."""
    rollout = config.options.get("rollout")
    return rollout is not None and "server" not in rollout


def foresee(
    context: Context, references: Ints, options: DotsOptions, aim: Aim
) -> tuple[Floats, Target, Json]:
    """Predict every prompt for a round that is to be drawn.

    Args:
        context: of the round.
        references: `[K]`, the rows that are observed for it.
        options: how they are observed and the others predicted.
        aim: what is predicted; with `auto` the references say it.

    Returns:
        Every row's value, `[rows]`, what was predicted, and the plan's facts.

    Raises:
        NotReadyError: there are no outcomes of the references, and the run cannot make them or not yet.
        OutcomeError: they cannot be used.
        InputError: no checkpoint to roll out with, or one that is not complete.
        GaincurateError: rollouts or prediction failed; what was done is kept.
    """
    run, note, outcomes = context.run, context.note, context.reference_outcomes
    asked = ask(run, context.round, references)
    if context.opening:
        raise needed(run, asked)
    if outcomes is not None or asked.given.exists():
        seen = read(run, asked, outcomes or asked.given, note=note)
    elif options.rollout is not None:
        _roll_out(context, asked, options.rollout)
        seen = read(run, asked, asked.rollouts, ours=True)
    else:
        raise needed(run, asked)
    target, values, how = _predicted(run, options, asked, aim, note)
    facts = _plan_facts(run, options, asked, seen, how, context.checkpoint)
    return values, target, {**facts, "target": target}


def _roll_out(context: Context, asked: Asked, options: Json) -> None:
    """Have the references rolled out, unless the set of this very policy is there."""
    run, checkpoint, note = context.run, context.checkpoint, context.note
    if checkpoint is None and "server" not in options:
        raise InputError(
            f"the references of round {asked.round} are rolled out with a checkpoint (--rollout) and there "
            "is none: give --checkpoint to `schedule next`, or let the trainer write one below {output}."
        )
    path, policy = asked.folder / MADE, _policy(run, asked, options, checkpoint)
    rolled_out = read_sealed(path) if path.exists() else None
    same = rolled_out is not None and _same(rolled_out, policy)
    if asked.rollouts.exists() and not same:
        shutil.rmtree(asked.rollouts)  # of a policy that was trained past since
    if (asked.rollouts / MANIFEST).exists():
        return
    if not same:
        write_sealed(path, policy)
    if "server" in options:
        _generate(run, asked, ["--server", options["server"]], options, note)
    elif asked.round == 0:  # a name, a file or a folder, which the command knows how to find
        _generate(run, asked, ["--model", str(checkpoint)], options, note)
    else:
        with context.held(run, str(checkpoint)) as folder:
            if (why := why_incomplete(Path(folder))) is not None:
                raise InputError(
                    f"the checkpoint of round {asked.round - 1} cannot be used: {why}.", path=checkpoint
                )
            _generate(run, asked, ["--model", folder], options, note)


def _policy(run: Run, asked: Asked, options: Json, checkpoint: str | None) -> Json:
    """What tells the policy from a later one under the same name."""
    outcomes = run.outcomes(asked.round - 1)
    there = asked.round > 0 and checkpoint is not None and Path(checkpoint).is_dir()
    return {
        "server": options.get("server"),
        "checkpoint": None if "server" in options else checkpoint,
        "weights": weights_of(str(checkpoint)) if there and "server" not in options else None,
        "behind": digest_file(outcomes) if asked.round > 0 and outcomes.exists() else None,
    }


def _same(rolled_out: Json, wanted: Json) -> bool:
    """Whether rollouts that are there are of the policy that is wanted."""
    if wanted["weights"] is not None:
        # They say enough: outcomes may have been taken back and reported again since.
        return {**rolled_out, "behind": None} == {**wanted, "behind": None}
    # A trainer may delete a checkpoint that was rolled out with.
    return {**rolled_out, "weights": None} == wanted


def _generate(run: Run, asked: Asked, engine: Sequence[str], options: Json, note: Note) -> None:
    note(f"round {asked.round}: rolling out {len(asked.ids):,} references with {engine[1]}")
    config = asked.folder / _OPTIONS
    write_json(config, options)
    command = ["rollout", str(run.scored.folder.resolve()), "--out", str(asked.rollouts), *engine]
    command += ["--reference", str(len(asked.ids)), "--seed", str(asked.seed), "--config", str(config)]
    seconds = _call(run, asked, command, "rolling out", "What had arrived is kept")
    run.log(what="rollout", round=asked.round, seconds=seconds, policy=engine[1])


def _predicted(
    run: Run, options: DotsOptions, asked: Asked, aim: Aim, note: Note
) -> tuple[Target, Floats, Json]:
    """What is predicted, of every row, made now unless it is there, and how it was made."""
    out = asked.folder / _PREDICTED
    made_by, wanted = asked.folder / f"{_PREDICTED}.json", _wanted(run, options, asked, aim)
    whole = _target_in(out) is not None and made_by.exists() and read_sealed(made_by) == wanted
    if not whole:
        shutil.rmtree(out, ignore_errors=True)
        write_sealed(made_by, wanted)
        note(
            f"round {asked.round}: predicting {run.facts['rows']:,} prompts from {len(asked.ids):,} "
            "references"
        )
        command = ["predict", str(run.scored.folder.resolve()), "--rollouts", str(asked.folder / OBSERVED)]
        command += ["--out", str(out), *wanted["options"]]
        seconds = _call(run, asked, command, "predicting", "The rollouts are kept")
        run.log(what="predict", round=asked.round, seconds=seconds)
    target = _target_in(out)
    if target is None:
        raise OutputError(f"{out} is missing or damaged; delete it and run the same command again.")
    return target, *_column(out, COLUMNS[target])


def _target_in(out: Path) -> Target | None:
    """What a finished prediction is of; its description is written last."""
    return next((target for target, column in COLUMNS.items() if (out / f"{column}.json").exists()), None)


def _wanted(run: Run, options: DotsOptions, asked: Asked, aim: Aim) -> Json:
    """All that a prediction depends on."""
    how = ["--references", str(len(asked.ids)), "--seed", str(asked.seed), "--target", aim]
    adapter = None
    if options.adapter is not None:
        how += ["--adapter", options.adapter]
        with reading(Path(options.adapter)):
            adapter = digest_file(Path(options.adapter) / "config.json")
    elif options.group_column is not None:
        how += ["--method", "group-mean", "--group-column", options.group_column]
    else:
        how += ["--method", options.predictor]
    observed = digest_file(asked.folder / OBSERVED)
    return {"options": how, "observed": observed, "adapter": adapter, "set": run.scored.manifest_hash}


def _column(out: Path, column: str) -> tuple[Floats, Json]:
    """The values that `difficulty predict` wrote, in the order of the set's rows."""
    again = f"{out} and run the same command again"
    path, about = out / f"{column}.arrow", read_sealed(out / f"{column}.json", f"delete {again}")
    with reading(path):
        whole = path.exists() and digest_file(path) == about["hash"]
    if not whole:
        raise OutputError(f"{path} is missing or damaged; delete {again}.", path=str(path))
    values = open_table(path, broken(path, f"Delete {again}.")).column("value")
    return values.to_numpy().astype(np.float64), about["how"]


def _call(run: Run, asked: Asked, command: Sequence[str], what: str, progress: str) -> float:
    """Run a command of `gaincurate difficulty` to its end; the seconds that it took."""
    log = asked.folder / f"{command[0]}.log"
    try:
        with command_lock(run.folder, "difficulty.lock") as lock:
            whole = [sys.executable, "-m", "gaincurate", "difficulty", *command]
            return run_command(whole, environment={}, log=log, lock=lock)
    except TrainerError as error:
        code = error.data.get("code")
        why = last_line(log) or "it said nothing"
        if isinstance(code, int) and code < 0:
            why = f"it was ended by signal {-code}"
        raise GaincurateError(
            f"{what} for round {asked.round} failed: {why} (log: {log}). {progress}; run the same command "
            "again to go on.",
            log=str(log),
        ) from error


def _plan_facts(
    run: Run, options: DotsOptions, asked: Asked, seen: Seen, how: Json, checkpoint: str | None
) -> Json:
    """What the plan says of a round's references and of the predictor. A second run would say the same."""
    apart = ("on_references", "on_halves", "on_others", "outcomes", "policy")
    rates = seen.rates
    facts: Json = {
        "ids": asked.ids,
        "observed": len(rates.ids),
        **seen.facts,
        "carried": carried(rates.wins, rates.losses) if rates.counted else None,
        "checkpoint": _named(run, checkpoint),
        "predictor": {name: value for name, value in how.items() if name not in apart},
        "quality": how["on_references"],
        "quality_of_halves": how["on_halves"],
    }
    if options.reuse_references is not None:
        near = np.abs(rates.failure - options.target_difficulty) <= options.reuse_references
        facts["reusable"] = {
            "ids": [rates.ids[i] for i in np.flatnonzero(near).tolist()],
            "failure": rates.failure[near].tolist(),
            "rollouts": None if seen.rollouts is None else place_of(run, seen.rollouts),
        }
    return facts


def _named(run: Run, checkpoint: str | None) -> str | None:
    """A checkpoint as a plan names it; a model that is no path by its name."""
    if checkpoint is None or not Path(checkpoint).exists():
        return checkpoint
    return place_of(run, Path(checkpoint))
