"""Progress on stderr: a bar in a terminal, else a line per finished part; and a line per round of a run.

A log file gets lines because a bar would fill it with control characters; in a long part, one a minute.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gaincurate.cli import output
from gaincurate.cli.output import counted
from gaincurate.core.process import raise_lost_stop
from gaincurate.core.progress import Progress, View

if TYPE_CHECKING:
    from gaincurate.schedule.run import Run


class ProgressView(Progress):
    """Use it in a `with` statement: the bar is removed at the end, also after an error."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        console = Console(stderr=True)
        what, text = progress.TextColumn("{task.description}"), progress.TextColumn("{task.fields[text]}")
        columns = (progress.SpinnerColumn(), what, progress.TimeElapsedColumn(), progress.BarColumn(), text)
        is_off = not console.is_terminal
        self._bar = progress.Progress(*columns, console=console, transient=True, disable=is_off)
        self._task = self._bar.add_task("", text="")
        self._unit, self._begin, self._said, self._what = "row", 0.0, 0.0, ""
        self._total, self._before, self._done = 0, 0.0, 0.0
        self._also = Counter[str]()

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
            self._begin = self._said = time.perf_counter()  # the time left is that of the work

    def start(self, total: int, done: float = 0, *, what: str = "", unit: str = "row") -> None:
        """See `Progress`."""
        if whole := int(done):
            was, now = ("was", "is") if whole == 1 else ("were", "are")
            output.note(f"{whole:,} of {counted(total, unit)} {was} done before and {now} kept")
        self._unit, self._what, self._also = unit, what, Counter()
        self._begin = self._said = time.perf_counter()
        self._total, self._before, self._done = total, done, done
        self._bar.update(self._task, description=what, total=total, completed=done, text="")
        self._bar.start()

    def advance(self, n: float, **also: int) -> None:
        """See `Progress`."""
        self._done += n
        also.pop("reused", None)  # rows with the scores of another set have no rate of their own
        self._also.update(also)
        if not self._bar.disable:
            self._bar.update(self._task, completed=self._done, text=self._text())
        elif time.perf_counter() - self._said >= 60:
            self.part(self._what)
        raise_lost_stop()

    def part(self, text: str, **also: int) -> None:
        """See `Progress`."""
        if self._bar.disable:
            output.note(f"{text}: {self._text()}")
            self._said = time.perf_counter()

    def note(self, text: str) -> None:
        """See `Progress`."""
        output.note(text)

    def _text(self) -> str:
        """Progress, speed, and the remaining time if it is known."""
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        here = self._done - self._before
        parts = [f"{int(self._done):,} of {counted(self._total, self._unit)}"]
        if self._also:
            rates = {f"{self._unit}s": here, **self._also}
            speeds = ((name, count / seconds) for name, count in rates.items())
            parts.append("  ".join(f"{x:,.{1 if x < 100 else 0}f} {name}/s" for name, x in speeds))
        if here > 0 and self._done < self._total:
            parts.append(f"about {duration(seconds / here * (self._total - self._done))} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours, rounded as an estimate."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


class RoundsView(View):
    """A line per round on stderr; on a terminal, also the last line of the trainer's log."""

    def __init__(self, run: Run) -> None:
        from rich.console import Console
        from rich.status import Status

        console = Console(stderr=True)
        self._run, self._text = run, ""
        self._status = Status("", console=console) if console.is_terminal else None

    def close(self) -> None:
        """Remove the line of the trainer."""
        if self._status is not None:
            self._status.stop()

    def note(self, text: str) -> None:
        """See `View`."""
        output.note(text)

    def training(self, round_: int, attempt: int, command: Sequence[str]) -> None:
        """See `View`."""
        again = f", attempt {attempt}" if attempt > 1 else ""
        self._text = f"{of_rounds(round_, self._run.config.rounds)}{again}"
        if self._status is not None:
            self._status.start()
        else:
            output.note(f"{self._text}: {shlex.join(command)}")
        output.note(f"  log: {self._run.round_folder(round_) / 'trainer.log'}")

    def waiting(self, seconds: float, log: Path) -> None:
        """See `View`."""
        if self._status is not None:
            from rich.text import Text

            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - 1000))
                lines = file.read().decode(errors="replace").splitlines()
            last = output.plain(lines[-1])[:80] if lines else ""
            line = Text(f"{self._text}  {seconds:,.0f} s  {last}", no_wrap=True, overflow="ellipsis")
            self._status.update(line)

    def round_done(self, round_: int, seconds: float) -> None:
        """See `View`."""
        from gaincurate.schedule.observations import status

        facts = status(self._run)
        row = facts["rounds"][round_]
        mu = "" if row["mu"] is None else f"target rank {row['mu']:,.1f}  "
        drift = "" if row["drift"] is None else f"  rank correlation {row['drift']:.3f}"
        scoring = "" if not row["scoring_seconds"] else f"  scoring {row['scoring_seconds']:,.1f} s"
        output.note(
            f"{of_rounds(round_, facts['planned_rounds'])}: {mu}accuracy {row['accuracy']:.3f}  "
            f"groups differ {row['effective']:.2f}, all wrong {row['all_wrong']:.2f}, "
            f"all right {row['all_right']:.2f}  "
            f"{counted(row['rollouts'], 'rollout')}  "
            f"{counted(row['prompt_tokens'], 'prompt token')}  training {seconds:,.1f} s"
            f"{scoring}{drift}"
        )


def of_rounds(round_: int, rounds: int) -> str:
    """A round by its number from 0, and its position in the run: `round 0 (1/4)`."""
    return f"round {round_} ({round_ + 1}/{rounds})"
