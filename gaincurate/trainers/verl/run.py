"""The state that verl's dataset, replay buffer and checkpoint callback share while they follow one run.

verl builds the three separately, in the driver's process. This module imports no verl, so tests need none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gaincurate.core.artifact import Json
from gaincurate.core.schema import ID
from gaincurate.core.sealed import read_sealed
from gaincurate.errors import InputError, OutputError
from gaincurate.schedule.checkpoints import check_place, why_incomplete
from gaincurate.schedule.run import ROLLOUTS
from gaincurate.trainers.session import PLACE, RESUME, ROUND, followed
from gaincurate.trainers.verl.profile import GROUP_SIZE, LIVE, WEIGHTS, WITH_WEIGHTS


class Training:
    """One training of verl that follows a run, with `batch` prompts per step (`data.train_batch_size`).

    `resumed` is the checkpoint folder from which verl will resume, or None. Raises OutputError if the run is
    at a later round than verl, or the checkpoint is of another run or an undone history, and LockedError if
    another trainer uses the run.
    """

    def __init__(self, run: str | Path, batch: int, resumed: str | Path | None = None) -> None:
        self.live = followed(run, print)
        self.batch = batch
        self._resumed = Path(resumed) if resumed is not None else None
        self._ready = resumed is None
        self.live.checkpoint = None
        self.live.close()  # an earlier training of this process may have opened it
        self.live.open()
        if self._resumed is None:
            self.live.begin_anew()
            return
        if (self._resumed / PLACE).exists():  # fail before verl loads models; `restore` checks it again
            check_place(self.live.run, read_sealed(self._resumed / PLACE, RESUME), str(self._resumed))
        self._note_weights(self._resumed)

    @property
    def step(self) -> int:
        """The step of verl that follows from the number of prompts handed out."""
        return (self.live.round * self.live.budget + self.live.position) // self.batch

    def hand_out(self, position: int) -> bool:
        """Take the row at a position, and return whether a new round began.

        Raises as `RunSession.take`, and InputError if positions are not in order or no round is left.
        """
        if not self._ready:
            raise OutputError(
                f"verl resumed from {self._resumed}, whose data.pt is missing or has no place of a run. "
                "Resume from a checkpoint that has it, or start a new run with trainer.resume_mode=disable."
            )
        if position != self.live.position % self.live.budget:
            raise InputError(
                f"verl asks for prompt {position} of round {self.live.round} and {self.live.position} were "
                "handed out, and each is handed out once, in order. Set data.shuffle=False and "
                "data.dataloader_num_workers=0, and resume with the checkpoint's data.train_batch_size."
            )
        begins = self.live.position >= self.live.budget
        if not self.live.take(1):
            raise InputError(
                f"all {self.live.rounds} rounds of {self.live.run.folder} are done and verl asks for more: "
                f"set trainer.total_epochs={self.live.rounds}."
            )
        return begins

    def rows(self, answer: str | None = None, source: str | None = None) -> list[Json]:
        """The round's rows with verl's columns, `[budget]`; see `verl_row`."""
        answer = answer or self.live.run.scored.identity["source"].get("answer_column")
        return [verl_row(row, index, answer, source) for index, row in enumerate(self.live.rows())]

    def report(self, step: int, rollouts: Iterable[Mapping[str, Any]]) -> None:
        """Append a step's outcomes, one per rollout; a prompt without any counts as not judged."""
        if step != self.step:
            raise InputError(
                f"verl is at step {step} and the prompts that {self.live.run.folder} handed out make "
                f"{self.step}: restore the checkpoint's data.train_batch_size, which was not {self.batch}."
            )
        lines: list[Mapping[str, Any]] = list(rollouts)
        seen = {line[ID] for line in lines}
        last = self.live.ids[self.live.position - self.batch : self.live.position]
        lines += [
            {ID: gc_id, "round": self.live.round, "reward": None} for gc_id in last if gc_id not in seen
        ]
        self.live.report({**line, "step": step} for line in lines)

    def state(self) -> Json:
        """The place in the run, for verl's data.pt."""
        return self.live.save(self.step)

    def restore(self, saved: Json) -> None:
        """Return the run to a saved position."""
        self.live.restore(saved, f"{self._resumed or 'the checkpoint'}/data.pt")
        self._ready = True

    def saved(self, step: int, folder: str | Path, *, whole: bool = True) -> None:
        """Save the place with a checkpoint, and after the last step take the last round's outcomes.

        A checkpoint that is not `whole` yet cannot be scored; raises InputError if a re-scoring is due.
        """
        self.live.save_beside(folder, step)
        why = self._note_weights(Path(folder)) if whole else "it is still being written"
        if why is not None and self.live.rescoring_due and self.live.position >= self.live.budget:
            raise InputError(
                f"round {self.live.round} ends with a re-scoring and its checkpoint cannot be scored: {why}. "
                f"Set {WITH_WEIGHTS} and resume from an earlier checkpoint."
            )
        if step >= self.live.rounds * self.live.budget // self.batch:
            self.live.turn()

    def _note_weights(self, folder: Path) -> str | None:
        whys = [why_incomplete(folder / name) for name in WEIGHTS]
        if None not in whys:
            return whys[0]
        self.live.checkpoint = str((folder / WEIGHTS[whys.index(None)]).resolve())
        return None


def verl_row(row: Mapping[str, Any], index: int, answer: str | None, source: str | None) -> Json:
    """A plan's row with the columns that verl reads; missing ones are made from the others.

    `index` is its place in the round, `answer` the column with the answer for `reward_model.ground_truth`,
    and `source` the `data_source`, by which verl selects the reward function. Raises InputError if the row
    has no answer or no data source, and none was named.
    """
    made = {name: value for name, value in row.items() if name not in (ROUND, ROLLOUTS)}
    if ROLLOUTS in row:
        made[GROUP_SIZE] = row[ROLLOUTS]
    extra = {name: value for name, value in (row.get("extra_info") or {}).items() if value is not None}
    made["extra_info"] = {"index": index, **extra, ID: row[ID], ROUND: row[ROUND]}
    if source is not None:
        made["data_source"] = source
    if made.get("data_source") is None:
        raise InputError(
            f"prompt {row[ID]} has no data_source, by which verl picks the reward function: set "
            "+data.gaincurate.data_source=NAME, for example openai/gsm8k."
        )
    if made.get("reward_model") is None:
        if answer is None or answer not in row:
            raise InputError(
                f"prompt {row[ID]} has no reward_model and {answer or 'no column'} for the right answer: set "
                f"+data.gaincurate.answer_column to one of {', '.join(sorted(row))}."
            )
        made["reward_model"] = {"style": "rule", "ground_truth": row[answer]}
    return made


_current: Training | None = None


def begin(run: Path, batch: int, resumed: str | None) -> Training:
    """Begin a training that follows a run; `current` returns it to the other parts of this process."""
    global _current
    _current = Training(run, batch, resumed)
    return _current


def current(run: Path | None = None) -> Training:
    """The training that `begin` started; raises InputError if there is none, or it follows another run."""
    if _current is None or run not in (None, _current.live.run.folder):
        key = "trainer.checkpoint_callback_class"
        raise InputError(
            f"verl follows {run or 'a run'} only together with its checkpoint callback, which sees all "
            f"settings: set {key}={LIVE[key]} (and leave trainer.use_v1=True; the old trainer has none)."
        )
    return _current
