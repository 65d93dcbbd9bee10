"""`gaincurate compare` with the training left out: what it says, shows, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import compare_results
from command import run
from gaincurate.core.progress import Progress

pytest.importorskip("trl")

CONFIG = 'scored = "s"\nheldout = "h"\nverifier = "exact"\nbudget_tokens = 10\n[[arms]]\nname = "a"\nstrategy = "gain-rl"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands for the training: leaves a folder of results, and tells what it was called with."""
    calls: list[dict[str, Any]] = []

    def compare(comparison: Any, out: Path, progress: Progress, **options: Any) -> None:
        calls.append({"arms": [arm.name for arm in comparison.arms], **options})
        if not (out / "comparison.json").exists():
            progress.note("judging the model at the start")
            progress.start(2, 0.5, unit="training")
            progress.advance(1.5)
            progress.part("uniform, seed 3, done in 2 min 20 s")
            compare_results.example(out, prompts=30)

    monkeypatch.setattr("gaincurate.compare.runner.compare", compare)
    return calls


def test_it_trains_says_and_writes(config: Path, trained: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("compare", config, "-o", out, "--workers", "2")
    assert done.exit_code == 0, done.output
    assert trained == [{"arms": ["uniform", "length", "a"], "workers": 2, "tune": False}]
    assert done.stderr.splitlines()[:2] == [
        "judging the model at the start",
        "uniform, seed 3, done in 2 min 20 s: 2 of 2 trainings",
    ]
    assert f"{out / 'report.html'}: written; open it in a browser." in done.stderr
    assert "good: better than uniform." in done.stdout
    assert "  bad      " in done.stdout
    found = json.loads((out / "results.json").read_text())
    assert found["headline"] in " ".join(done.stdout.split())
    assert found["headline"] in (out / "report.html").read_text()


def test_a_finished_comparison_is_shown_again_with_the_same_bytes(
    config: Path, trained: list[dict[str, Any]]
) -> None:
    out = config.parent / "c"  # beside its file, where none is named
    first = run("compare", config, "--json")
    page = (out / "report.html").read_bytes()
    assert run("compare", config, "-o", out, "--json").stdout == first.stdout
    assert (out / "report.html").read_bytes() == page
    assert len(trained) == 2


def test_tuning_is_asked_for_and_shown(config: Path, trained: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("compare", config, "-o", out, "--tune").exit_code == 0
    assert trained[0]["tune"]
    facts = json.loads((out / "comparison.json").read_text())
    chosen = {"learning_rate": 2e-05, "step_prompts": 4, "group": 8}
    row = {**chosen, "accuracy": 0.4, "accuracy_by_seed": [0.4], "steps": 12.0}
    tuned = {"chosen": chosen, "grid": [row, row | {"step_prompts": 8}], "seeds": [100]}
    (out / "comparison.json").write_text(json.dumps(facts | {"tuned": tuned}))
    done = run("compare", config, "-o", out)
    assert [line.split() for line in done.stdout.splitlines() if "2e-05  " in line] == [
        ["2e-05", "4", "8", "0.400", "12.0", "chosen"],
        ["2e-05", "8", "8", "0.400", "12.0"],
    ]
    assert "<td>8</td><td>0.400</td><td>12.0</td><td>chosen</td>" in (out / "report.html").read_text()


def test_without_the_extra_there_is_no_page_and_all_else(
    config: Path, trained: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaincurate.cli.report.find_spec", lambda name: None)
    done = run("compare", config, "-o", tmp_path / "out")
    assert done.exit_code == 0
    assert "no page: it needs jinja2 and vl_convert: `pip install 'gaincurate[report]'`\n" in done.stderr
    assert not (tmp_path / "out/report.html").exists()
    assert len(trained) == 1
