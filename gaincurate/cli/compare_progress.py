"""What a person sees while a comparison goes on; knows nothing of how an arm is trained."""

from __future__ import annotations

from types import TracebackType

from gaincurate.cli import output
from gaincurate.compare.runner import View
from gaincurate.report.formatting import seconds as duration


class CompareView(View):
    """One bar over all work where a person watches, else lines when a job begins and ends; on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=1.0, left="") if console.is_terminal else None
        self._done, self._left = 0.0, ""

    def __enter__(self) -> CompareView:
        if self._task is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._bar.stop()

    def note(self, text: str) -> None:
        """See `View`."""
        output.note(text)

    def job(self, place: int, count: int, arm: str, seed: int, what: str) -> None:
        """See `View`."""
        text = f"{place + 1} of {count}: {arm}, seed {seed}: {what}"
        if self._task is not None:
            self._bar.update(self._task, description=text)
        else:
            output.note(text)

    def progress(self, done: float, seconds_left: float | None) -> None:
        """See `View`."""
        self._done = done
        self._left = "" if seconds_left is None else f"about {_roughly(seconds_left)} left"
        if self._task is not None:
            self._bar.update(self._task, completed=done, left=self._left)

    def job_done(self, place: int, count: int, seconds: float) -> None:
        """See `View`."""
        if self._task is None and seconds:
            said = f"{place + 1} of {count}: done in {duration(seconds)}; {self._done:.0%} of all"
            output.note(f"{said}, {self._left}" if self._left and self._done < 1 else said)


def _roughly(seconds: float) -> str:
    """An estimate is not known to the second."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else duration(seconds)
