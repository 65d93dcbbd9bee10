"""Finds and waits for a trainer's checkpoints: takes its output root, yields the newest one or why not.

A trainer may be at work meanwhile: what it writes is waited for, what it deletes is passed over. Looks at the
files again and again, on a clock that a test can give. Does not keep a checkpoint from being deleted: `hold`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gaincurate.errors import TrainerError, read_error
from gaincurate.trainers.checkpoints import Checkpoint, checkpoints, look
from gaincurate.trainers.layouts import Layout

_EVERY = 2.0  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at an output root yielded.

    `checkpoint` is the newest complete one that can be scored; without it `why` says why there is none.
    `passed` are the newer ones that were passed over.
    """

    checkpoint: Checkpoint | None
    why: str = ""
    passed: tuple[Checkpoint, ...] = ()

    @property
    def writing(self) -> bool:
        """Whether a newer one is being written."""
        return any(one.state == "writing" for one in self.passed)


def find(root: Path, layout: Layout, *, since: float = 0.0) -> Found:
    """The newest complete checkpoint, by its step, or exactly why there is none.

    One that is complete and cannot be scored (sharded, say) is named instead of an older one, which would be
    taken for it; a trainer's resume states are passed over where it exports models beside them.

    Args:
        root: the trainer's output root, or a checkpoint.
        layout: the trainer's.
        since: leave out what was put there before this time (seconds since 1970).

    Raises:
        StorageError: a folder cannot be read.
    """
    return _newest(_looked(root, layout, since), root, layout)


def wait(
    root: Path,
    layout: Layout,
    timeout: float,
    *,
    step: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    told: Callable[[str], None] = lambda why: None,
) -> Checkpoint:
    """Wait until the newest checkpoint is complete, or the one of a step is there.

    Sharded ones are waited for too: they may be converted meanwhile.

    Args:
        root: the trainer's output root, or a checkpoint.
        layout: the trainer's.
        timeout: seconds.
        step: wait for this one alone.
        clock: seconds from any beginning.
        sleep: waits.
        told: hears what is waited for, once each.

    Raises:
        TrainerError: there is none in time, or a later step is there and this one is not.
        StorageError: a folder cannot be read.
    """
    end, before = clock() + timeout, ""
    while True:
        found = _newest(_looked(root, layout, 0.0, step), root, layout)
        if found.checkpoint is not None and not found.writing:
            return found.checkpoint
        if step is not None and found.checkpoint is None and not found.passed:
            _see_not_past(root, layout, step)
        why = next((one.why for one in found.passed if one.state == "writing"), found.why)
        if (left := end - clock()) <= 0:
            older = f" {found.checkpoint.path} is complete: give that." if found.checkpoint else ""
            what = "no complete checkpoint" + (f" of step {step}" if step is not None else "")
            raise TrainerError(f"{what} below {root} after {timeout:g} s: {why}.{older}", path=str(root))
        if why != before:
            told(f"waiting: {why}")
            before = why
        sleep(min(_EVERY, left))


def _see_not_past(root: Path, layout: Layout, step: int) -> None:
    """See that no later checkpoint is there while one is waited for that is not.

    Raises:
        TrainerError: there is one, so the other will not come any more.
    """
    newest = _newest(_looked(root, layout), root, layout).checkpoint
    if newest is not None and newest.step > step and not any(n == step for n, _ in checkpoints(root, layout)):
        raise TrainerError(
            f"there is no checkpoint of step {step} below {root}, and step {newest.step} is there: it was "
            f"deleted or never saved. Take {newest.path}."
        )


def _looked(root: Path, layout: Layout, since: float = 0.0, step: int | None = None) -> Iterator[Checkpoint]:
    """The checkpoints that are there, newest first; of one step, those that can be scored first."""
    paths: dict[int, list[Path]] = {}
    for number, path in checkpoints(root, layout):
        if step is None or number == step:
            paths.setdefault(number, []).append(path)
    for number in sorted(paths, reverse=True):
        found = []
        for path in paths[number]:
            try:
                one = look(path, number, layout)
                if path.is_dir() and _put_there(one) >= since:
                    found.append(one)
            except OSError as error:
                if path.is_dir():
                    raise read_error(path, error) from error
        yield from sorted(found, key=lambda one: (not one.usable, one.only_resumed, str(one.path)))


def _newest(every: Iterator[Checkpoint], root: Path, layout: Layout) -> Found:
    passed: list[Checkpoint] = []
    for one in every:
        if one.usable:
            return Found(one, passed=tuple(passed))
        if one.state == "refused" and not one.only_resumed:
            older = next((other for other in every if other.usable), None)
            hint = f"; {older.path} is older and can be taken" if older else ""
            return Found(None, one.why + hint, tuple(passed))
        if not passed or passed[-1].step != one.step:
            passed.append(one)
    if passed:
        return Found(None, passed[0].why, tuple(passed))
    if not root.is_dir():
        return Found(None, f"{root} is no folder")
    return Found(None, f"there is no {layout.folders[0]} below {root}")


def _put_there(checkpoint: Checkpoint) -> float:
    """When its files came to be there; copies keep other times, this one is the file system's own."""
    files = list(checkpoint.folder.glob("*.safetensors")) or [checkpoint.path]
    return max(file.stat().st_ctime for file in files)
