"""Prompts in a report: the right rows, and their texts as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import dots_runs
import runs
from column_sets import column_set
from command import run as gaincurate
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.verifier import VerifierConfig
from gaincurate.errors import OutcomeError
from gaincurate.hygiene.options import HygieneOptions
from gaincurate.report.formatting import number
from gaincurate.report.sections import (
    EXAMPLES,
    LISTED,
    LONGEST,
    extremes,
    hygiene_checks,
)
from gaincurate.report.table import read_table
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run
from questions import asking


def a_set(folder: Path, questions: Any, values: np.ndarray | None = None) -> ScoredSet:
    rows = len(questions)
    scores = {"gc_angle": np.arange(rows, dtype=float) if values is None else values}
    return ScoredSet(column_set(folder / "set", np.full(rows, 7), scores, questions=questions))


def test_the_ends_and_the_middle_of_a_signal(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.permutation(31).astype(float)
    scored = a_set(tmp_path, [f"q{k}" for k in range(31)], values)
    found = extremes(scored, read_table(scored), "gc_angle", 3)
    assert [prompt.value for prompt in found.top] == [30, 29, 28]
    assert [prompt.value for prompt in found.middle] == [16, 15, 14]
    assert [prompt.value for prompt in found.bottom] == [2, 1, 0]
    for prompt in [*found.top, *found.middle, *found.bottom]:
        row = int(prompt.gc_id.removeprefix("id"))
        assert (prompt.text, prompt.value, prompt.question_tokens) == (f"q{row}", values[row], 7)


@pytest.mark.parametrize("rows", range(1, 12))
def test_few_rows_are_shown_once(tmp_path: Path, rows: int) -> None:
    scored = a_set(tmp_path, [f"q{k}" for k in range(rows)])
    found = extremes(scored, read_table(scored), "gc_angle", 3)
    shown = [prompt.gc_id for part in (found.top, found.middle, found.bottom) for prompt in part]
    assert len(set(shown)) == len(shown) == min(rows, 9)
    assert len(found.top) >= len(found.bottom) >= len(found.middle)


def test_rows_without_a_value_are_not_shown_and_ties_stand_in_source_order(tmp_path: Path) -> None:
    scored = a_set(tmp_path, list("abcd"), np.array([1.0, np.nan, 1.0, 1.0]))
    found = extremes(scored, read_table(scored), "gc_angle", 2)
    assert [prompt.gc_id for prompt in [*found.top, *found.bottom]] == ["id00000", "id00002", "id00003"]


def test_a_text_is_shortened_and_otherwise_left_alone(tmp_path: Path) -> None:
    markup = "<script>alert(1)</script> & \x1b[31m\u202e {braces} %s"
    scored = a_set(tmp_path, ["x" * (LONGEST + 1), "y" * LONGEST, markup])
    shown = {prompt.gc_id: prompt for prompt in extremes(scored, read_table(scored), "gc_angle").top}
    assert (shown["id00000"].text, shown["id00000"].cut) == ("x" * LONGEST, True)
    assert (shown["id00001"].text, shown["id00001"].cut) == ("y" * LONGEST, False)
    assert shown["id00002"].text == markup


def chat(*contents: str) -> list[dict[str, str]]:
    roles = ["system", "user", "assistant", "user"]
    return [{"role": roles[k % 4], "content": text} for k, text in enumerate(contents)]


def test_of_a_chat_the_last_user_message_is_shown(tmp_path: Path) -> None:
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    rows = [chat("s", "q"), chat("other", "q"), chat("s", "q"), chat("s", "q", "a", "again")]
    scored = a_set(tmp_path, pa.array(rows, kind))
    assert [p.text for p in extremes(scored, read_table(scored), "gc_angle").top] == ["again", "q", "q", "q"]


def test_broken_gold_answers_are_listed_further_than_the_rest(tmp_path: Path) -> None:
    answers = [None if place % 2 else "4" for place in range(60)]
    scored = asking(tmp_path / "set", ["How far?"] * 60, answers)  # type: ignore[arg-type]
    options = HygieneOptions(("duplicates", "broken-gold"), verifier=VerifierConfig("exact"))
    broken, copies = hygiene_checks(scored, options)
    assert (broken.check, broken.rows, len(broken.examples)) == ("broken-gold", 30, LISTED)
    assert [one.gc_id for one in broken.examples] == [f"id{place:04d}" for place in range(1, 2 * LISTED, 2)]
    assert (copies.check, copies.rows, len(copies.examples)) == ("duplicates", 59, EXAMPLES)


def finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """One round of DOTS, its references and its outcomes observed."""
    dots_runs.in_process(monkeypatch)
    run = dots_runs.begin(folder, temperature=0.2, rounds=1, budget=20)
    with pytest.raises(OutcomeError):
        advance(run)
    dots_runs.answer(run, 0)
    advance(Run(run.folder))
    run = Run(run.folder)
    runs.write(run, 0, dots_runs.lines(run.ids(0), 0, round=0, tokens=5))
    advance(Run(run.folder))
    return Run(run.folder)


def test_a_report_shows_what_a_runs_predictions_were_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path, monkeypatch)
    status = json.loads(gaincurate("schedule", "status", run.folder, "--json").stdout)["difficulty"]
    page = tmp_path / "report.html"
    done = gaincurate("report", tmp_path / "set", "--run", run.folder, "--json", "-o", page)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["run"]["predictions"] == status
    shown = " ".join(gaincurate("report", tmp_path / "set", "--run", run.folder).stdout.split())
    pearson, brier = (status["newest"][name]["value"] for name in ("pearson", "brier"))
    assert "aims at a failure rate of 0.5, predicted by group-mean. Its references: 60 rollouts" in shown
    assert f"of drawn prompts 20 {pearson:+.2f}" in shown
    assert number(brier) in shown
    assert "a correlation over them says little of the predictor" in shown
    html = page.read_text()
    assert "What its predictions were worth" in html
    assert "a correlation over them says little of the predictor" in html
    assert html.count(": predicted failure rate against the observed one in ") == 2
