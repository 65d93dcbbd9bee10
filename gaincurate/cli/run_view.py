"""What a person sees of a run: a line per round while it is driven, its status, a page that follows it.

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
from gaincurate.core.progress import View

if TYPE_CHECKING:
    from gaincurate.schedule.run import Run
    from gaincurate.schedule.tracking import Tracking

_LOOK = 1.0
"""Seconds between two looks at a run's files."""
_AROUND = 12
"""Lines of a page that are not rounds."""
_RANGE = (
    "  drawn prompts were all predicted near the target, so a correlation over them says little of the "
    "predictor; references are a random sample"
)


def print_difficulty(facts: dict[str, Any], trainer: list[dict[str, Any]]) -> None:
    """References, their cost beside the trainer's, and calibration.

    Args:
        facts: `difficulty` of `schedule.status.status`.
        trainer: its `rounds`.
    """
    waiting = facts["waiting"]
    if facts["rounds"]:
        _cost(facts, trainer)
        _by_round(facts["rounds"])
        newest = facts["rounds"][-1]
        what = "failure rate" if facts["target"] == "difficulty" else "p (1 - p)"
        how = "each predicted from the others" if newest["on_halves"] is None else "one half from the other"
        references, drawn = _of_references(newest), facts["newest"]
        prompts = output.counted(references["count"], "prompt")
        print_quality(references, f"  round {newest['round']}: {what} of references, {how} ({prompts}):")
        print_no_better(references)
        if drawn is not None:
            prompts = output.counted(drawn["count"], "prompt")
            print_quality(drawn, f"  round {drawn['round']}: {what} of drawn prompts ({prompts}):")
            output.text(_RANGE)
    if waiting is None:
        return
    if waiting["rolls_out"]:
        output.text(f"  round {waiting['round']}: its references are rolled out by `schedule run` or `next`")
    else:
        output.fitted(
            f"  round {waiting['round']} waits for outcomes of its references: prompts in "
            f"{waiting['prompts']}, outcomes to {waiting['outcomes']}"
        )


def _cost(facts: dict[str, Any], trainer: list[dict[str, Any]]) -> None:
    cost = facts["cost"]
    rollouts = sum(row["rollouts"] or 0 for row in trainer)
    tokens = sum(row["completion_tokens"] or 0 for row in trainer)
    aim = "the largest p (1 - p)"
    if facts["target"] == "difficulty":
        aim = f"a failure rate of {output.number(facts['target_difficulty'], 'g')}"
    output.text(f"  aims at {aim}, predicted by {facts['predictor']}")
    output.fitted(
        f"  references: {output.counted(cost['rollouts'], 'rollout')} (the trainer's: {rollouts:,}), "
        f"{output.counted(cost['completion_tokens'], 'completion token')} (the trainer's: {tokens:,}), "
        f"{cost['rollout_seconds']:,.1f} s of rollouts, {cost['predict_seconds']:,.1f} s of prediction"
    )


def _by_round(rounds: list[dict[str, Any]]) -> None:
    output.records(
        [{**row, "quality": _of_references(row)} for row in rounds],
        {
            "round": "round",
            "references": lambda row: f"{row['observed']:,} of {row['references']:,}",
            "rollouts": ("rollouts", ",d"),
            "rollout s": ("rollout_seconds", ",.1f"),
            "predict s": ("predict_seconds", ",.1f"),
            "Pearson": ("quality.pearson.value", ".3f"),
            "ceiling": ("quality.ceiling.value", ".3f"),
            "Brier": ("quality.brier.value", ".4f"),
            "Brier, drawn": ("on_drawn.brier", ".4f"),
            "p(1-p), references": ("carried", ".4f"),
            "p(1-p), drawn": ("on_drawn.carried", ".4f"),
        },
    )


def _of_references(row: dict[str, Any]) -> dict[str, Any]:
    """The quality that does not flatter, where a round has it."""
    figures: dict[str, Any] = row["on_halves"] or row["on_references"]
    return figures


def figure(value: dict[str, Any]) -> str:
    """A figure of `difficulty.metrics.Quality` and its interval."""
    text, around = output.number(value["value"], ".3f"), value["interval"]
    return text if around is None else f"{text} ({around[0]:.3f} to {around[1]:.3f})"


def print_quality(figures: dict[str, Any], title: str) -> None:
    """Print a `difficulty.metrics.Quality` as JSON has it, with its reliability table."""
    output.text(title)
    constant = output.number(figures["brier_of_mean"], ".4f")
    names = {
        "pearson": "Pearson",
        "spearman": "Spearman",
        "brier": f"Brier (the mean alone: {constant})",
        "ceiling": "noise ceiling of Pearson",
    }
    output.table([[names[key], figure(figures[key])] for key in names], ["figure", "value (95 % interval)"])
    if figures["ceiling"]["value"] is None:
        output.text("  no ceiling: it needs two rollouts a prompt or more, and how many they were")
    print_bins(figures["reliability"])


def print_bins(bins: Sequence[Any]) -> None:
    """Print a reliability table, of `core.stats.Bin` or of its JSON."""
    output.records(
        bins,
        {
            "predicted": lambda b: output.between(b, ".4g"),
            "prompts": ("count", ","),
            "mean predicted": ("predicted", ".3f"),
            "mean observed": ("observed", ".3f"),
        },
    )


def print_no_better(figures: dict[str, Any]) -> None:
    """Print a warning where predictions are not shown to be better than a constant."""
    from gaincurate.difficulty.metrics import no_better_than_a_constant

    if (sentence := no_better_than_a_constant(figures)) is not None:
        output.say(f"warning: {sentence}", "  ")


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
