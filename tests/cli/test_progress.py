from __future__ import annotations

import io
import time
from itertools import count

import pytest
import rich.console

from gaincurate.cli.progress import ProgressView


@pytest.fixture
def a_clock_of_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock finds it ten seconds on."""
    ticks = count(100.0, 10.0)
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))


@pytest.mark.usefixtures("a_clock_of_ten_seconds")
def test_a_log_gets_a_line_a_part_and_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressView() as view:
        view.note("a.jsonl: 9 rows")
        view.start(10, 1, what="scoring")
        view.advance(5, tokens=4000)
        view.advance(-1, tokens=-1000)
        view.part("shard 1 of 2")  # three looks after the start
        view.advance(5, tokens=1)
        view.part("shard 2 of 2")
        view.start(2, what="comparing", unit="training")
        for n in (0.5, 0, 0, 0, 0, 0):  # a minute without a line
            view.advance(n)
    assert capsys.readouterr().err.splitlines() == [
        "a.jsonl: 9 rows",
        "1 of 10 rows was done before and is kept",
        "shard 1 of 2: 5 of 10 rows, 0.1 rows/s  100 tokens/s, about 38 s left",
        "shard 2 of 2: 10 of 10 rows, 0.1 rows/s  50.0 tokens/s",
        "comparing: 0 of 2 trainings, about 4 min left",
    ]


@pytest.mark.usefixtures("a_clock_of_ten_seconds")
def test_a_person_sees_a_bar_and_the_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = rich.console.Console(file=screen, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(rich.console, "Console", lambda **_: terminal)
    with ProgressView() as view:
        view.start(4, what="rolling out", unit="prompt")
        view.advance(1, completions=8)
        view.note("a warning")
        view.part("shard 1 of 4")
    shown = screen.getvalue()
    assert "rolling out" in shown
    assert "1 of 4 prompts, " in shown
    assert "completions/s" in shown
    assert "a warning\n" in shown
    assert "shard 1 of 4" not in shown
