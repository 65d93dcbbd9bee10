"""The reference prompts of a round with strategy `dots`: which they are, and what came back.

Their prompts are written for whoever rolls them out. Outcomes may come from a rollout set or from a person's
file. Both are checked and written in one form, so a prediction does not depend on where they came from.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.arrow import parquet_head, read_parquet
from gaincurate.core.artifact import Json, broken
from gaincurate.core.files import digest_file, digest_json, json_lines, make_folder, remove_temporaries
from gaincurate.core.foreign import read_bytes
from gaincurate.core.outcomes import Rules
from gaincurate.core.prompts import training_rows, write_rows
from gaincurate.core.rng import Ints, keys_of
from gaincurate.core.schema import ID
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.difficulty.pass_rates import PassRates, of_rollouts
from gaincurate.difficulty.rollout_set import RolloutSet, is_rollout_set
from gaincurate.errors import InputError, NotReadyError, OutcomeError
from gaincurate.schedule.observations import Note, pass_rates_of, rules_of, silent
from gaincurate.schedule.run import GIVEN, Run

IDS, DATA = "references.json", "references.parquet"
ROLLOUTS, OBSERVED = "rollouts", "observed.parquet"
_SHOWN = 3
_SEEDS = 3  # stream of random numbers


@dataclass(frozen=True, slots=True)
class Asked:
    """A round's references: `rows` of the set, their `ids`, the folder that all about them lies in, and the
    seed with which `gaincurate difficulty rollout` draws the same ones.
    """

    round: int
    folder: Path
    rows: Ints
    ids: list[str]
    seed: int

    @property
    def rollouts(self) -> Path:
        """Where their rollout set goes."""
        return self.folder / ROLLOUTS

    @property
    def given(self) -> Path:
        """Where a person puts their outcomes."""
        return self.folder / GIVEN


@dataclass(frozen=True, slots=True)
class Seen:
    """What came back. `facts` are for the plan: numbers, and their source. `rollouts` is the rollout set."""

    rates: PassRates
    facts: Json
    rollouts: Path | None


def seed_of(seed: int, round_: int) -> int:
    """A round's own seed, below 2^63, of its references and of their rollouts."""
    return int(keys_of(seed, round_, _SEEDS, 1)[0])


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
    name, round_ = shlex.quote(str(run.folder)), asked.round
    policy = (
        "the model that training begins with" if round_ == 0 else f"the policy as round {round_ - 1} left it"
    )
    more = f" and {len(asked.ids) - _SHOWN:,} more" if len(asked.ids) > _SHOWN else ""
    scored = shlex.quote(str(run.scored.folder.resolve()))
    return NotReadyError(
        f"round {round_} waits for the outcomes of its {len(asked.ids):,} reference prompts under {policy}: "
        f"{', '.join(asked.ids[:_SHOWN])}{more}. The prompts are in {asked.folder / DATA}; write a line for "
        "each "
        f'rollout, {{"gc_id": ..., "reward": ..., "round": {round_}, "sample": ...}}, to {asked.given}, then '
        f"`gaincurate schedule next {name}`; or `gaincurate schedule next {name} --reference-outcomes PATH` "
        "takes a file of outcomes or a rollout set (`gaincurate difficulty rollout "
        f"{scored} --reference {len(asked.ids)} --seed {asked.seed} --out PATH ...` makes one).",
        round=round_,
        references=str(asked.folder / DATA),
        outcomes=str(asked.given),
        ids=asked.ids,
    )


def needed_for(run: Run) -> NotReadyError:
    """The sentence for the references of round 0, of a run that was just opened."""
    folder = run.references_folder(0)
    asked = read_sealed(folder / IDS)
    return needed(run, Asked(0, folder, np.zeros(0, np.int64), asked["ids"], asked["seed"]))


def read(run: Run, asked: Asked, path: Path, *, ours: bool = False, note: Note = silent) -> Seen:
    """What the references' rollouts came to, in `observed.parquet` too.

    Args:
        run: the run.
        asked: its references.
        path: a rollout set, or outcomes.
        ours: the run made the set itself, and what it could not use was left out by its own options.
        note: called with what a person should know.

    Raises:
        InputError: it cannot be read, or is of another round.
        OutcomeError: a reward that is no number in the range, or too few of the references.
    """
    rollouts = path if path.is_dir() and is_rollout_set(path) else None
    rules = rules_of(run.config)
    observed = _of_round(
        pass_rates_of(path, Rules() if rollouts else rules, scored=run.scored),
        asked.round,
        path,
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
        more = f" and {len(absent) - _SHOWN:,} more" if len(absent) > _SHOWN else ""
        raise OutcomeError(
            f"{path} has judged outcomes for {len(judged):,} of the {len(asked.ids):,} references of round "
            f"{asked.round} and {rules.coverage:.0%} of them are needed (--min-coverage); it lacks "
            f"{', '.join(absent[:_SHOWN])}{more}.",
            path=str(path),
            ids=absent,
        )
    rows = np.array([places[gc_id] for gc_id in judged], np.int64)
    rates = PassRates(observed.name, judged, observed.wins[rows], observed.losses[rows], observed.counted)
    _write(asked.folder / OBSERVED, rates)
    return Seen(rates, {**_counts(run, asked.ids, rates, rollouts, path), "left_out": len(absent)}, rollouts)


def _of_round(policies: Sequence[PassRates], round_: int, path: Path) -> PassRates:
    """Of several policies in a file the one that these outcomes are of."""
    matching = [policy for policy in policies if policy.round == round_]
    if matching or (len(policies) == 1 and policies[0].round is None):
        return matching[0] if matching else policies[0]
    names = ", ".join(policy.name for policy in policies[:_SHOWN])
    raise InputError(
        f"--reference-outcomes {path} has no outcomes of round {round_}, which is to be drawn, but of "
        f"{names}{', ...' if len(policies) > _SHOWN else ''}: another policy says nothing of it. Give what "
        f'its references did, with "round": {round_}.',
        path=str(path),
    )


def _write(path: Path, rates: PassRates) -> None:
    columns: dict[str, Any] = {ID: pa.array(rates.ids, pa.string())}
    columns |= (
        {"wins": rates.wins, "losses": rates.losses} if rates.counted else {"pass_rate": 1 - rates.failure}
    )
    write_rows(path, pa.table(columns))


def _counts(run: Run, ids: list[str], rates: PassRates, rollouts: Path | None, path: Path) -> Json:
    """How many rollouts and tokens, and of which policy, as far as it is known."""
    if rollouts is None:
        inside = path.is_relative_to(run.folder)
        count = round(float((rates.wins + rates.losses).sum())) if rates.counted else None
        counts = {"rollouts": count, "completion_tokens": _tokens(path, set(rates.ids)), "unjudged": None}
        hash_ = digest_file(path) if path.is_file() else None
        name = str(path.relative_to(run.folder)) if inside else path.name
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
    inside = path.absolute().is_relative_to(run.folder.absolute())
    return str(path.absolute().relative_to(run.folder.absolute()) if inside else path.absolute())


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
