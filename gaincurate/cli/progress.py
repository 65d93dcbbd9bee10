"""What a person sees while a run goes on; knows nothing of what is computed."""

from __future__ import annotations

import time
from types import TracebackType

from gaincurate.cli import output
from gaincurate.scoring.watch import Watch


class ProgressView(Watch):
    """A bar where a person watches, else a line per shard; both on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rows  {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = None if not self._console.is_terminal else self._bar.add_task("", rate="", start=False)
        self._begin = 0.0
        self._rows = self._done = self._tokens = 0
        self._total = 0

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._bar.stop()

    def note(self, text: str) -> None:
        """See `Watch`."""
        output.note(text)

    def start(self, rows: int, done: int) -> None:
        """See `Watch`."""
        if done:
            verbs = ("was", "is") if done == 1 else ("were", "are")
            of = output.counted(rows, "row")
            output.note(f"{done:,} of {of} {verbs[0]} scored before and {verbs[1]} kept")
        self._begin, self._total, self._done = time.perf_counter(), rows, done
        if self._task is not None:
            self._bar.start()
            self._bar.start_task(self._task)
            self._bar.update(self._task, total=rows - done)

    def advance(self, rows: int, tokens: int) -> None:
        """See `Watch`."""
        self._rows += rows
        self._tokens += tokens
        if self._task is not None:
            self._bar.update(self._task, advance=rows, rate=self._rate())

    def shard(self, index: int, count: int) -> None:
        """See `Watch`."""
        if self._task is None:
            output.note(
                f"shard {index + 1} of {count}: {self._done + self._rows:,} of "
                f"{output.counted(self._total, 'row')}, {self._rate()}"
            )

    def _rate(self) -> str:
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        return f"{self._rows / seconds:,.1f} rows/s  {self._tokens / seconds:,.0f} tokens/s"
