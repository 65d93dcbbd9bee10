"""DOTS (arXiv 2506.05316): prompts near a target difficulty, observed on a few and predicted for all.

Before each draw K new reference prompts are drawn and observed, and the other prompts' failure rates d are
predicted from them (`prepare`). Prompt q is then drawn with P(q) proportional to exp(-|d_q - alpha| / tau),
without replacement. References are left out. With `target = variance`, p (1 - p) itself is predicted and
P(q) is proportional to exp(v_q / tau). With `auto` the references of round 0 decide between the two, once for
the whole run. d is always the failure rate: 1 if every rollout fails.

Outcomes of references come from a rollout set or from a file that a user writes. Both are written in one
form, so a prediction does not depend on their source. `gaincurate difficulty rollout` makes the rollouts in a
separate process, which frees the device for the trainer afterwards and resumes after a kill. A prediction is
cheap and is made again after a kill.
"""

from __future__ import annotations

import math
import shlex
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from gaincurate.core import files
from gaincurate.core.arrow import parquet_head, read_parquet
from gaincurate.core.artifact import MANIFEST, broken
from gaincurate.core.foreign import read_bytes
from gaincurate.core.options import DOTS, Option, checked, json_object
from gaincurate.core.outcomes import Rules
from gaincurate.core.prompts import write_rows
from gaincurate.core.rng import Floats, Ints, keys_of, log_softmin
from gaincurate.core.schema import EMBEDDING, ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.embeddings import see_same_maker
from gaincurate.difficulty.pass_rates import PassRates, of_rollouts, read_pass_rates
from gaincurate.difficulty.predict import Prediction, predict, qualities
from gaincurate.difficulty.prompts import answer_column, draw_references
from gaincurate.difficulty.rollout_set import RolloutSet, is_rollout_set
from gaincurate.errors import InputError, NotReadyError, OutcomeError
from gaincurate.schedule import base
from gaincurate.schedule.base import Context, Json, Pool
from gaincurate.schedule.checkpoints import weights_of, why_incomplete
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.observations import carried, pass_rates_of
from gaincurate.schedule.rescore import run_gaincurate
from gaincurate.schedule.run import DATA, GIVEN, IDS, MADE, Run

Aim = Literal["auto", "difficulty", "variance"]
_EXAMPLE = '\'{"verifier": "math", "samples": 8}\''
_OF_THE_RUN = {"scored", "out", "model", "reference", "seed", "overwrite", "backoff"}
_SEEDS = 3  # stream of random numbers
_OPTIONS, _ROLLOUTS, _OBSERVED = "rollouts.options.json", "rollouts", "observed.parquet"


def seed_of(seed: int, round_: int) -> int:
    """A round's own seed, below 2^63, of its references and of their rollouts."""
    return int(keys_of(seed, round_, _SEEDS, 1)[0])


class DotsOptions(base.Options):
    """The paper's parameters, with plain names, and the source of the references' outcomes."""

    target_difficulty: float = Field(default=0.5, ge=0, le=1)
    """The failure rate to aim at, the paper's alpha."""
    temperature: float = Field(default=1e-3, gt=0)
    """How sharply to aim, the paper's tau."""
    target: Aim = "auto"
    """Aim at a failure rate, as in the paper, or at the largest p (1 - p). Round 0's references decide."""
    references: Annotated[int, Field(ge=3), Option("Prompts observed before each draw.", DOTS)] = 256
    refresh_every: int = Field(default=2, ge=1)
    """Steps that one draw is for."""
    step_prompts: int | None = Field(default=None, ge=1)
    """The trainer's prompts per step. Default: by the budget."""
    adapter: str | None = None
    """Folder that `difficulty fit` wrote. Default: no training."""
    group_column: str | None = None
    """Predict by the mean of this column's groups, the baseline."""
    reuse_references: float | None = Field(default=None, ge=0, le=1)
    """Name references within so much of the target in the plan, to train on."""
    success: float | None = Field(default=None, gt=0, le=1)
    """Count a reference's rollout in a rollout set as right from this reward on. Default: as its reward."""
    rollout: Annotated[
        dict[str, Any] | None,
        Option(
            "Observe references with `difficulty rollout` and these options "
            '(\'{"verifier": "math", "samples": 8}\'): on "server" if given, else with the newest '
            "checkpoint.",
            DOTS,
            metavar="JSON",
            read=lambda text: json_object(text, "--rollout", _EXAMPLE.strip("'")),
        ),
    ] = None

    @field_validator("adapter")
    @classmethod
    def _whole_path(cls, value: str | None) -> str | None:
        return None if value is None else str(Path(value).absolute())

    @model_validator(mode="after")
    def _check_pairs(self) -> DotsOptions:
        if self.adapter is not None and self.group_column is not None:
            raise ValueError("adapter and group_column are two predictors; give one of them")
        if self.adapter is not None and self.target == "variance":
            raise ValueError("adapter predicts failure rates; it does not go with target = variance")
        if self.target == "variance" and "target_difficulty" in self.model_fields_set:
            raise ValueError("target_difficulty goes with target = difficulty; the variance has no target")
        return self

    @property
    def aim(self) -> Aim:
        """The target. A target difficulty that was given is aimed at."""
        given = "target_difficulty" in self.model_fields_set
        return "difficulty" if given and self.target == "auto" else self.target

    def round_size(self, budget: int | None) -> int:
        """The prompts of all steps that one draw is for; InputError if the budget is another or not known."""
        steps, size = self.refresh_every, self.step_prompts
        if size is not None and budget in (None, steps * size):
            return steps * size
        if size is None and budget is not None and budget % steps == 0:
            return budget
        raise InputError(
            f"strategy dots draws prompts for refresh_every = {steps} steps: give step_prompts, the prompts "
            f"of a step, or a budget of {steps} times that; budget is {budget}, step_prompts {size}."
        )

    def check_run(self, config: ScheduleConfig, scored: ScoredSet) -> None:
        """Check that references can be observed, and the other prompts predicted, in every round.

        Raises:
            InputError: the set lacks prompts, embeddings, answers or the group column, or an option is wrong.
        """
        budget, rows = self.round_size(config.budget), len(scored)
        if self.references + budget > rows:
            raise InputError(
                f"--references {self.references:,} and {budget:,} prompts to draw are more than the {rows:,} "
                f"of {scored.folder}: references are not drawn in their own round. Take fewer references."
            )
        if self.group_column is not None:
            scored.column(self.group_column)
        elif EMBEDDING not in scored.schema.names:
            raise InputError(
                f"{scored.folder} has no {EMBEDDING}, from which strategy dots predicts: score it with "
                "`--signals angle,nll,entropy,embedding`, or predict by a group's mean with group_column."
            )
        if self.adapter is not None:
            path = Path(self.adapter, "config.json")
            facts = read_sealed(path, "fit the predictor again") if path.exists() else {}
            if "embedding" not in facts:
                raise InputError(
                    f"adapter {self.adapter} is no fitted predictor: it has no config.json of one. "
                    "`gaincurate difficulty fit` makes one."
                )
            see_same_maker(scored, facts["embedding"])  # its weights are checked when they are used
        if (given := self.rollout) is None:
            return
        if reserved := _OF_THE_RUN & given.keys():
            raise InputError(f"--rollout has no option {min(reserved)!r}: the run settles it.")
        if "verifier" not in given:
            raise InputError(f"--rollout needs a verifier: {_EXAMPLE}.")
        model = None if "server" in given else config.model or ""
        fixed = {"scored": config.scored, "out": config.run, "model": model, "reference": self.references}
        rollout = checked(RolloutConfig, fixed | given)
        if model == "":
            raise InputError(
                "--rollout generates with the model that training begins with, and which one scored "
                f"{scored.folder} is not known; give --model, or a server in --rollout."
            )
        answer_column(scored, rollout.answer_column, needed=rollout.needs_answer)
        if self.target == "variance" and rollout.samples < 2:
            raise InputError("target = variance needs two samples of a reference or more; --rollout has 1.")


class Dots(base.Selector):
    """Prompts near the target; options as in `DotsOptions`."""

    Options: ClassVar[type[base.Options]] = DotsOptions
    observes_references: ClassVar[bool] = True

    def __init__(self, pool: Pool, options: DotsOptions) -> None:
        super().__init__(pool, options)
        self._values, self._references = np.zeros(0), np.zeros(0, np.int64)
        self._reference_facts: Json = {}
        self._drawn: float | None = None
        self._aim = options.aim

    def prepare(self, context: Context) -> None:
        """Have the references observed and the failure rates of all prompts predicted.

        With `auto` the first references choose the target. Raises NotReadyError if there are no outcomes of
        the references and the run cannot make them now, OutcomeError if they cannot be used.
        """
        rows, options, path = self.references(context.round), self.options, context.reference_outcomes
        references = _References(context, rows, options)
        made_here = path is None and (context.opening or not (references.folder / GIVEN).exists())
        if made_here:
            if options.rollout is None:
                raise references.needed()
            if context.opening:
                raise NotReadyError(f"round {context.round} is planned once its references are rolled out.")
            references.roll_out(options.rollout)
        path = path or references.folder / (_ROLLOUTS if made_here else GIVEN)
        rates, counts, rollouts = references.read(path, made_here=made_here)
        prediction = references.predict(self._aim)
        self._aim = prediction.target
        self._reference_facts = references.facts(rates, counts, rollouts, prediction)
        # As in the column gc_difficulty.
        self.inform(prediction.values.astype(np.float32).astype(np.float64), rows)

    def references(self, round_: int) -> Ints:
        """`[K]`: the distinct rows to observe first, as of `difficulty rollout --reference K --seed`."""
        return draw_references(self.pool.rows, self.options.references, seed_of(self.pool.seed, round_))

    def inform(self, values: Floats, references: Ints) -> None:
        """Set the predictions for the next draw.

        Args:
            values: `[rows]`, failure rates, or p (1 - p) if that is the target.
            references: rows that are not drawn.
        """
        self._values, self._references = values, references

    def draw(self, round_: int) -> Ints:
        """`[budget]` distinct rows, none of them a reference."""
        if self._aim == "variance":
            distance = self._values.max() - self._values
        else:
            distance = np.abs(self._values - float(self.options.target_difficulty))
        weights = log_softmin(distance, self.options.temperature)
        drawn = self.pool.draw(weights, round_, leave_out=self._references)
        self._drawn = float(self._values[drawn].mean())
        return drawn

    def state_dict(self) -> Json:
        """The target that the references of round 0 decided, if they did."""
        return {"aim": self._aim} if self.options.aim == "auto" else {}

    def load_state_dict(self, state: Json) -> None:
        """Restore that aim."""
        if self.options.aim == "auto":
            self._aim = state.get("aim", "difficulty")

    def plan_facts(self, rows: Ints) -> Json:
        """The predictions of the prompts, and the facts about the references."""
        return {"predicted": self._values[rows].tolist(), "references": self._reference_facts}

    def metrics(self) -> dict[str, float]:
        """The mean prediction of the last draw's prompts, and of all."""
        if self._drawn is None:
            return {}
        return {"predicted": self._drawn, "predicted_of_all": float(self._values.mean())}


def see_live(run: Run, checkpoints: bool) -> None:
    """Raise InputError if a trainer cannot follow a run in one long process.

    That is so if references are observed between rounds and neither a server of the newest policy nor, with
    `checkpoints`, the checkpoint that the trainer saves at the end of every round can roll them out.
    """
    if not base.load(run.config.strategy).observes_references:
        return
    rollout = run.config.options.get("rollout")
    if rollout is not None and (checkpoints or "server" in rollout):
        return
    raise InputError(
        f"{run.folder} observes references between rounds, and a trainer that follows it live does not wait "
        'for their outcomes. Start a run with --rollout and with "server", a server of the newest policy, in '
        "it. With --rollout alone, train with `gaincurate.trainers.trl.attach` or in segments with "
        "`gaincurate schedule run`."
    )


class _References:
    """A round's references: their `ids`, the folder with their rows and outcomes, and the seed with which
    `gaincurate difficulty rollout` draws the same ones.
    """

    def __init__(self, context: Context, rows: Ints, options: DotsOptions) -> None:
        run, round_ = context.run, context.round
        self.context, self.options, self.folder = context, options, run.references_folder(round_)
        table, self.seed = run.scored.take(rows), seed_of(run.config.seed, round_)
        self.ids: list[str] = table.column(ID).to_pylist()
        files.make_folder(self.folder)
        files.remove_temporaries(self.folder)
        if not (self.folder / IDS).exists():
            write_rows(self.folder / DATA, run.shown(table))
            write_sealed(self.folder / IDS, {"round": round_, "seed": self.seed, "ids": self.ids})

    def needed(self) -> NotReadyError:
        """The error for missing outcomes, which says where to write them."""
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
        """Roll out the references, unless the rollout set of this policy exists."""
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
            "behind": files.digest_file(outcomes) if round_ > 0 and outcomes.exists() else None,
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
            files.write_json(self.folder / _OPTIONS, options)
            words = ["difficulty", "rollout", str(run.scored.folder.resolve()), "--out", str(rollouts)]
            words += ["--model" if server is None else "--server", name, "--seed", str(self.seed)]
            words += ["--reference", str(len(self.ids)), "--config", str(self.folder / _OPTIONS)]
            log, what = self.folder / "rollout.log", f"rolling out for round {round_}"
            seconds = run_gaincurate(run, words, log, "difficulty.lock", what)
            run.log(what="rollout", round=round_, seconds=seconds, policy=name)

    def read(self, path: Path, *, made_here: bool) -> tuple[PassRates, Json, Path | None]:
        """Read the outcomes of the references, a rollout set or a file, and write them to `observed.parquet`.

        A set that the run rolled out itself (`made_here`) may lack references that its own options left out.
        Returns the rates, the plan's facts on them, and the rollout set.

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
        if not made_here and len(judged) < math.ceil(rules.coverage * len(self.ids) - 1e-9):
            raise OutcomeError(
                f"{path} has judged outcomes for {len(judged):,} of the {len(self.ids):,} references of "
                f"round {round_} and {rules.coverage:.0%} of them are needed (--min-coverage); it lacks "
                f"{', '.join(absent[:5])}.",
                path=str(path),
                ids=absent,
            )
        rates = observed.at(np.array([places[gc_id] for gc_id in judged], np.int64))
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
            rows = [line for _, line in files.json_lines(path) if line is not None and line.get(ID) in ids]
        elif path.suffix == ".parquet" and "tokens" in parquet_head(path, broken(path))[0].names:
            rows = read_parquet(path, broken(path), [ID, "tokens"]).to_pylist()
        tokens = [row["tokens"] for row in rows if isinstance(row.get("tokens"), int)]
        hash_ = files.digest_file(path) if path.is_file() else None
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
        hash_ = files.digest_json(rollouts.manifest["shards"])
        policy = rollouts.manifest["identity"].get("engine", {}).get("model")
        place = _place_of(self.context.run, folder)
        return {**sums, "policy": policy, "outcomes": {"file": place, "hash": hash_}}

    def predict(self, aim: Aim) -> Prediction:
        """Predict every row of the set from the observations."""
        run, round_, group = self.context.run, self.context.round, self.options.group_column
        counts = f"{run.facts['rows']:,} prompts from {len(self.ids):,} references"
        self.context.note(f"round {round_}: predicting {counts}")
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
    """A path as a plan names it: relative if it is in the run's folder, else absolute."""
    path, folder = path.absolute(), run.folder.absolute()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
