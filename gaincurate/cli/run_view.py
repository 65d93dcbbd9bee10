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
        _quality(_of_references(newest), f"round {newest['round']}: {what} of references, {how}")
        if facts["newest"] is not None:
            _quality(facts["newest"], f"round {facts['newest']['round']}: {what} of drawn prompts")
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
    rows = []
    for row in rounds:
        quality, drawn = _of_references(row), row["on_drawn"] or {}
        rows.append(
            [
                str(row["round"]),
                f"{row['observed']:,} of {row['references']:,}",
                output.number(row["rollouts"], ",d"),
                output.number(row["rollout_seconds"], ",.1f"),
                output.number(row["predict_seconds"], ",.1f"),
                output.number(quality["pearson"]["value"], ".3f"),
                output.number(quality["ceiling"]["value"], ".3f"),
                output.number(quality["brier"]["value"], ".4f"),
                output.number(drawn.get("brier"), ".4f"),
                output.number(row["carried"], ".4f"),
                output.number(drawn.get("carried"), ".4f"),
            ]
        )
    output.table(
        rows,
        [
            "round", "references", "rollouts", "rollout s", "predict s", "Pearson", "ceiling", "Brier",
            "Brier, drawn", "p(1-p), references", "p(1-p), drawn",
        ],
    )  # fmt: skip


def _of_references(row: dict[str, Any]) -> dict[str, Any]:
    """The quality that does not flatter, where a round has it."""
    figures: dict[str, Any] = row["on_halves"] or row["on_references"]
    return figures


def _figure(figure: dict[str, Any]) -> str:
    text = output.number(figure["value"], ".3f")
    around = figure["interval"]
    return text if around is None else f"{text} ({around[0]:.3f} to {around[1]:.3f})"


def _quality(figures: dict[str, Any], what: str) -> None:
    output.text(f"  {what} ({output.counted(figures['count'], 'prompt')}):")
    names = {"pearson": "Pearson", "spearman": "Spearman", "brier": "Brier", "ceiling": "noise ceiling"}
    output.text("    " + "  ".join(f"{name} {_figure(figures[key])}" for key, name in names.items()))
    output.table(
        [
            [
                f"{b['low']:.4g} to {b['high']:.4g}",
                f"{b['count']:,}",
                f"{b['predicted']:.3f}",
                f"{b['observed']:.3f}",
            ]
            for b in figures["reliability"]
        ],
        ["predicted", "prompts", "mean predicted", "mean observed"],
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


_COLUMNS: tuple[tuple[str, str, Callable[[dict[str, Any]], Any]], ...] = (
    ("target rank", ".1f", lambda row: row["mu"]),
    ("accuracy", ".3f", lambda row: row["accuracy"]),
    ("groups differ", ".3f", lambda row: row["effective"]),
    ("all wrong", ".3f", lambda row: row["all_wrong"]),
    ("all right", ".3f", lambda row: row["all_right"]),
    ("expected", ".3f", lambda row: row["metrics"].get("expected_effective")),
    ("seen", ",d", lambda row: row["metrics"].get("seen")),
    ("easy", ",d", lambda row: row["metrics"].get("easy")),
    ("hard", ",d", lambda row: row["metrics"].get("hard")),
    ("mean angle", ".3f", lambda row: row["concentration"]),
    ("rollouts", ",d", lambda row: row["rollouts"]),
    ("prompt tokens", ",d", lambda row: row["prompt_tokens"]),
    ("rank corr.", ".3f", lambda row: row["drift"]),
    ("training s", ",.1f", lambda row: row["training_seconds"]),
    ("scoring s", ",.1f", lambda row: row["scoring_seconds"]),
)
"""Head, form and value of the columns of a status, which docs/schedule.md explains. One without any value is
left out: a strategy without mu has no target rank."""


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
    columns = [column for column in _COLUMNS if any(column[2](row) is not None for row in rounds)]
    shown = rounds if last is None else rounds[-last:]
    output.table(
        [
            [str(row["round"]), *(output.number(value(row), form) for _, form, value in columns)]
            for row in shown
        ],
        ["round", *(head for head, _, _ in columns)],
    )
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
    if (differ := facts["differ"]) is not None:
        share = differ["forecast"]
        output.fitted(
            f"  groups that differ: {output.number(differ['came'], '.1%')} so far. The forecast for "
            f"{differ['strategy']} was {share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%}) in "
            f"groups of {differ['group']}."
        )
    waiting = facts["waiting"]
    if waiting is not None:
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
    rows = []
    for entry in facts["rounds"]:
        ranks = entry.get("ranks")
        rows.append(
            [
                str(entry["round"]),
                "known" if entry["known"] else "to come",
                f"{'' if entry['known'] else '~'}{entry['prompt_tokens']:,}",
                f"{ranks[0]:,} to {ranks[2]:,}" if ranks else "-",
                "yes" if entry["rescoring"] else "",
            ]
        )
    output.table(rows, ["round", "prompts", "prompt tokens", "ranks", "re-scoring after it"])
    for entry in facts["rounds"]:
        if entry.get("command"):
            output.text(f"  round {entry['round']} runs: {shlex.join(entry['command'])}")
