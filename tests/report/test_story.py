"""A run's predictions in a report: the figures that its status has, in the document, the terminal and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dots_runs
import runs
from command import run as gaincurate
from gaincurate.errors import OutcomeError
from gaincurate.report.story import DRAWN, REFERENCES, run_story
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run


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
    told = json.loads(done.stdout)["run"]["predictions"]
    assert {name: told[name] for name in status["cost"]} == status["cost"]
    assert (told["target"], told["target_difficulty"], told["predictor"]) == ("difficulty", 0.5, "group-mean")
    expected = {REFERENCES: status["rounds"][0]["on_references"], DRAWN: status["newest"]}
    assert [one["of"] for one in told["found"]] == [*expected]
    for one in told["found"]:
        quality = expected[one["of"]]
        assert (one["round"], one["rows"], one["bins"]) == (0, quality["count"], quality["reliability"])
        assert one["brier_of_mean"] == quality["brier_of_mean"]
        for name in ("pearson", "spearman", "brier", "ceiling"):
            figure = one[name]
            around = None if figure["low"] is None else [figure["low"], figure["high"]]
            assert {"value": figure["value"], "interval": around} == quality[name]
    shown = " ".join(gaincurate("report", tmp_path / "set", "--run", run.folder).stdout.split())
    pearson, brier = (status["newest"][name]["value"] for name in ("pearson", "brier"))
    assert "aims at a failure rate of 0.5, predicted by group-mean; references took 60 rollouts" in shown
    assert f"round 0, drawn prompts (20 prompts): Pearson {pearson:+.2f}" in shown
    assert f"Brier {brier:.2f}" in shown
    assert "a correlation over them says little of the predictor" in shown
    html = page.read_text()
    assert "What its predictions were worth" in html
    assert "a correlation over them says little of the predictor" in html
    assert html.count('aria-label="Predicted failure rate against the observed one in round 0') == 2


def test_a_run_without_predictions_has_none(tmp_path: Path) -> None:
    begun = runs.begin(tmp_path, strategy="uniform")
    assert run_story(begun).predictions is None


def test_a_run_that_waits_for_its_first_references_says_so_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dots_runs.in_process(monkeypatch)
    told = run_story(dots_runs.begin(tmp_path)).predictions
    assert told is not None
    assert (told.found, told.warning, told.predictor, told.rollouts) == ([], None, None, 0)
