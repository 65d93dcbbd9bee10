"""Views of a run: a line per round while it is driven, and its status."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaincurate.cli import output
from gaincurate.cli.progress import duration
from gaincurate.cli.report import print_blocks
from gaincurate.core.progress import View

if TYPE_CHECKING:
    from gaincurate.schedule.run import Run


class RoundsView(View):
    """A line for each round, on stderr, and below it what the trainer says last where a person watches."""

    def __init__(self, run: Run) -> None:
        from rich.console import Console
        from rich.status import Status

        console = Console(stderr=True)
        self._run = run
        self._status = Status("", console=console) if console.is_terminal else None
        self._text = ""

    def close(self) -> None:
        """Take the line of the trainer away."""
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


def print_status(facts: dict[str, Any]) -> None:
    """Print the facts of `schedule.status.status`."""
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
    there = {name: any(output.cell(row, cell) != "-" for row in rounds) for name, cell in _COLUMNS.items()}
    output.records(rounds, {name: cell for name, cell in _COLUMNS.items() if there[name] or name == "round"})
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
    if facts["difficulty"] is None:
        return
    from gaincurate.report.contents import predictions

    print_blocks(predictions(facts["difficulty"], rounds))
    if (waiting := facts["difficulty"]["waiting"]) is None:
        return
    if waiting["rolls_out"]:
        output.text(f"  round {waiting['round']}: its references are rolled out by `schedule run` or `next`")
    else:
        output.fitted(
            f"  round {waiting['round']} waits for outcomes of its references: prompts in "
            f"{waiting['prompts']}, outcomes to {waiting['outcomes']}"
        )


def of_rounds(round_: int, rounds: int) -> str:
    """A round by the number that its folder has, and how many of the run it makes: `round 0 (1/4)`."""
    return f"round {round_} ({round_ + 1}/{rounds})"
