"""TRL follows a run: with `attach`, a trainer trains the run's rounds and reports their outcomes.

Planning a round can take as long as scoring a set. One process plans, and sends the others a message every
few seconds, so that collectives stay within their time limit. Its exceptions are raised on all processes.
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
News = tuple[int, list[str], dict[str, float]]
"""The newest round, -1 once the run is finished; its ids and its metrics."""
BEAT = 5.0  # seconds between two messages; torch's limits for collectives are 10 minutes and more


def together(work: Callable[[], Any], accelerator: Any) -> Any:
    """Run `work` on the main process only, and return its result, plain values, on every process.

    A GaincurateError is raised on every process; another error becomes a RuntimeError on the others.
    """
    if accelerator.num_processes == 1:
        return work()
    if not accelerator.is_main_process:
        while (message := broadcast_object_list([None])[0]) is None:  # the main process is still working
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
    failure = outcome.exception()
    message = (RuntimeError, f"the main process failed: {failure!r}")
    if isinstance(failure, GaincurateError):
        message = (type(failure), str(failure))
    broadcast_object_list([(None, outcome.result()) if failure is None else message])
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

    Settings at TRL's default that break the plan are changed, and a warning names them. Rows without `gc_id`
    get it if the scored set has their prompts. With `strategy`, `budget` and `rounds`, a run that does not
    exist is started over the trainer's rows, which are scored with the trainer's model.

    Args:
        trainer: a `trl.GRPOTrainer`.
        run: the run's folder, on a file system that all processes see.
        outcome: the names of the reward functions whose weighted sum is reported; default: all.
        correct: the name of the reward function for accuracy, from 0 (wrong) to 1 (right).
        strategy: the strategy of a run to start here. An existing run must have the same options.
        budget: the distinct prompts in each of its rounds.
        rounds: the number of its rounds.
        score: further options of `gaincurate score`, such as `{"device": "cuda:1"}`.
        scored: a finished set to use, or the folder for the scored rows (default: RUN-scored).
        reference_outcomes: outcomes of round 0's references, or a rollout set.
        cache: a folder for copies of files in object stores.
        **options: keywords of `gaincurate.Schedule.start`; `align_to` defaults to a generation's prompts.

    Returns:
        The callback that was added to the trainer.

    Raises:
        InputError: with some settings, the trainer would train on prompts other than those planned or scored,
            or lose its position; the error has a fix for each. Or the run was started with other options, or
            the trainer's model has a trained adapter.
        OutputError: the folder has no run.
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
    values = ", ".join(f"{key}={value!r}" for key, value in changed.items())
    done = [f"set {values} in place of TRL's default"] if changed else []
    if ID not in trainer.train_dataset.column_names:
        trainer.train_dataset = with_ids(trainer.train_dataset, live.run)
        done.append(f"gave the {len(trainer.train_dataset):,} rows of train_dataset their {ID}")
    refuse(see_prompts(trainer, live.run, live.ids, note), repr)
    if done:
        note(f"warning: {', and '.join(done)}")
    return Follower(trainer, live, Tap(trainer, shape, outcome, correct))


def _plan_the_first(live: RunSession) -> None:
    """Plan round 0 of a run that waited for its first references, because the trainer needs its rows."""
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
        sampler = RoundSampler(lambda: places_of(trainer.train_dataset, self._ids), live.budget, tap.shape)
        trainer._get_train_sampler = lambda dataset=None: sampler
        trainer.add_callback(self)

    def _train_from(self, resume_from_checkpoint: Any = None, *args: Any, **options: Any) -> Any:
        """`trainer.train`; `resume_from_checkpoint=True` is the newest checkpoint of the current history."""
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
            raise InputError("the trainer has rollouts of an interrupted generation; make a new trainer.")
        self._tap.forget()
        news = together(lambda: self._begin(state.global_step), self._accelerator)
        self.round, self._ids, self._tap.metrics = news

    def _begin(self, step: int) -> News:
        """Restart round 0, or return the run to the checkpoint if training can resume there exactly."""
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
        """Plan the round that begins, unless `on_save` did."""
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
        """Plan the next round if this one has ended."""

        def turn() -> News:
            see_checkpoint(self.live.run.config, self.shape, self.live.round, self._saved)
            self.live.turn()
            return self._news()

        if self.round >= 0 and step >= (self.round + 1) * self._steps:
            self.round, self._ids, self._tap.metrics = together(turn, self._accelerator)

    def _news(self) -> News:
        return -1 if self.live.finished else self.live.round, self.live.ids, self.live.metrics()

    def _forget_orders(self, output: str) -> None:
        """Delete the run's orders that no checkpoint can go back to."""
        named = {self.live.state["order"]}
        folders = {Path(output), Path(self._resumed).parent if self._resumed else Path(output)}
        for _, path in (each for folder in folders for each in checkpoints(folder, layout_of("trl"))):
            with suppress(GaincurateError, LookupError, TypeError):  # rotated away, or without a place
                named.add(place_beside(path)["state"]["order"])
        self.live.run.forget_orders(but=named)


def dataset(run: str | Path) -> datasets.Dataset:
    """The scored set of a run as training rows: `prompt`, `gc_id` and the source's columns.

    Args:
        run: the run's folder.

    Returns:
        All rows of the set in order, `[rows]`; `prompt` has the chat messages that were scored.

    Raises:
        OutputError: the folder has no run, or its scored set is missing.
    """
    opened = Run(run)
    table = pa.concat_tables(opened.scored.tables())  # memory-mapped; the fingerprint is the manifest's hash
    schema = table.schema
    whole = datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint=opened.scored.manifest_hash)

    def rows(batch: dict[str, list[Any]]) -> Any:
        few = pa.Table.from_pydict(batch, pa.schema([schema.field(name) for name in batch]))
        return opened.shown(few).to_pydict()

    return whole.with_transform(rows)


class RoundSampler(RepeatSampler):  # type: ignore[misc]
    """A round's prompts in the plan's order, repeated as TRL repeats them.

    All processes iterate over the same sequence and take their slices of it. `places` is called when an epoch
    begins, and returns the rows of the round, `[budget]`.
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
    plans. Outcomes are the sums of the rewards, as in TRL.

    Args:
        run: the run's folder.
        reward_funcs: one or several reward functions that can be pickled: a module's functions, or instances
            of its classes. The reward of an environment is not recorded.

    Returns:
        `train_dataset`, `reward_funcs` and `callbacks`.

    Raises:
        InputError: the plans give prompts group sizes.
        OutputError: the folder has no run.
    """
    refuse_group_sizes(Run(run), "TRL")
    functions = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
    dataset = RoundDataset(run, endless=True)
    sums = _Sums(dataset, len(functions))
    rewards = [heard(function, sums) for function in functions]
    return {"train_dataset": dataset, "reward_funcs": rewards, "callbacks": [_Places(dataset)]}


class _Sums:
    """Reports the sums of a group's rewards once all functions, which may run in threads, have scored it."""

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
    """Saves the position with each checkpoint, and restores it before the data set is sent to the worker.

    TRL starts the worker in a callback of its own, which runs after the constructor's callbacks.
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
