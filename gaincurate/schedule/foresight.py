"""Prepares a draw of strategy `dots`: observes references and predicts all other prompts from them.

Outcomes of references come from a rollout set or from a file that a user writes. Both are written in one
form, so a prediction does not depend on their source. Rollouts are made by `gaincurate difficulty rollout`
in a separate process, which frees the device for the trainer afterwards and resumes after a kill. A
prediction is cheap and is made again after a kill.
"""

from __future__ import annotations

import math
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.arrow import parquet_head, read_parquet
from gaincurate.core.artifact import MANIFEST, Json, broken
from gaincurate.core.files import (
    digest_file,
    digest_json,
    json_lines,
    make_folder,
    remove_temporaries,
    write_json,
)
from gaincurate.core.foreign import read_bytes
from gaincurate.core.outcomes import Rules
from gaincurate.core.prompts import training_rows, write_rows
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import ID
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.difficulty.metrics import Target
from gaincurate.difficulty.pass_rates import PassRates, of_rollouts, read_pass_rates
from gaincurate.difficulty.rollout_set import RolloutSet, is_rollout_set
from gaincurate.errors import InputError, NotReadyError, OutcomeError
from gaincurate.schedule.base import load
from gaincurate.schedule.checkpoints import weights_of, why_incomplete
from gaincurate.schedule.context import Context
from gaincurate.schedule.observations import Note, carried, pass_rates_of, silent
from gaincurate.schedule.rescore import run_gaincurate
from gaincurate.schedule.run import DATA, GIVEN, IDS, MADE, Run
from gaincurate.schedule.strategies.dots import Aim, DotsOptions, seed_of

if TYPE_CHECKING:
    from gaincurate.difficulty.predict import Prediction

_OPTIONS, _ROLLOUTS, _OBSERVED = "rollouts.options.json", "rollouts", "observed.parquet"


def see_live(run: Run, checkpoints: bool) -> None:
    """See that a trainer can follow a run in one long process.

    With `checkpoints` the trainer leaves one, of the policy as it is then, at every round's end.

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


@dataclass(frozen=True, slots=True)
class Asked:
    """A round's references: `rows` of the set, their `ids`, the folder with all about them, and the seed with
    which `gaincurate difficulty rollout` draws the same ones.
    """

    round: int
    folder: Path
    rows: Ints
    ids: list[str]
    seed: int


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
    given = outcomes or asked.folder / GIVEN
    if context.opening and outcomes is None:
        rolls_out = NotReadyError(f"round {context.round} is planned once its references are rolled out.")
        raise needed(run, asked) if options.rollout is None else rolls_out
    if given.exists() or outcomes is not None:
        seen = read(run, asked, given, note=note)
    elif options.rollout is not None:
        _roll_out(context, asked, options.rollout)
        seen = read(run, asked, asked.folder / _ROLLOUTS, ours=True)
    else:
        raise needed(run, asked)
    prediction = _predict(run, options, asked, aim, note)
    facts = _plan_facts(run, options, asked, *seen, prediction, context.checkpoint)
    values = prediction.values.astype(np.float32).astype(np.float64)  # as in the column gc_difficulty
    return values, prediction.target, {**facts, "target": prediction.target}


def _roll_out(context: Context, asked: Asked, options: Json) -> None:
    """Have the references rolled out, unless the set of this very policy is there."""
    run, checkpoint, note = context.run, context.checkpoint, context.note
    if checkpoint is None and "server" not in options:
        raise InputError(
            f"the references of round {asked.round} are rolled out with a checkpoint (--rollout) and there "
            "is none: give --checkpoint to `schedule next`, or let the trainer write one below {output}."
        )
    path, policy = asked.folder / MADE, _policy(run, asked, options, checkpoint)
    rollouts = asked.folder / _ROLLOUTS
    rolled_out = read_sealed(path) if path.exists() else None
    same = rolled_out is not None and _same(rolled_out, policy)
    if rollouts.exists() and not same:
        shutil.rmtree(rollouts)  # of a policy that was trained past since
    if (rollouts / MANIFEST).exists():
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
    """Facts that distinguish the policy from a later one under the same name."""
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
    """Have `gaincurate difficulty rollout` roll the references out."""
    note(f"round {asked.round}: rolling out {len(asked.ids):,} references with {engine[1]}")
    config, log = asked.folder / _OPTIONS, asked.folder / "rollout.log"
    write_json(config, options)
    words = ["difficulty", "rollout", str(run.scored.folder.resolve())]
    words += ["--out", str(asked.folder / _ROLLOUTS)]
    words += [*engine, "--reference", str(len(asked.ids)), "--seed", str(asked.seed), "--config", str(config)]
    what = f"rolling out for round {asked.round}"
    seconds = run_gaincurate(run, words, log, "difficulty.lock", what)
    run.log(what="rollout", round=asked.round, seconds=seconds, policy=engine[1])


def _predict(run: Run, options: DotsOptions, asked: Asked, aim: Aim, note: Note) -> Prediction:
    """Predict every row of the set from its references."""
    from gaincurate.difficulty.predict import predict  # takes SciPy, which no other strategy needs

    note(f"round {asked.round}: predicting {run.facts['rows']:,} prompts from {len(asked.ids):,} references")
    begun, adapter, group = time.perf_counter(), None, options.group_column
    if options.adapter is not None:
        import torch

        from gaincurate.difficulty.predictor import load_adapter

        with torch.random.fork_rng(devices=[]):  # a trainer in this process draws on as before
            adapter = load_adapter(Path(options.adapter))
    prediction = predict(
        run.scored,
        read_pass_rates(asked.folder / _OBSERVED)[0],
        "adapter" if adapter is not None else "group-mean" if group is not None else "gp",
        adapter=adapter,
        group_column=group,
        references=len(asked.ids),
        seed=asked.seed,
        target=aim,
    )
    run.log(what="predict", round=asked.round, seconds=time.perf_counter() - begun)
    return prediction


def _plan_facts(
    run: Run,
    options: DotsOptions,
    asked: Asked,
    rates: PassRates,
    counts: Json,
    rollouts: Path | None,
    prediction: Prediction,
    checkpoint: str | None,
) -> Json:
    """The plan's facts about a round's references and the predictor. A second run has the same facts."""
    from gaincurate.difficulty.predict import qualities

    quality = qualities(prediction)
    if checkpoint is not None and Path(checkpoint).exists():  # else it is a model's name
        checkpoint = place_of(run, Path(checkpoint))
    facts: Json = {
        "ids": asked.ids,
        "observed": len(rates.ids),
        **counts,
        "carried": carried(rates.wins, rates.losses) if rates.counted else None,
        "checkpoint": checkpoint,
        "predictor": {k: v for k, v in prediction.how.items() if k not in ("outcomes", "policy")},
        "quality": quality["on_references"],
        "quality_of_halves": quality["on_halves"],
    }
    if options.reuse_references is not None:
        near = np.abs(rates.failure - options.target_difficulty) <= options.reuse_references
        facts["reusable"] = {
            "ids": [rates.ids[i] for i in np.flatnonzero(near).tolist()],
            "failure": rates.failure[near].tolist(),
            "rollouts": None if rollouts is None else place_of(run, rollouts),
        }
    return facts


def ask(run: Run, round_: int, rows: Ints) -> Asked:
    """Write which prompts a round's references are, and their rows as a round's."""
    folder = run.references_folder(round_)
    make_folder(folder)
    remove_temporaries(folder)
    table, config = run.scored.take(rows), run.config
    asked = Asked(round_, folder, rows, table.column(ID).to_pylist(), seed_of(config.seed, round_))
    if not (folder / IDS).exists():
        shown = training_rows(table, run.scored.identity, bare=config.bare, with_scores=config.with_scores)
        write_rows(folder / DATA, shown)
        write_sealed(folder / IDS, {"round": round_, "seed": asked.seed, "ids": asked.ids})
    return asked


def needed(run: Run, asked: Asked) -> NotReadyError:
    """The sentence for outcomes that are not there."""
    name, round_, given = shlex.quote(str(run.folder)), asked.round, asked.folder / GIVEN
    policy = f"the policy as round {round_ - 1} left it" if round_ else "the model that training begins with"
    return NotReadyError(
        f"round {round_} waits for the outcomes of its {len(asked.ids):,} reference prompts under {policy}. "
        f"The prompts are in {asked.folder / DATA}. Write a line for each rollout, "
        f'{{"gc_id": ..., "reward": ..., "round": {round_}, "sample": ...}}, to {given}, then '
        f"`gaincurate schedule next {name}`; or `gaincurate schedule next {name} --reference-outcomes PATH` "
        "takes a file of outcomes or a rollout set.",
        round=round_,
        references=str(asked.folder / DATA),
        outcomes=str(given),
        ids=asked.ids,
    )


def read(
    run: Run, asked: Asked, path: Path, *, ours: bool = False, note: Note = silent
) -> tuple[PassRates, Json, Path | None]:
    """Read the outcomes of the references and write them to `observed.parquet`.

    Args:
        run: the run.
        asked: its references.
        path: a rollout set, or outcomes.
        ours: the run made the set itself, and what it could not use was left out by its own options.
        note: called with messages for the user.

    Returns:
        Their rates, the plan's facts on them, and the rollout set.

    Raises:
        InputError: it cannot be read, or is of another round.
        OutcomeError: a reward that is no number in the range, or too few of the references.
    """
    rollouts = path if path.is_dir() and is_rollout_set(path) else None
    rules = run.config.rules
    policies = pass_rates_of(path, Rules() if rollouts else rules, scored=run.scored)
    observed = next((each for each in policies if each.round == asked.round), policies[0])
    if observed.round != asked.round and (len(policies) > 1 or observed.round is not None):
        raise InputError(
            f"--reference-outcomes {path} has no outcomes of round {asked.round}, which is to be drawn, but "
            f'of {observed.name}. Give what its references did, with "round": {asked.round}.',
            path=str(path),
        )
    if observed.round is not None and path.is_file() and not read_bytes(path).endswith(b"\n"):
        note(f"warning: the last line of {path} has no end and was left out")
    success = run.facts["params"].get("success")
    if rollouts is not None and isinstance(success, int | float):
        observed = of_rollouts(rollouts, float(success))  # right or wrong
    places = {gc_id: place for place, gc_id in enumerate(observed.ids)}
    judged = [gc_id for gc_id in asked.ids if gc_id in places]
    absent = [gc_id for gc_id in asked.ids if gc_id not in places]
    if not ours and len(judged) < math.ceil(rules.coverage * len(asked.ids) - 1e-9):
        raise OutcomeError(
            f"{path} has judged outcomes for {len(judged):,} of the {len(asked.ids):,} references of round "
            f"{asked.round} and {rules.coverage:.0%} of them are needed (--min-coverage); it lacks "
            f"{', '.join(absent[:5])}.",
            path=str(path),
            ids=absent,
        )
    rows = np.array([places[gc_id] for gc_id in judged], np.int64)
    rates = PassRates(observed.name, judged, observed.wins[rows], observed.losses[rows], observed.counted)
    columns: dict[str, Any] = {ID: pa.array(rates.ids, pa.string())}
    columns |= (
        {"wins": rates.wins, "losses": rates.losses} if rates.counted else {"pass_rate": 1 - rates.failure}
    )
    write_rows(asked.folder / _OBSERVED, pa.table(columns))
    return rates, {**_counts(run, asked.ids, rates, rollouts, path), "left_out": len(absent)}, rollouts


def _counts(run: Run, ids: list[str], rates: PassRates, rollouts: Path | None, path: Path) -> Json:
    """Counts of rollouts and tokens, and the policy if it is known."""
    if rollouts is None:
        count = round(float((rates.wins + rates.losses).sum())) if rates.counted else None
        counts = {"rollouts": count, "completion_tokens": _tokens(path, set(rates.ids)), "unjudged": None}
        hash_ = digest_file(path) if path.is_file() else None
        name = str(path.relative_to(run.folder)) if path.is_relative_to(run.folder) else path.name
        return {**counts, "policy": None, "outcomes": {"file": name, "hash": hash_}}
    rollout_set, asked = RolloutSet(rollouts), pa.array(ids, pa.string())
    sums = {"rollouts": 0, "completion_tokens": 0, "unjudged": 0}
    for table in rollout_set.tables([ID, "reward", "tokens"]):  # of a whole set, say
        rows = table.filter(pc.is_in(table.column(ID), value_set=asked))
        sums["rollouts"] += len(rows)
        sums["completion_tokens"] += pc.sum(rows.column("tokens")).as_py() or 0
        sums["unjudged"] += rows.column("reward").null_count
    return {
        **sums,
        "policy": rollout_set.manifest["identity"].get("engine", {}).get("model"),
        "outcomes": {"file": place_of(run, rollouts), "hash": digest_json(rollout_set.manifest["shards"])},
    }


def place_of(run: Run, path: Path) -> str:
    """A path as a plan names it: in the run's folder by its place there, else whole."""
    path, folder = path.absolute(), run.folder.absolute()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _tokens(path: Path, ids: set[str]) -> int | None:
    """The sum of `tokens` in outcome lines or in a table; None where they have none."""
    if path.suffix == ".jsonl":
        rows = [entry for _, entry in json_lines(path) if entry is not None and entry.get(ID) in ids]
    elif path.suffix == ".parquet" and "tokens" in parquet_head(path, broken(path))[0].names:
        rows = read_parquet(path, broken(path), [ID, "tokens"]).to_pylist()
    else:
        return None
    counts = [row["tokens"] for row in rows if isinstance(row.get("tokens"), int)]
    return sum(counts) if counts else None
