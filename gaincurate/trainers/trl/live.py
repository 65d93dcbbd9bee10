"""TRL follows a run: `attach` makes a trainer train the rounds, and its outcomes choose the next one.

Planning a round can take as long as scoring a set. So one process plans and sends the others a message every
few seconds, which keeps collectives within their time limit. Its exceptions are raised on all processes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, Unpack

import datasets
import pyarrow as pa
import transformers
from accelerate.utils import broadcast_object_list, gather_object
from trl.trainer.utils import RepeatSampler

from gaincurate.core.artifact import RUN, Json
from gaincurate.core.foreign import json_file
from gaincurate.core.prompts import training_rows
from gaincurate.core.schema import ID
from gaincurate.core.store import use_cache
from gaincurate.errors import GaincurateError, InputError, OutcomeError, OutputError
from gaincurate.schedule.config import ScheduleOptions
from gaincurate.schedule.observations import logged, silent
from gaincurate.schedule.run import Run, refuse_group_sizes
from gaincurate.trainers.checkpoints import TrainerFinder, checkpoints
from gaincurate.trainers.doctor.findings import context_of, refuse
from gaincurate.trainers.profile import layout_of
from gaincurate.trainers.round_dataset import DRAW, RoundDataset
from gaincurate.trainers.session import ROUND, RunSession, followed, place_beside
from gaincurate.trainers.trl.batching import BatchShape, shape_of
from gaincurate.trainers.trl.checks import check, newest, place_in, places_of, see_checkpoint
from gaincurate.trainers.trl.rewards import Reward, Tap, heard, weighted
from gaincurate.trainers.trl.start import config_of, open_run, see_prompts, set_defaults, with_ids

_log = logging.getLogger("gaincurate")
BEAT = 5.0  # seconds between two signs of life; torch's own limits are 10 minutes and more


def together(work: Callable[[], Any], accelerator: Any) -> Any:
    """Run `work` on the main process alone and give every process its result, which must be plain.

    A GaincurateError is raised on every process, and another error as RuntimeError on the others.
    """
    if accelerator.num_processes == 1:
        return work()
    if not accelerator.is_main_process:
        while (message := broadcast_object_list([None])[0]) is None:  # it is at work
            pass
        error, value = message
        if error is not None:
            raise error(value)
        return value
    outcome = Future[Any]()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # raised again below
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    while not wait([outcome], BEAT).done:
        broadcast_object_list([None])
    if (failure := outcome.exception()) is None:
        broadcast_object_list([(None, outcome.result())])
    elif isinstance(failure, GaincurateError):
        broadcast_object_list([(type(failure), str(failure))])
    else:
        broadcast_object_list([(RuntimeError, f"the main process failed: {failure!r}")])
    return outcome.result()


def attach(
    trainer: Any,
    run: str | Path,
    *,
    outcome: str | Sequence[str] | None = None,
    correct: str | None = None,
    strategy: str | None = None,
    budget: int | None = None,
    rounds: int | None = None,
    score: Mapping[str, Any] | None = None,
    scored: str | Path | None = None,
    reference_outcomes: str | Path | None = None,
    cache: str | Path | None = None,
    **options: Unpack[ScheduleOptions],
) -> Follower:
    """Let a trainer follow a run; call it once, before `train()`, on every process.

    Settings at TRL's default that break the plan are changed, and one line names them. Rows without `gc_id`
    get it if the scored set has their prompts. With `strategy`, `budget` and `rounds`, a run that does not
    exist is started over the trainer's rows, scored with the trainer's model.

    Args:
        trainer: a `trl.GRPOTrainer`.
        run: the run's folder, on a file system that all processes see.
        outcome: names of the reward functions whose weighted sum is reported; all, if not given.
        correct: the name of one that says whether an answer is right (0 to 1); accuracy is made of it.
        strategy: of a run that is to be opened here. A run that is there must have been opened with the same.
        budget: distinct prompts in its rounds.
        rounds: its rounds.
        score: further options of `gaincurate score`, such as `{"device": "cuda:1"}`.
        scored: a finished set to use, or where the trainer's rows are scored into (default: RUN-scored).
        reference_outcomes: what round 0's references did: outcomes, or a rollout set.
        cache: a folder for copies of what lies in object stores.
        **options: further keywords of `gaincurate.Schedule.start`. `align_to` is by default the prompts that
            the trainer generates for at a time.

    Returns:
        The callback that was added to the trainer.

    Raises:
        InputError: settings under which the trainer would train on other prompts than the plan's or than
            were scored, or lose its position; one sentence each, with the fix. Or the run was opened with
            other options, or the trainer's model has a trained adapter.
        OutputError: no run is there.
        GaincurateError: the trainer's rows cannot be scored.
    """
    shape = shape_of(trainer)
    note = logged if shape.rank == 0 else silent
    if any(isinstance(callback, Follower) for callback in trainer.callback_handler.callbacks):
        raise InputError(f"this trainer follows a run already, and cannot follow {run} too.")
    required = {"strategy": strategy, "budget": budget, "rounds": rounds}
    settings = {**options, **({} if scored is None else {"scored": scored})}
    wanted = config_of(shape, run, required, settings, score)
    use_cache(None if cache is None else Path(cache))
    there = together(lambda: (Path(run) / RUN).exists(), trainer.accelerator)
    config = wanted if wanted is not None and not there else followed(run, note, checkpoints=True).run.config
    changed = set_defaults(trainer, context_of(config, "live"))
    check(trainer, config, outcome, correct)
    if wanted is not None:
        opening = (trainer, wanted, score or {}, reference_outcomes, note)
        together(lambda: open_run(*opening), trainer.accelerator)
    live = followed(run, note, checkpoints=True)
    live.held = TrainerFinder(layout_of("trl"), live.note).held
    together(lambda: _plan_the_first(live), trainer.accelerator)
    refuse_group_sizes(live.run, "TRL")
    without = ID not in trainer.train_dataset.column_names
    if without:
        trainer.train_dataset = with_ids(trainer.train_dataset, live.run)
    refuse(see_prompts(trainer, live.run, live.ids, note), repr)
    values = ", ".join(f"{key}={value!r}" for key, value in changed.items())
    done = [f"set {values} in place of TRL's default"] if changed else []
    if without:
        done.append(f"gave the {len(trainer.train_dataset):,} rows of train_dataset their {ID}")
    if done:
        note(f"warning: {', and '.join(done)}")
    return Follower(trainer, live, Tap(trainer, shape, outcome, correct))


def _plan_the_first(live: RunSession) -> None:
    """Plan round 0 of a run that waits for its first references: training needs its rows."""
    if live.round < 0:
        live.open()
        live.close()


class Follower(transformers.TrainerCallback):
    """The callback that `attach` adds to a trainer."""

    def __init__(self, trainer: Any, live: RunSession, tap: Tap) -> None:
        self.live, self.shape, self._tap = live, tap.shape, tap
        self.round = live.round
        self._trainer, self._accelerator = trainer, trainer.accelerator
        self._steps = tap.shape.steps(live.budget)
        self._ids: list[str] = live.ids
        self._resumed: str | None = None
        self._saved = 0  # the step of the newest checkpoint
        tap.metrics = live.metrics()
        self._train = trainer.train
        trainer.train = self._train_from
        sampler = RoundSampler(self._places, live.budget, tap.shape)
        trainer._get_train_sampler = lambda dataset=None: sampler
        trainer.add_callback(self)

    def _train_from(self, resume_from_checkpoint: Any = None, *args: Any, **options: Any) -> Any:
        """`trainer.train`, where True means the newest complete checkpoint of the current history."""
        if resume_from_checkpoint is True:
            output = self._trainer.args.output_dir
            checkpoint = together(lambda: newest(output, self.live, self.shape), self._accelerator)
            if checkpoint is None:
                _log.warning("no checkpoint to resume from in %s: starting from the beginning", output)
            resume_from_checkpoint = checkpoint and str(checkpoint)
        self._resumed = resume_from_checkpoint or None
        return self._train(resume_from_checkpoint, *args, **options)

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Move the run to the trainer's step."""
        if getattr(self._trainer, "_step", 0) % self.shape.repeats:
            raise InputError(
                "this trainer was interrupted inside a generation's window and would go on with the rollouts "
                "of that time; make a new one."
            )
        self._tap.forget()
        self._hear(together(lambda: self._begin(state.global_step), self._accelerator))

    def _begin(self, step: int) -> Json:
        """Begin round 0 again, or return to the checkpoint if training can resume there exactly."""
        live = self.live
        live.open()
        if step == 0:
            live.begin_anew()
        else:
            path = Path(str(self._resumed))
            try:
                saved = place_in(path, step, live, self.shape)
            except (InputError, OutputError) as error:
                raise type(error)(f"cannot resume from {path}: {error}", **error.data) from error
            live.restore(saved, str(path))
            live.checkpoint = str(path.resolve())
        self._saved = step
        return self._news()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Plan the round that begins, if no checkpoint came between."""
        self._turn(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Report the rewards of this step."""
        lines = self._tap.drain(state.global_step)
        if lines is None:
            return
        gathered = [{"round": self.round, **line} for line in gather_object(lines)]
        together(lambda: self._report(gathered), self._accelerator)

    def _report(self, lines: list[Json]) -> None:
        try:
            self.live.report(lines)
        except OutcomeError as error:
            if "reward" not in error.data:
                raise
            scored = str(self.live.run.config.scored)
            raise OutcomeError(
                f"{error} Open another run over the same scores with attach(trainer, NEW_FOLDER, "
                f"scored={scored!r}, reward_low=LO, reward_high=HI, ...).",
                **error.data,
            ) from error

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Save the position; at a round's end, score again if due and plan the next round."""
        step = state.global_step
        together(lambda: self._save(args.output_dir, step), self._accelerator)
        self._turn(step)

    def _save(self, output: str, step: int) -> None:
        checkpoint = Path(output) / f"checkpoint-{step}"
        position = self.shape.taken(step - self.live.round * self._steps)
        self.live.save_beside(checkpoint, step, position=position, batch=self.shape.batch)
        self.live.checkpoint, self._saved = str(checkpoint.resolve()), step
        self._forget_orders(output)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Take the last round's outcomes."""
        self._turn(state.global_step)
        self.live.close()

    def _turn(self, step: int) -> None:
        """Plan the next round if this one is over."""

        def turn() -> Json:
            see_checkpoint(self.live.run.config, self.shape, self.live.round, self._saved)
            self.live.turn()
            return self._news()

        if self.round >= 0 and step >= (self.round + 1) * self._steps:
            self._hear(together(turn, self._accelerator))

    def _news(self) -> Json:
        live = self.live
        round_ = -1 if live.finished else live.round
        return {"round": round_, "ids": live.ids, "metrics": live.metrics()}

    def _hear(self, news: Json) -> None:
        self.round, self._ids, self._tap.metrics = news["round"], news["ids"], news["metrics"]

    def _places(self) -> list[int]:
        return places_of(self._trainer.train_dataset, self._ids)

    def _forget_orders(self, output: str) -> None:
        """Keep the orders that a checkpoint could go back to."""
        named = {self.live.state["order"]}
        folders = {Path(output), Path(self._resumed).parent if self._resumed else Path(output)}
        for _, path in (each for folder in folders for each in checkpoints(folder, layout_of("trl"))):
            with suppress(GaincurateError, LookupError, TypeError):  # rotated away, or without a place
                named.add(place_beside(path)["state"]["order"])
        self.live.run.forget_orders(but=named)


def dataset(run: str | Path) -> datasets.Dataset:
    """The scored set of a run as rows for training: `prompt`, `gc_id` and the source's columns.

    Args:
        run: the run's folder.

    Returns:
        All rows of the set, `[rows]`, in its order; `prompt` is the chat messages as they were scored.

    Raises:
        OutputError: no run, or its scored set is gone.
    """
    opened = Run(run)
    scored, config = opened.scored, opened.config
    table = pa.concat_tables(scored.tables())  # memory-mapped, and not hashed: the manifest's hash will do
    schema = table.schema
    whole = datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint=scored.manifest_hash)

    def rows(batch: dict[str, list[Any]]) -> Any:
        few = pa.Table.from_pydict(batch, pa.schema([schema.field(name) for name in batch]))
        made = training_rows(few, scored.identity, bare=config.bare, with_scores=config.with_scores)
        return made.to_pydict()

    return whole.with_transform(rows)


class RoundSampler(RepeatSampler):  # type: ignore[misc]
    """A round's prompts as TRL repeats them, in the plan's order.

    All processes walk through the same sequence and take their slices of it. `places`, called when an epoch
    begins, yields the rows of the round, `[budget]`.
    """

    def __init__(self, places: Callable[[], Sequence[int]], budget: int, shape: BatchShape) -> None:
        super().__init__(range(budget), shape.group, shape.prompts, shape.repeats, shuffle=False)
        self._places = places

    def __iter__(self) -> Iterator[int]:
        places = self._places()
        return (places[index] for index in super().__iter__())


def async_arguments(run: str | Path, reward_funcs: Reward | Sequence[Reward]) -> dict[str, Any]:
    """The arguments with which an `AsyncGRPOTrainer` follows a run.

    `AsyncGRPOTrainer(model, args=args, **async_arguments("run", reward))`. Prompts come in the order of the
    plans. Outcomes are the sums of the rewards, as TRL sums them.

    Args:
        run: the run's folder.
        reward_funcs: one or several that can be pickled: a module's functions, or instances of its classes.
            The reward of an environment is not recorded.

    Returns:
        `train_dataset`, `reward_funcs` and `callbacks`. Raises as `Run`, and InputError for group sizes.
    """
    refuse_group_sizes(Run(run), "TRL")
    functions = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
    dataset = RoundDataset(run, endless=True)
    sums = _Sums(dataset, len(functions))
    rewards = [heard(function, sums) for function in functions]
    return {"train_dataset": dataset, "reward_funcs": rewards, "callbacks": [_Places(dataset)]}


class _Sums:
    """Reports the sums of a group's rewards when the last function, in whichever thread, has scored it."""

    def __init__(self, dataset: RoundDataset, functions: int) -> None:
        self._dataset, self._functions = dataset, functions
        self._parts: dict[int, list[list[Any]]] = {}  # by draw

    def __call__(self, rewards: list[Any], columns: Mapping[str, Any]) -> None:
        row = {name: columns[name][0] for name in (ID, ROUND, DRAW)}
        parts = self._parts.setdefault(row[DRAW], [])
        parts.append(rewards)
        if len(parts) == self._functions and self._parts.pop(row[DRAW], []):
            sums = [weighted([1.0] * len(values), values) for values in zip(*parts, strict=True)]
            self._dataset.report([row], [sums], tokens=[[len(ids) for ids in columns["completion_ids"]]])


class _Places(transformers.TrainerCallback):
    """Saves the position with a checkpoint, and restores the data set's before it is sent to the worker.

    TRL starts the worker in its own callback, which runs after those that the constructor was given.
    """

    def __init__(self, dataset: RoundDataset) -> None:
        self._dataset = dataset

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.is_world_process_zero:
            if state.global_step:
                self._dataset.load_state_dict(place_beside(_checkpoint(args, state)))
            self._dataset.begin(restart=not state.global_step)
            self._dataset.close()

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        path = _checkpoint(args, state) / "rollout_state.json"  # TRL's: the first group not trained on
        if state.is_world_process_zero and path.exists():
            first = self._dataset.draw_at(json_file(path)["prompt_index"])
            RunSession(self._dataset.run).save_beside(path.parent, first - 1)


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
