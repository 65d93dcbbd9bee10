"""Views of a run: a line per round while it is driven, its status, and a page that follows it.

The page is the status as it is printed, again whenever a file of the run has changed. So there is one text to
keep right, and a pipe gets the same.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gaincurate.cli import output
from gaincurate.cli.progress import duration
from gaincurate.cli.report import print_blocks
from gaincurate.core.progress import View

if TYPE_CHECKING:
    from gaincurate.schedule.run import Run
    from gaincurate.schedule.tracking import Tracking

_LOOK = 1.0
"""Seconds between two looks at a run's files."""
_AROUND = 12
"""Lines of a page that are not rounds."""


def print_difficulty(facts: dict[str, Any], trainer: list[dict[str, Any]]) -> None:
    """Print what predictions were worth, and the references that the newest round waits for.

    Args:
        facts: `difficulty` of `schedule.status.status`.
        trainer: its `rounds`.
    """
    from gaincurate.report.predictions import predictions

    print_blocks(predictions(facts, trainer))
    waiting = facts["waiting"]
    if waiting is None:
        return
    if waiting["rolls_out"]:
        output.text(f"  round {waiting['round']}: its references are rolled out by `schedule run` or `next`")
    else:
        output.fitted(
            f"  round {waiting['round']} waits for outcomes of its references: prompts in "
            f"{waiting['prompts']}, outcomes to {waiting['outcomes']}"
        )


class RoundsView(View):
    """A line for each round, on stderr, and below it what the trainer says last where a person watches."""

    def __init__(self, run: Run) -> None:
        from rich.console import Console
        from rich.status import Status

        console = Console(stderr=True)
        self._run = run
        self.tracking: Tracking | None = None
        self._status = Status("", console=console) if console.is_terminal else None
        self._text = ""

    def __enter__(self) -> RoundsView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        from gaincurate.schedule.status import status

        facts = status(self._run)
        row = facts["rounds"][round_]
        mu = "" if row["mu"] is None else f"target rank {row['mu']:,.1f}  "
        drift = "" if row["drift"] is None else f"  rank correlation {row['drift']:.3f}"
        scoring = "" if not row["scoring_seconds"] else f"  scoring {row['scoring_seconds']:,.1f} s"
        output.note(
            f"{of_rounds(round_, facts['planned_rounds'])}: {mu}accuracy {row['accuracy']:.3f}  "
            f"groups differ {row['effective']:.2f}, all wrong {row['all_wrong']:.2f}, "
            f"all right {row['all_right']:.2f}  "
            f"{output.counted(row['rollouts'], 'rollout')}  "
            f"{output.counted(row['prompt_tokens'], 'prompt token')}  training {seconds:,.1f} s"
            f"{scoring}{drift}"
        )
        if self.tracking is not None:
            self.tracking.send()


_COLUMNS: dict[str, output.Cell] = {
    "round": "round",
    "target rank": ("mu", ".1f"),
    "accuracy": ("accuracy", ".3f"),
    "groups differ": ("effective", ".3f"),
    "all wrong": ("all_wrong", ".3f"),
    "all right": ("all_right", ".3f"),
    "expected": ("metrics.expected_effective", ".3f"),
    "seen": ("metrics.seen", ",d"),
    "easy": ("metrics.easy", ",d"),
    "hard": ("metrics.hard", ",d"),
    "mean angle": ("concentration", ".3f"),
    "rollouts": ("rollouts", ",d"),
    "prompt tokens": ("prompt_tokens", ",d"),
    "rank corr.": ("drift", ".3f"),
    "training s": ("training_seconds", ",.1f"),
    "scoring s": ("scoring_seconds", ",.1f"),
}
"""The columns of a status, which docs/watching.md explains. One without any value is left out: a strategy
without mu has no target rank."""


def print_status(facts: dict[str, Any], last: int | None = None) -> None:
    """Print what `schedule.status.status` returns.

    Args:
        facts: of it.
        last: how many rounds the table shows, the newest; None for all.
    """
    rounds = facts["rounds"]
    if not rounds:
        where = "no round yet"
    elif facts["finished"]:
        where = "finished"
    else:
        where = f"{of_rounds(rounds[-1]['round'], facts['planned_rounds'])} waits for outcomes"
    by = f" by {facts['by']}" if facts["by"] else ""
    if facts["where"] is not None:
        by += f", where {facts['where']}"
    if facts["stratify"] != "none":
        by += f", within the groups of {facts['stratify']}"
    output.fitted(
        f"{facts['run']}: {facts['strategy']}{by}, {facts['budget']:,} of "
        f"{output.counted(facts['kept'], 'prompt')} a round, "
        f"{output.counted(facts['planned_rounds'], 'round')}; {where}"
    )
    shown = rounds if last is None else rounds[-last:]
    there = {name: any(output.cell(row, cell) != "-" for row in rounds) for name, cell in _COLUMNS.items()}
    output.records(shown, {name: cell for name, cell in _COLUMNS.items() if there[name] or name == "round"})
    if len(shown) < len(rounds):
        output.text(f"  the last {len(shown):,} of {len(rounds):,} rounds")
    whole = facts["training_seconds"] + facts["scoring_seconds"]
    if whole:
        output.fitted(
            f"  {facts['training_seconds']:,.1f} s of training, {facts['scoring_seconds']:,.1f} s of scoring "
            f"({facts['scoring_seconds'] / whole:.0%})"
        )
    if facts["seconds_left"] is not None:
        output.fitted(f"  about {duration(facts['seconds_left'])} left, as the last rounds went")
    if facts["nothing_learnt"] is not None:
        output.fitted(f"  {facts['nothing_learnt']}")
    if facts["advice"] is not None:
        output.fitted(f"  {facts['advice']}")
    if facts["late"]:
        output.fitted(f"  outcomes that came after their round: of {output.counted(facts['late'], 'prompt')}")
    if (waiting := facts["waiting"]) is not None:
        output.fitted(
            f"  round {waiting['round']}: outcomes for {waiting['prompts']:,} of "
            f"{output.counted(waiting['of'], 'prompt')}"
        )
        if waiting["problem"]:
            output.fitted(f"  {waiting['problem']}")
    if facts["last_line"] is not None:
        output.text(f"  the trainer's log ends: {output.plain(facts['last_line'])[: output.WIDTH]}")
    if facts["difficulty"] is not None:
        print_difficulty(facts["difficulty"], rounds)


def of_rounds(round_: int, rounds: int) -> str:
    """A round by the number that its folder has, and how many of the run it makes: `round 0 (1/4)`."""
    return f"round {round_} ({round_ + 1}/{rounds})"


class _Page(io.StringIO):
    """Lines on their way to the terminal, which are to fit it."""

    def isatty(self) -> bool:
        """It goes there."""
        return True


def watch(
    run: Path,
    look: Callable[[], dict[str, Any]],
    wait: Callable[[], None] = lambda: time.sleep(_LOOK),
) -> None:
    """Show a run's status until it is finished or Ctrl-C, again whenever one of its files has changed.

    Where stdout is no terminal the status is printed once.

    Args:
        run: its folder.
        look: the facts of `schedule.status.status` as they are now.
        wait: called between two looks at the files.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        print_status(look())
        return

    def page(facts: dict[str, Any]) -> Text:
        with contextlib.redirect_stdout(_Page()) as lines:
            print_status(facts, max(3, console.size.height - _AROUND))
        return Text(lines.getvalue().rstrip("\n"))

    before, facts = _changes(run), look()
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(page(facts), console=console, auto_refresh=False) as live,
    ):
        while not facts["finished"]:
            wait()
            if (now := _changes(run)) != before:
                before, facts = now, look()
                live.update(page(facts), refresh=True)


def _changes(run: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of what a status is read from, but for the scored sets."""
    newest = max((run / "rounds").glob("*"), default=run)
    changes = []
    for path in sorted({*run.glob("*.json*"), *newest.glob("*.json*"), *newest.glob("*.log")}):
        with contextlib.suppress(OSError):  # it was replaced just now
            stat = path.stat()
            changes.append((str(path), stat.st_size, stat.st_mtime_ns))
    return changes


def print_coming_rounds(facts: dict[str, Any]) -> None:
    """Print what `schedule.status.coming_rounds` returns."""
    if not facts["rounds"]:
        output.text("the run is finished: no round is left")
        return
    output.records(
        facts["rounds"],
        {
            "round": "round",
            "prompts": lambda entry: "known" if entry["known"] else "to come",
            "prompt tokens": lambda entry: f"{'' if entry['known'] else '~'}{entry['prompt_tokens']:,}",
            "ranks": lambda entry: "{0:,} to {2:,}".format(*entry["ranks"]) if entry.get("ranks") else "-",
            "re-scoring after it": lambda entry: "yes" if entry["rescoring"] else "",
        },
    )
    for entry in facts["rounds"]:
        if entry.get("command"):
            output.text(f"  round {entry['round']} runs: {shlex.join(entry['command'])}")
