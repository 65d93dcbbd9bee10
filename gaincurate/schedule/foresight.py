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
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

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
from gaincurate.core.prompts import write_rows
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
from gaincurate.schedule.observations import carried, pass_rates_of
from gaincurate.schedule.rescore import run_gaincurate
from gaincurate.schedule.run import DATA, GIVEN, IDS, MADE, Run
from gaincurate.schedule.strategies.dots import Aim, DotsOptions, seed_of

if TYPE_CHECKING:
    from gaincurate.difficulty.predict import Prediction

_OPTIONS, _ROLLOUTS, _OBSERVED = "rollouts.options.json", "rollouts", "observed.parquet"


def see_live(run: Run, checkpoints: bool) -> None:
    """See that a trainer can follow a run in one long process.

    With `checkpoints` the trainer leaves one, of the policy as it is then, at every round's end. Raises
    InputError where references are observed in a way that such a trainer has no part in.
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


def foresee(
    context: Context, references: Ints, options: DotsOptions, aim: Aim
) -> tuple[Floats, Target, Json]:
    """Predict `aim` of every prompt for a round that is to be drawn; with `auto` the references choose it.

    `references` `[K]` are the rows that are observed for it. Returns every row's value, `[rows]`, what was
    predicted, and the plan's facts. Raises NotReadyError where there are no outcomes of the references, and
    the run cannot make them or not yet, and OutcomeError where they cannot be used.
    """
    asked, outcomes = _References(context, references, options), context.reference_outcomes
    given, ours = outcomes or asked.folder / GIVEN, False
    if outcomes is None and (context.opening or not given.exists()):
        if options.rollout is None:
            raise asked.needed()
        if context.opening:
            raise NotReadyError(f"round {context.round} is planned once its references are rolled out.")
        asked.roll_out(options.rollout)
        given, ours = asked.folder / _ROLLOUTS, True
    rates, counts, rollouts = asked.read(given, ours=ours)
    prediction = asked.predict(aim)
    values = prediction.values.astype(np.float32).astype(np.float64)  # as in the column gc_difficulty
    return values, prediction.target, asked.facts(rates, counts, rollouts, prediction)


class _References:
    """A round's references, whose rows it writes: their `ids`, the folder with all about them, and the seed
    with which `gaincurate difficulty rollout` draws the same ones.
    """

    def __init__(self, context: Context, rows: Ints, options: DotsOptions) -> None:
        run, round_ = context.run, context.round
        self.context, self.options, self.folder = context, options, run.references_folder(round_)
        table, self.seed = run.scored.take(rows), seed_of(run.config.seed, round_)
        self.ids: list[str] = table.column(ID).to_pylist()
        make_folder(self.folder)
        remove_temporaries(self.folder)
        if not (self.folder / IDS).exists():
            write_rows(self.folder / DATA, run.shown(table))
            write_sealed(self.folder / IDS, {"round": round_, "seed": self.seed, "ids": self.ids})

    def needed(self) -> NotReadyError:
        """The sentence for outcomes that are not there."""
        run, round_, given = self.context.run, self.context.round, self.folder / GIVEN
        policy = f"policy as round {round_ - 1} left it" if round_ else "model that training begins with"
        again = f"`gaincurate schedule next {shlex.quote(str(run.folder))}"
        return NotReadyError(
            f"round {round_} waits for the outcomes of its {len(self.ids):,} reference prompts under the "
            f"{policy}. The prompts are in {self.folder / DATA}. Write a line for each rollout, "
            f'{{"gc_id": ..., "reward": ..., "round": {round_}, "sample": ...}}, to {given}, then {again}`; '
            f"or {again} --reference-outcomes PATH` takes a file of outcomes or a rollout set.",
            round=round_,
            references=str(self.folder / DATA),
            outcomes=str(given),
            ids=self.ids,
        )

    def roll_out(self, options: Json) -> None:
        """Have the references rolled out, unless the set of this very policy is there."""
        context, checkpoint, server = self.context, self.context.checkpoint, options.get("server")
        if checkpoint is None and server is None:
            raise InputError(
                f"the references of round {context.round} are rolled out with a checkpoint (--rollout) and "
                "there is none: give --checkpoint to `schedule next`, or let the trainer write one below "
                "{output}."
            )
        run, round_, name = context.run, context.round, str(checkpoint)
        path, rollouts, outcomes = self.folder / MADE, self.folder / _ROLLOUTS, run.outcomes(round_ - 1)
        weights = weights_of(name) if server is None and round_ > 0 and Path(name).is_dir() else None
        policy = {  # what distinguishes it from a later one under the same name
            "server": server,
            "checkpoint": checkpoint if server is None else None,
            "weights": weights,
            "behind": digest_file(outcomes) if round_ > 0 and outcomes.exists() else None,
        }
        # Weights say enough: outcomes may have been taken back and reported again since. Without them, a
        # trainer may have deleted a checkpoint that was rolled out with.
        apart = {"weights": None} if policy["weights"] is None else {"behind": None}
        same = path.exists() and read_sealed(path) | apart == policy | apart
        if rollouts.exists() and not same:
            shutil.rmtree(rollouts)  # of a policy that was trained past since
        if (rollouts / MANIFEST).exists():
            return
        if not same:
            write_sealed(path, policy)
        with ExitStack() as stack:
            if server is not None:
                name = server
            elif round_ > 0:  # before, a name, a file or a folder, which the command knows how to find
                name = stack.enter_context(context.held(run, name))
                if (why := why_incomplete(Path(name))) is not None:
                    why = f"the checkpoint of round {round_ - 1} cannot be used: {why}."
                    raise InputError(why, path=checkpoint)
            context.note(f"round {round_}: rolling out {len(self.ids):,} references with {name}")
            write_json(self.folder / _OPTIONS, options)
            words = ["difficulty", "rollout", str(run.scored.folder.resolve()), "--out", str(rollouts)]
            words += ["--model" if server is None else "--server", name, "--seed", str(self.seed)]
            words += ["--reference", str(len(self.ids)), "--config", str(self.folder / _OPTIONS)]
            log, what = self.folder / "rollout.log", f"rolling out for round {round_}"
            seconds = run_gaincurate(run, words, log, "difficulty.lock", what)
            run.log(what="rollout", round=round_, seconds=seconds, policy=name)

    def read(self, path: Path, *, ours: bool) -> tuple[PassRates, Json, Path | None]:
        """Read the outcomes of the references, a rollout set or a file, and write them to `observed.parquet`.

        Of a set that the run made itself (`ours`), its own options left out what it could not use. Returns
        their rates, the plan's facts on them, and the rollout set.

        Raises:
            InputError: it cannot be read, or is of another round.
            OutcomeError: a reward that is no number in the range, or too few of the references.
        """
        run, round_, rules = self.context.run, self.context.round, self.context.run.rules
        rollouts = path if path.is_dir() and is_rollout_set(path) else None
        policies = pass_rates_of(path, Rules() if rollouts else rules, scored=run.scored)
        observed = next((each for each in policies if each.round == round_), policies[0])
        if observed.round != round_ and (len(policies) > 1 or observed.round is not None):
            raise InputError(
                f"--reference-outcomes {path} has no outcomes of round {round_}, which is to be drawn, but "
                f'of {observed.name}. Give what its references did, with "round": {round_}.',
                path=str(path),
            )
        if observed.round is not None and path.is_file() and not read_bytes(path).endswith(b"\n"):
            self.context.note(f"warning: the last line of {path} has no end and was left out")
        if rollouts is not None and self.options.success is not None:
            observed = of_rollouts(rollouts, self.options.success)  # right or wrong
        places = {gc_id: place for place, gc_id in enumerate(observed.ids)}
        judged, absent = [i for i in self.ids if i in places], [i for i in self.ids if i not in places]
        if not ours and len(judged) < math.ceil(rules.coverage * len(self.ids) - 1e-9):
            raise OutcomeError(
                f"{path} has judged outcomes for {len(judged):,} of the {len(self.ids):,} references of "
                f"round {round_} and {rules.coverage:.0%} of them are needed (--min-coverage); it lacks "
                f"{', '.join(absent[:5])}.",
                path=str(path),
                ids=absent,
            )
        rows = np.array([places[gc_id] for gc_id in judged], np.int64)
        rates = PassRates(observed.name, judged, observed.wins[rows], observed.losses[rows], observed.counted)
        values = {"pass_rate": 1 - rates.failure}
        if rates.counted:
            values = {"wins": rates.wins, "losses": rates.losses}
        write_rows(self.folder / _OBSERVED, pa.table({ID: pa.array(rates.ids, pa.string()), **values}))
        counts = self._of_file(rates, path) if rollouts is None else self._of_rollouts(rollouts)
        return rates, {**counts, "left_out": len(absent)}, rollouts

    def _of_file(self, rates: PassRates, path: Path) -> Json:
        """Counts of rollouts and tokens of outcomes that a user gave."""
        place, ids = _place_of(self.context.run, path), set(rates.ids)
        rows: list[Json] = []
        if path.suffix == ".jsonl":
            rows = [entry for _, entry in json_lines(path) if entry is not None and entry.get(ID) in ids]
        elif path.suffix == ".parquet" and "tokens" in parquet_head(path, broken(path))[0].names:
            rows = read_parquet(path, broken(path), [ID, "tokens"]).to_pylist()
        tokens = [row["tokens"] for row in rows if isinstance(row.get("tokens"), int)]
        hash_ = digest_file(path) if path.is_file() else None
        return {
            "rollouts": round(float((rates.wins + rates.losses).sum())) if rates.counted else None,
            "completion_tokens": sum(tokens) if tokens else None,
            "unjudged": None,
            "policy": None,
            "outcomes": {"file": path.name if Path(place).is_absolute() else place, "hash": hash_},
        }

    def _of_rollouts(self, folder: Path) -> Json:
        """Counts of rollouts and tokens of a rollout set, and its policy."""
        rollouts, asked = RolloutSet(folder), pa.array(self.ids, pa.string())
        sums = {"rollouts": 0, "completion_tokens": 0, "unjudged": 0}
        for table in rollouts.tables([ID, "reward", "tokens"]):  # of a whole set, say
            rows = table.filter(pc.is_in(table.column(ID), value_set=asked))
            sums["rollouts"] += len(rows)
            sums["completion_tokens"] += pc.sum(rows.column("tokens")).as_py() or 0
            sums["unjudged"] += rows.column("reward").null_count
        hash_ = digest_json(rollouts.manifest["shards"])
        policy = rollouts.manifest["identity"].get("engine", {}).get("model")
        place = _place_of(self.context.run, folder)
        return {**sums, "policy": policy, "outcomes": {"file": place, "hash": hash_}}

    def predict(self, aim: Aim) -> Prediction:
        """Predict every row of the set from what was observed."""
        from gaincurate.difficulty.predict import predict  # other strategies do not need it

        run, round_, group = self.context.run, self.context.round, self.options.group_column
        prompts, known = f"{run.facts['rows']:,} prompts", f"{len(self.ids):,} references"
        self.context.note(f"round {round_}: predicting {prompts} from {known}")
        begun, adapter = time.perf_counter(), None
        if self.options.adapter is not None:
            import torch

            from gaincurate.difficulty.predictor import load_adapter

            with torch.random.fork_rng(devices=[]):  # a trainer in this process draws on as before
                adapter = load_adapter(Path(self.options.adapter))
        prediction = predict(
            run.scored,
            read_pass_rates(self.folder / _OBSERVED)[0],
            "adapter" if adapter is not None else "group-mean" if group is not None else "gp",
            adapter=adapter,
            group_column=group,
            references=len(self.ids),
            seed=self.seed,
            target=aim,
        )
        run.log(what="predict", round=round_, seconds=time.perf_counter() - begun)
        return prediction

    def facts(self, rates: PassRates, counts: Json, rollouts: Path | None, prediction: Prediction) -> Json:
        """The plan's facts about the references and the predictor; the same when they are made again."""
        from gaincurate.difficulty.predict import qualities

        run, quality, checkpoint = self.context.run, qualities(prediction), self.context.checkpoint
        if checkpoint is not None and Path(checkpoint).exists():  # else it is a model's name
            checkpoint = _place_of(run, Path(checkpoint))
        facts: Json = {
            "ids": self.ids,
            "observed": len(rates.ids),
            **counts,
            "carried": carried(rates.wins, rates.losses) if rates.counted else None,
            "checkpoint": checkpoint,
            "predictor": {k: v for k, v in prediction.how.items() if k not in ("outcomes", "policy")},
            "quality": quality["on_references"],
            "quality_of_halves": quality["on_halves"],
        }
        if self.options.reuse_references is not None:
            near = np.abs(rates.failure - self.options.target_difficulty) <= self.options.reuse_references
            facts["reusable"] = {
                "ids": [rates.ids[i] for i in np.flatnonzero(near).tolist()],
                "failure": rates.failure[near].tolist(),
                "rollouts": None if rollouts is None else _place_of(run, rollouts),
            }
        return facts | {"target": prediction.target}


def _place_of(run: Run, path: Path) -> str:
    """A path as a plan names it: in the run's folder by its place there, else whole."""
    path, folder = path.absolute(), run.folder.absolute()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
