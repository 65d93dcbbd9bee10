"""Progress of long work on stderr: a bar in a terminal, else a line per part.

One view serves every command. A log file gets lines because a bar would fill it with control characters.
"""

from __future__ import annotations

import time

from gaincurate.cli import output
from gaincurate.core.process import raise_lost_stop
from gaincurate.core.progress import Progress


class ProgressView(Progress):
    """Use it in a `with` statement: the bar is taken away at the end, also after an error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        what, text = TextColumn("{task.description}"), TextColumn("{task.fields[text]}")
        columns = (SpinnerColumn(), what, TimeElapsedColumn(), BarColumn(), text)
        self._bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", text="")
        self._unit, self._begin, self._what = "row", 0.0, ""
        self._total, self._before, self._done = 0, 0.0, 0.0
        self._also: dict[str, int] = {}

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._bar.disable:  # older versions of rich print an empty line
            self._bar.stop()

    def loading(self, what: str) -> None:
        """See `Progress`."""
        total = None if what else self._total or None
        self._bar.update(self._task, description=f"loading {what}" if what else self._what, total=total)
        self._bar.start()
        if not what:
            self._begin = time.perf_counter()  # the time left is that of the work

    def start(self, total: int, done: float = 0, *, what: str = "", unit: str = "row") -> None:
        """See `Progress`."""
        if whole := int(done):
            verbs = ("was", "is") if whole == 1 else ("were", "are")
            output.note(
                f"{whole:,} of {output.counted(total, unit)} {verbs[0]} done before and {verbs[1]} kept"
            )
        self._unit, self._begin, self._what = unit, time.perf_counter(), what
        self._total, self._before, self._done, self._also = total, done, done, {}
        self._bar.update(self._task, description=what, total=total, completed=done, text="")
        self._bar.start()

    def advance(self, n: float, **also: int) -> None:
        """See `Progress`."""
        self._done += n
        for name, count in also.items():
            if name != "reused":  # rows with the scores of another set have no rate of their own
                self._also[name] = self._also.get(name, 0) + count
        if not self._bar.disable:
            self._bar.update(self._task, completed=self._done, text=self._text())
        raise_lost_stop()

    def part(self, text: str, **also: int) -> None:
        """See `Progress`."""
        if self._bar.disable:
            output.note(f"{text}: {self._text()}")

    def note(self, text: str) -> None:
        """See `Progress`."""
        output.note(text)

    def _text(self) -> str:
        """Progress, speed, and the remaining time if it is known."""
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        here = self._done - self._before
        parts = [f"{int(self._done):,} of {output.counted(self._total, self._unit)}"]
        if self._also:
            rates = {f"{self._unit}s": here, **self._also}
            parts.append("  ".join(f"{_rate(count / seconds)} {name}/s" for name, count in rates.items()))
        if here > 0 and self._done < self._total:
            parts.append(f"about {duration(seconds / here * (self._total - self._done))} left")
        return ", ".join(parts)


def _rate(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: an estimate is not known to the second."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
