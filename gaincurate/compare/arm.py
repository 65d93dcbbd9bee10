"""One arm with one seed: its settings, its costs, and the process that trains it and judges its checkpoints.

Scoring, re-scoring and references are charged to the arm that needs them, so arms are compared at equal cost.
Each arm has its own process, so that it cannot change another one's random state. The process holds the
model, so it also judges. Each finished step leaves files: the run, the trainer's marks, a rollout set per
mark. A killed arm continues from these files.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.compare.config import Arm, Comparison
from gaincurate.core.artifact import MANIFEST, RUN, Json
from gaincurate.core.files import digest_json, make_folder, remove_temporaries
from gaincurate.core.options import checked
from gaincurate.core.outcomes import read_file
from gaincurate.core.process import command_lock, run_command
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.core.sealed import read_sealed, write_sealed
from gaincurate.difficulty.config import RolloutConfig, VerifierConfig
from gaincurate.difficulty.prompts import Prompt, answer_column, read_prompts
from gaincurate.difficulty.rollout import roll_out
from gaincurate.difficulty.rollout_set import RolloutSet, pass_rates
from gaincurate.difficulty.verifier import VerifierPool
from gaincurate.difficulty.verify_worker import Job
from gaincurate.errors import GaincurateError, TrainerError
from gaincurate.schedule import base
from gaincurate.schedule.checkpoints import recorded_model
from gaincurate.schedule.config import ScheduleConfig
from gaincurate.schedule.rounds import start
from gaincurate.schedule.run import Run, same_file
from gaincurate.schedule.strategies.dots import DotsOptions

TASK, PROGRESS, COST = "arm.json", "progress.json", "cost.json"
RUN_FOLDER, TRAINER, MARKS, ROLLOUTS = "run", "trainer", "marks", "rollouts"
TRAINED = 0.9  # the share of an arm's work that is training; the rest is judging
STEP = "gaincurate/step"  # the key of a trainer's log entry with the cost of the step
_OF_SCHEDULE = {"strategy", "by", "ascending", "rescore", "stratify", "clusters", "group_weights"}
Rewards = list[float | None]
_OF_A_MODEL = (".json", ".safetensors", ".txt", ".jinja", ".model")


class ArmJob:
    """One arm with one seed, in a folder of its own; `comparison` has the settings that all arms share."""

    def __init__(self, comparison: Comparison, arm: Arm, seed: int, folder: Path) -> None:
        self.comparison, self.arm, self.seed, self.folder = comparison, arm, seed, folder
        # The seed of schedule and trainer. It depends on the arm, so that arms do not share random numbers.
        self.number = int(digest_json([arm.name, seed])[:7], 16)
        self.key: Json = {"arm": arm.name, "seed": seed}

    @classmethod
    def read(cls, folder: Path) -> ArmJob:
        """The job that was prepared in a folder."""
        task = read_sealed(folder / TASK)
        return cls(Comparison(**task["comparison"]), Arm(**task["arm"]), task["seed"], folder)

    def mark(self, k: int) -> Path:
        """The folder of a mark, from 0: its cost, its weights and the rollouts that judge it."""
        return self.folder / MARKS / str(k)

    @property
    def done(self) -> bool:
        """Whether all marks were reached and judged."""
        return all((self.mark(k) / ROLLOUTS / MANIFEST).exists() for k in range(self.comparison.marks))

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        path = self.folder / PROGRESS
        return read_sealed(path)["share"] if path.exists() else 0.0

    def prepare(self) -> None:
        """Start the arm's run unless it exists, and write the settings for its process.

        Raises:
            InputError: the strategy does not accept the set or an option.
        """
        make_folder(self.folder)
        if not (self.folder / RUN_FOLDER / RUN).exists():
            start(self.schedule())
        settings = {"comparison": self.comparison, "arm": self.arm}
        task = {name: setting.model_dump(mode="json") for name, setting in settings.items()}
        write_sealed(self.folder / TASK, {**task, "seed": self.seed})

    def schedule(self) -> ScheduleConfig:
        """The settings of the arm's run."""
        comparison, arm, options = self.comparison, self.arm, dict(self.arm.options)
        replay, steps = comparison.replay_of(arm), comparison.steps_of(arm)
        prompts = comparison.prompts_of(arm) if replay is None else replay.fresh_groups
        if issubclass(base.load(arm.strategy).Options, DotsOptions):  # it rolls out its own references
            rollout = _rollouts(comparison)
            rollout |= {"samples": comparison.group, "temperature": comparison.temperature}
            options = {"refresh_every": steps, "success": comparison.success, **options}
            options["rollout"] = rollout | options.get("rollout", {})
        return checked(
            ScheduleConfig,
            {
                **arm.model_dump(include=_OF_SCHEDULE),
                "scored": comparison.scored,
                "run": self.folder / RUN_FOLDER,
                "budget": prompts * steps,
                # The number of rounds if every completion had a single token, plus one.
                "rounds": -(-comparison.budget_tokens // (prompts * steps * comparison.group)) + 1,
                "seed": self.number,
                "options": options,
                "align_to": prompts,
                "model": model_at_start(comparison),
            },
        )

    def scoring(self) -> int:
        """Tokens charged before training: the scoring pass if draws depend on scores, and `spent_before`."""
        if not self.arm.needs_scores:
            return self.arm.spent_before
        tokens = prompt_tokens(ScoredSet(self.comparison.scored))
        return round(tokens * self.comparison.prefill_weight) + self.arm.spent_before

    def work(self, environment: Mapping[str, str], watch: Callable[[float], None]) -> float:
        """Train to the last mark and judge all marks in a process; returns its duration in seconds.

        `watch` is called repeatedly with the elapsed seconds; an exception from it ends the process.

        Raises:
            TrainerError: the process failed; its files are not deleted.
        """
        command = [sys.executable, "-m", "gaincurate.compare.arm", str(self.folder)]
        try:
            with command_lock(self.folder) as lock:
                log = self.folder / "trainer.log"
                return run_command(command, environment=environment, log=log, lock=lock, watch=watch)
        except TrainerError as error:
            raise TrainerError(f"{self.arm.name}, seed {self.seed}: {error}", **error.data) from error

    def cost(self, k: int) -> Json:
        """The trainer's costs at a mark: tokens by purpose, `step`, `seconds`, `steps`."""
        return read_sealed(self.mark(k) / COST)

    def mark_rows(self) -> list[Json]:
        """Rows of `marks.arrow`, with more than its columns."""
        asked = enumerate(self.comparison.mark_tokens)
        return [{**self.cost(k), **self.key, "mark": k + 1, "asked": tokens} for k, tokens in asked]

    def step_rows(self) -> list[Json]:
        """Rows of `steps.arrow`, with more than its columns."""
        rows = []
        for entry in self.cost(self.comparison.marks - 1)["steps"]:
            measured, share = entry[STEP], entry.get("replay/share", 0.0)
            more = {
                "step": entry["step"],
                "trainer_tokens": int(entry["num_tokens"]),
                "grad_norm": entry.get("grad_norm"),
                "replayed": round(measured["rollouts"] * share / (1 - share)),
            }
            rows.append({**self.key, **measured, **more})
        return rows

    def evaluation_rows(self, prompts: Sequence[str]) -> list[Json]:
        """Rows of `evaluations.arrow` for these held-out prompts, without the start."""
        marks = range(self.comparison.marks)
        return [row for k in marks for row in self.judged(self.mark(k) / ROLLOUTS, k + 1, prompts)]

    def judged(self, rollouts: Path, mark: int, prompts: Sequence[str]) -> list[Json]:
        """A row per held-out prompt for one model; `samples` is 0 if no completion could be judged."""
        table = pa.concat_tables(RolloutSet(rollouts).tables([ID, "tokens"]))
        sums = table.group_by(ID).aggregate([("tokens", "sum")]).to_pylist()
        tokens = {row[ID]: row["tokens_sum"] for row in sums}
        rates = {row[ID]: row for row in pass_rates(rollouts, success=self.comparison.success).to_pylist()}
        rows = []
        for gc_id in sorted(prompts):
            rate = rates.get(gc_id, {"wins": 0, "samples": 0})
            counts = {"right": round(rate["wins"]), "samples": rate["samples"]}
            rows.append({**self.key, "mark": mark, ID: gc_id, **counts, "tokens": tokens.get(gc_id, 0)})
        return rows


def model_at_start(comparison: Comparison) -> str:
    """The model that every arm begins with."""
    model = comparison.model or recorded_model(comparison.scored)
    assert model is not None  # checked before any arm
    return model


def judging(comparison: Comparison, model: str, out: Path) -> RolloutConfig:
    """The rollouts of the held-out prompts by a model, with the same random numbers for every model."""
    options = _rollouts(comparison) | comparison.evaluation.model_dump()
    return RolloutConfig(scored=comparison.heldout.resolve(), out=out, model=model, **options)


def _rollouts(comparison: Comparison) -> Json:
    """The options that rollouts of references and of held-out prompts share."""
    names = {"verifier", "answer_column", "max_tokens", "threads"}
    given = comparison.model_dump(include=names, exclude_none=True)
    return given | {"verify_workers": 1, "on_error": "skip"}


def prompt_tokens(scored: ScoredSet) -> int:
    """Tokens of all prompts of a set, which a scoring pass reads."""
    return int(pc.sum(scored.column("gc_prompt_tokens")).as_py())


class Marks:
    """Counts generated tokens, requests a checkpoint at each mark, and ends the training at the last one.

    The trainer must call it after the callback that follows the run, which reports the outcomes that are
    counted here. Seconds are counted from `begun`, a value of `time.monotonic`.
    """

    def __init__(self, job: ArmJob, run: Run, begun: float) -> None:
        self._job, self._run, self._begun = job, run, begun
        self._marks, self._scoring = job.comparison.mark_tokens, job.scoring()
        self._round, self._trained, self._before = 0, 0, 0.0
        self._to_draw: list[tuple[int, int]] = []
        self._last: Json | None = None
        columns = [run.scored.column(name).to_pylist() for name in (ID, "gc_angle", "gc_prompt_tokens")]
        self._prompts = {gc_id: facts for gc_id, *facts in zip(*columns, strict=True)}

    def spent(self) -> Json:
        """Tokens spent up to now: the sum, and its parts by purpose."""
        for round_ in range(len(self._to_draw), self._round + 1):
            references = self._run.plan(round_).get("references") or {}
            again = self._run.folder.glob(f"scores/{round_ - 1:05d}*")
            scored = (ScoredSet(path, verify=False) for path in again if (path / MANIFEST).exists())
            completions = int(references.get("completion_tokens") or 0)
            self._to_draw.append((completions, sum(map(prompt_tokens, scored))))
        completions, scored_again = map(sum, zip(*self._to_draw[: self._round + 1], strict=True))
        parts = {
            "scoring": self._scoring,
            "rescoring": round(scored_again * self._job.comparison.prefill_weight),
            "references": completions,
            "training": self._trained,
        }
        return {"tokens": sum(parts.values()), **parts}

    def measure(self, step: int) -> Json:
        """The columns of `results.SCHEMAS` for an optimizer step; for a repeated step, of the last time.

        `effective` is the share of prompts whose rollouts differ in reward and so have an advantage.
        """
        run, round_ = self._run, self._round
        lines = read_file(run.outcomes(round_), round_, run.ids, run.rules)
        last = {(line.gc_id, line.sample): line for line in lines if line.step == step}.values()
        rewards: dict[str, list[float]] = {line.gc_id: [] for line in last}
        for line in last:
            if line.reward is not None:
                rewards[line.gc_id].append(float(line.reward))
        judged = [reward for each in rewards.values() for reward in each]
        angles = [self._prompts[gc_id][0] for gc_id in sorted(rewards)]
        return {
            "rollouts": len(last),
            "prompts": len(rewards),
            "completion_tokens": sum(line.tokens for line in last),
            "prompt_tokens": sum(self._prompts[line.gc_id][1] for line in last),
            "effective": sum(len(set(each)) > 1 for each in rewards.values()) / max(len(rewards), 1),
            "reward": fmean(judged) if judged else None,
            "angle": fmean(angles) if angles else None,
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Continue from the checkpoint's counts; make up for a mark or an end that a kill prevented."""
        self._to_draw.clear()  # the run may have gone back
        if logs := [entry[STEP] for entry in state.log_history if STEP in entry]:
            self._round, self._trained, self._before = (logs[-1][k] for k in ("round", "training", "seconds"))
        if state.global_step:
            self.on_save(args, state, control)
        if self.spent()["tokens"] >= self._marks[-1]:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Count the step, and request a checkpoint if it passed a mark."""
        self._round = self._run.round
        self._last = self.measure(state.global_step)
        self._trained += self._last["completion_tokens"]
        spent = self.spent()["tokens"]
        if self._passed(spent):
            control.should_save = True
        if spent >= self._marks[-1]:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Add the step's costs to the trainer's log entry of the step."""
        if self._last is None:  # the summary at the end
            return
        step, spent, self._last = self._last, self.spent(), None
        seconds = self._before + time.monotonic() - self._begun
        state.log_history[-1][STEP] = {**step, **spent, "round": self._round, "seconds": seconds}
        done = min(spent["tokens"] / self._marks[-1], 1.0)
        write_sealed(self._job.folder / PROGRESS, {"share": TRAINED * done})

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Keep the weights of a checkpoint that passed a mark; the trainer deletes its checkpoints later."""
        spent, checkpoint = self.spent(), Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for mark in self._passed(spent["tokens"]):
            shutil.rmtree(mark, ignore_errors=True)
            mark.mkdir(parents=True)
            for path in checkpoint.iterdir():
                if path.suffix in _OF_A_MODEL:
                    same_file(path, mark / path.name)
            logs = [entry for entry in state.log_history if STEP in entry]
            cost = {**spent, "step": state.global_step, "seconds": logs[-1][STEP]["seconds"], "steps": logs}
            write_sealed(mark / COST, cost)

    def _passed(self, spent: int) -> list[Path]:
        """The marks that were reached and have no checkpoint yet."""
        reached = [self._job.mark(k) for k, tokens in enumerate(self._marks) if spent >= tokens]
        return [mark for mark in reached if not (mark / COST).exists()]


def main(folder: Path) -> None:
    """Train one arm to its last mark, then judge all marks."""
    job = ArmJob.read(folder)
    marks = [job.mark(k) for k in range(job.comparison.marks)]
    remove_temporaries(folder)
    if not (marks[-1] / COST).exists():
        train(job)
    for k, mark in enumerate(marks, 1):
        if not (mark / ROLLOUTS / MANIFEST).exists():  # after that the weights may be gone
            roll_out(judging(job.comparison, str(mark), mark / ROLLOUTS))
        write_sealed(folder / PROGRESS, {"share": TRAINED + (1 - TRAINED) * k / len(marks)})
        if k < len(marks):  # the last one's weights stay
            for path in mark.glob("*.safetensors"):
                path.unlink()
    shutil.rmtree(folder / TRAINER, ignore_errors=True)  # its checkpoints: nothing will resume from them


def train(job: ArmJob) -> None:
    """Train to the last mark, or continue where an earlier process stopped."""
    # Imported here because judging needs no trainer.
    import trl
    from transformers import TrainerCallback

    from gaincurate.trainers.trl.live import attach, dataset
    from gaincurate.trainers.trl.replay import Replay, ReplayGRPOTrainer

    class Callback(Marks, TrainerCallback):
        """`Marks`, with TRL's empty methods for all other events."""

    run, comparison, replay = Run(job.folder / RUN_FOLDER), job.comparison, job.arm.replay
    prompts = comparison.prompts_of(job.arm)
    settings = {
        "learning_rate": comparison.learning_rate,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "disable_tqdm": True,
        **comparison.train,  # may replace the settings above only
        "output_dir": str(job.folder / TRAINER),
        "num_train_epochs": run.config.rounds,
        "per_device_train_batch_size": prompts * comparison.group // comparison.micro_batches,
        "num_generations": comparison.group,
        "max_completion_length": comparison.max_tokens,
        "temperature": comparison.temperature,
        "shuffle_dataset": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": comparison.steps_of(job.arm),
        "save_total_limit": 2,
        "seed": job.number,
    }
    with VerifierPool(VerifierConfig(verifier=comparison.verifier, verify_workers=1)) as pool:
        options: dict[str, Any] = {
            "model": model_at_start(comparison),
            "reward_funcs": verified(run.scored, comparison, pool),
            "args": trl.GRPOConfig(**settings),
            "train_dataset": dataset(run.folder),
        }
        if replay is None:
            trainer = trl.GRPOTrainer(**options)
        else:
            buffer = {"capacity": prompts, **replay.model_dump(exclude_none=True)}
            trainer = ReplayGRPOTrainer(**options, replay=Replay(**buffer))
        begun = time.monotonic()  # from here on strategies differ: the first references may be rolled out now
        attach(trainer, run.folder)
        trainer.add_callback(Callback(job, run, begun))
        trainer.train(resume_from_checkpoint=True)


def verified(scored: ScoredSet, comparison: Comparison, pool: VerifierPool) -> Callable[..., Rewards]:
    """A reward function for TRL: 1 or 0 by the verifier, None where it could not judge."""
    column = answer_column(scored, comparison.answer_column, needed=":" not in comparison.verifier)
    ids = pc.cast(scored.column(ID), pa.string()).combine_chunks()
    prompts: dict[str, Prompt] = {}

    def reward(completions: Sequence[Any], gc_id: Sequence[str], **columns: Any) -> Rewards:
        if unknown := sorted(set(gc_id) - prompts.keys()):
            places = pc.index_in(pa.array(unknown, pa.string()), value_set=ids).to_numpy()
            prompts.update(zip(unknown, read_prompts(scored, places, column), strict=True))
        jobs = [
            Job(completion[-1]["content"], prompts[prompt_id].answer, prompts[prompt_id].row)
            for completion, prompt_id in zip(completions, gc_id, strict=True)
        ]
        verdicts = pool.judge_all(jobs)
        return [None if v.reward is None else float(v.reward >= comparison.success) for v in verdicts]

    return reward


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except GaincurateError as error:
        sys.exit(f"error: {error}")
