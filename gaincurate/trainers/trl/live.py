"""TRL follows a run: `attach` makes a trainer walk through the rounds, with its outcomes as what chooses
the next.

Planning a round may take as long as scoring a set does. So one process plans and the others hear from it
every few seconds, which keeps collectives inside their time limit, and what it raises is raised on all.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import transformers
from accelerate.utils import gather_object

from gaincurate.core.artifact import Json
from gaincurate.errors import GaincurateError, InputError, OutcomeError, OutputError
from gaincurate.schedule.observations import silent
from gaincurate.trainers.profile import layout_of
from gaincurate.trainers.session import RunSession, followed, place_beside
from gaincurate.trainers.snapshot import TrainerFinder
from gaincurate.trainers.trl.batching import Shape, shape_of
from gaincurate.trainers.trl.checks import check, late_first_save, see_checkpoint
from gaincurate.trainers.trl.resume import checkpoint_folder, checkpoints, newest, place_in
from gaincurate.trainers.trl.rows import RoundSampler, Tap, dataset, places_of

BEAT = 5.0
"""Seconds between two signs of life; torch's own limits are 10 minutes and more."""


def together(work: Callable[[], Any], accelerator: Any) -> Any:
    """Run `work` on the main process alone and give every process its result.

    Args:
        work: its result is sent to the others, so it must be plain.
        accelerator: of the trainer (`is_main_process`, `num_processes`).

    Raises:
        GaincurateError: of the same class and with the same sentence on every process.
        RuntimeError: on the others, where the main process met another error.
    """
    if accelerator.num_processes == 1:
        return work()
    if not accelerator.is_main_process:
        while (told := _tell(None))[0] == "at work":
            pass
        return _result(told)
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(("done", work()))
        except BaseException as error:  # raised again below
            outcome.append(("failed", error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(BEAT)
        if thread.is_alive():
            _tell(("at work", None))
    state, value = outcome[0]
    if state == "done":
        return _result(_tell((state, value)))
    kind = type(value) if isinstance(value, GaincurateError) else RuntimeError
    said = str(value) if kind is not RuntimeError else f"the main process failed: {value!r}"
    _tell(("failed", (kind, said)))
    raise value


def _tell(value: tuple[str, Any] | None) -> tuple[str, Any]:
    from accelerate.utils import broadcast_object_list

    found: tuple[str, Any] = broadcast_object_list([value])[0]
    return found


def _result(told: tuple[str, Any]) -> Any:
    state, value = told
    if state == "failed":
        kind, said = value
        raise kind(said)
    return value


__all__ = ["Follower", "FollowsRun", "attach", "dataset"]

_log = logging.getLogger("gaincurate")
_TRAIN_DATASET = 4  # GRPOTrainer(model, reward_funcs, args, train_dataset, ...)


def attach(
    trainer: Any,
    run: str | Path,
    *,
    late: bool = False,
    outcome: str | Sequence[str] | None = None,
    correct: str | None = None,
) -> Follower:
    """Let a trainer follow a run; call it once, before `train()`, on every process.

    Args:
        trainer: a `trl.GRPOTrainer`.
        run: the run's folder, on a file system that all processes see.
        late: choose rows when they are generated for, whatever row the data loader brought. The dataset then
            only sets the length of an epoch, workers may prefetch, and rounds need not be epochs.
        outcome: names of the reward functions whose weighted sum is reported; all, if not given.
        correct: the name of one that says whether an answer is right (0 to 1); accuracy is made of it.

    Returns:
        The callback that was added to the trainer.

    Raises:
        InputError: settings under which the trainer would train on other prompts than the plan's, or lose
            its place; a sentence for each, with what fixes it.
        OutputError: no run is there.
    """
    shape = shape_of(trainer)
    live = followed(run, _note if shape.rank == 0 else silent, checkpoints=True)
    live.held = TrainerFinder(layout_of("trl"), live.note).held
    if any(isinstance(callback, Follower) for callback in trainer.callback_handler.callbacks):
        raise InputError(f"this trainer follows a run already, and cannot follow {run} too.")
    check(trainer, shape, live.run.config, late, outcome, correct)
    together(lambda: _plan_the_first(live), trainer.accelerator)
    if not late:
        places_of(trainer.train_dataset, live.ids)  # now rather than in the first epoch
    return Follower(trainer, live, shape, late=late, outcome=outcome, correct=correct)


def _plan_the_first(live: RunSession) -> None:
    """Of a run that waits for its first references: its rows are needed before training begins."""
    if live.round < 0:
        live.open()
        live.close()


class Follower(transformers.TrainerCallback):
    """What listens to a trainer's events; made by `attach`."""

    def __init__(
        self,
        trainer: Any,
        live: RunSession,
        shape: Shape,
        *,
        late: bool,
        outcome: str | Sequence[str] | None,
        correct: str | None,
    ) -> None:
        self.live, self.shape, self.late = live, shape, late
        self.round = live.round
        self._trainer, self._accelerator = trainer, trainer.accelerator
        self._steps = shape.steps(live.budget)
        self._ids: list[str] = live.ids
        self._metrics: dict[str, float] = live.metrics()
        self._resumed: str | None = None
        self._saved = 0  # the step of the newest checkpoint
        self._tap = Tap(trainer, shape, outcome, correct, lambda: self._metrics)
        self._train = trainer.train
        trainer.train = self._told_what_to_resume
        if late:
            self._generate = trainer._generate_and_score_completions
            trainer._generate_and_score_completions = self._generate_for_the_plan
        else:
            sampler = RoundSampler(self._places, live.budget, shape)
            trainer._get_train_sampler = lambda dataset=None: sampler
        trainer.add_callback(self)
        if shape.rank == 0 and (why := late_first_save(trainer.args, self._steps)) is not None:
            _log.warning(why)

    def _told_what_to_resume(self, resume_from_checkpoint: Any = None, *args: Any, **options: Any) -> Any:
        """`trainer.train`; True stands for the newest checkpoint that is whole and of this history."""
        if resume_from_checkpoint is True:
            found = together(self._newest, self._accelerator)
            if found is None:
                _log.warning("no checkpoint to resume from in %s: begins anew", self._trainer.args.output_dir)
            else:
                _log.info("resumes from %s", found)
            resume_from_checkpoint = found
        self._resumed = resume_from_checkpoint or None
        return self._train(resume_from_checkpoint, *args, **options)

    def _newest(self) -> str | None:
        found = newest(self._trainer.args.output_dir, self.live, self.shape)
        return None if found is None else str(found)

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Bring the run to where the trainer is."""
        if getattr(self._trainer, "_step", 0) % self.shape.repeats:
            raise InputError(
                "this trainer was interrupted inside a generation's window and would go on with the rollouts "
                "of that time; make a new one."
            )
        self._tap.forget()
        self._hear(together(lambda: self._begin(state.global_step), self._accelerator))

    def _begin(self, step: int) -> Json:
        live = self.live
        live.open()
        if step == 0:
            live.begin_anew()
            self._saved = 0
        else:
            self._resume(step)
        return self._news()

    def _resume(self, step: int) -> None:
        """Go back to the checkpoint, if training that resumes there is what it was."""
        live, path = self.live, Path(str(self._resumed))
        try:
            saved = place_in(path, step, live, self.shape)
        except (InputError, OutputError) as error:
            raise type(error)(f"cannot resume from {path}: {error}", **error.data) from error
        live.restore(saved, str(path))
        live.position = self.shape.taken(step - int(saved["round"]) * self._steps)
        live.checkpoint, self._saved = str(path.resolve()), step

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Plan the round that begins, if no checkpoint came between."""
        if not self.late and self._round_is_over(state.global_step):
            self._turn()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Write what the rewards of this step were."""
        lines = self._tap.drain(state.global_step)
        if lines is None:
            return
        gathered = [{"round": self.round, **line} for line in gather_object(lines)]
        together(lambda: self._report(gathered), self._accelerator)

    def _report(self, lines: list[Json]) -> None:
        try:
            self.live.report(lines)
        except OutcomeError as error:
            more = (
                " Or let attach(..., outcome=NAME) take one reward function alone."
                if self._tap.several
                else ""
            )
            raise OutcomeError(f"{error}{more}", **error.data) from error

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Save the place; at a round's end score anew where due and plan the next."""
        step = state.global_step
        together(lambda: self._save(args.output_dir, step), self._accelerator)
        if self._round_is_over(step):
            self._turn()

    def _save(self, output: str, step: int) -> None:
        checkpoint = checkpoint_folder(output, step)
        position = self.shape.taken(step - self.live.round * self._steps)
        self.live.save_beside(checkpoint, step, position=position, batch=self.shape.batch)
        self.live.checkpoint, self._saved = str(checkpoint.resolve()), step
        self._forget_orders(output)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Take the last round's outcomes."""
        if self._round_is_over(state.global_step):
            self._turn()
        self.live.close()

    def _round_is_over(self, step: int) -> bool:
        return self.round >= 0 and step >= (self.round + 1) * self._steps

    def _turn(self) -> None:
        def turn() -> Json:
            see_checkpoint(self.live.run.config, self.shape, self.live.round, self._saved)
            self.live.turn()
            return self._news()

        self._hear(together(turn, self._accelerator))

    def _news(self) -> Json:
        live = self.live
        round_ = -1 if live.finished else live.round
        return {"round": round_, "ids": live.ids, "metrics": live.metrics()}

    def _hear(self, news: Json | None) -> None:
        if news is not None:
            self.round, self._ids, self._metrics = news["round"], news["ids"], news["metrics"]

    def _places(self) -> list[int]:
        return places_of(self._trainer.train_dataset, self._ids)

    def _generate_for_the_plan(self, inputs: list[Json]) -> Any:
        """`_generate_and_score_completions` for the plan's next rows, whatever the data loader brought."""
        if not self._trainer.model.training:
            return self._generate(inputs)

        def take() -> Json:
            turned = self.live.position >= self.live.budget
            if turned:
                see_checkpoint(self.live.run.config, self.shape, self.live.round, self._saved)
            rows = self.live.take(self.shape.prompts)
            return {"rows": rows, "news": self._news() if turned else None}

        found = together(take, self._accelerator)
        self._hear(found["news"])
        whole = [row for row in found["rows"] for _ in range(self.shape.group)]
        start = self.shape.rank * self.shape.local
        return self._generate(whole[start : start + self.shape.local])

    def _forget_orders(self, output: str) -> None:
        """Keep the orders that a checkpoint could go back to."""
        named = {self.live.state["order"]}
        before = Path(self._resumed).parent if self._resumed else Path(output)
        for path in (*checkpoints(output).values(), *checkpoints(before).values()):
            with suppress(GaincurateError, LookupError, TypeError):  # rotated away, or without a place
                named.add(place_beside(path)["state"]["order"])
        self.live.run.orders.forget_all_but(named)


def _note(text: str) -> None:
    _log.log(logging.WARNING if text.startswith("warning") else logging.INFO, text.removeprefix("warning: "))


class FollowsRun:
    """A mixin: `class Trainer(FollowsRun, GRPOTrainer)` takes `run=` and follows it.

    Args:
        run: the run's folder; `late`, `outcome` and `correct` as in `attach`.
        **options: the trainer's own; without `train_dataset` it is the run's scored set.
    """

    def __init__(
        self,
        *args: Any,
        run: str | Path,
        late: bool = False,
        outcome: str | Sequence[str] | None = None,
        correct: str | None = None,
        **options: Any,
    ) -> None:
        if len(args) < _TRAIN_DATASET and "train_dataset" not in options:
            options["train_dataset"] = dataset(run)
        super().__init__(*args, **options)
        self.follower = attach(self, run, late=late, outcome=outcome, correct=correct)
