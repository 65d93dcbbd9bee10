"""Every command where torch, transformers, datasets and the other extras are not installed."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedded
import runs
import sets
import tiny
from base_install import EXTRAS, HEAVY, run_without

ROOT = Path(__file__).parent.parent.parent
Words = Sequence[object]


def some_set(folder: Path) -> Path:
    """Forty rows, of which the last ten ask what the first ten ask, and what one policy did with them."""
    rows = [
        sets.scored_row(f"id{i:02d}", f"question {i % 30}", i / 40, i % 7 + 3) | {"answer": f"of {i % 4}"}
        for i in range(40)
    ]
    lines = [
        {"gc_id": f"id{i:02d}", "reward": float(k < i % 4), "round": 0, "sample": k}
        for i in range(40)
        for k in range(4)
    ]
    (folder / "outcomes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "rows.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    (folder / "trl.yaml").write_text("num_generations: 8\n")
    return sets.make_set(folder / "set", [rows[:20], rows[20:]], answer="answer")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What every command did, all in one process without the extras, by name."""
    folder = tmp_path_factory.mktemp("base")
    scored, outcomes, run = some_set(folder), folder / "outcomes.jsonl", folder / "run"
    predict: Words = ("difficulty", "predict", scored, "--outcomes", outcomes)
    rollout: Words = ("difficulty", "rollout", scored, "--out", folder / "rollouts", "--verifier", "exact")
    start: Words = ("--budget", 8, "--rounds", 2, "--model", "some-model")
    trainer = [word.replace("{checkpoint}", "none") for word in runs.COMMAND]  # trains no weights
    commands: dict[str, Words] = {
        "doctor": ("doctor", "--json"),
        "doctor --trainer": ("doctor", "--trainer", "trl", "--config", folder / "trl.yaml", "--json"),
        "score": ("score", folder / "rows.jsonl", "--model", "demo", "--out", folder / "scored"),
        "show": ("show", scored),
        "show --json": ("show", scored, "--json"),
        "derive": ("derive", scored, "--signal", "gc_angle", "--length-free", "rank-in-bin"),
        "derive residual": ("derive", scored, "--signal", "gc_angle", "--length-free", "residual"),
        "hygiene": ("hygiene", scored),
        "report": ("report", scored),
        "report --json": ("report", scored, "--rollouts", outcomes, "--json"),
        "report page": ("report", scored, "-o", folder / "report.html"),
        "show in a store": ("show", "s3://bucket/scored"),
        "export": ("export", scored, "--trainer", "trl", "--out", folder / "trl.parquet"),
        "predict": (*predict, "--method", "group-mean", "--group-column", "answer"),
        "predict gp": (*predict, "--method", "gp"),
        "predict adapter": (*predict, "--adapter", folder / "adapter"),
        "fit": ("difficulty", "fit", scored, "--outcomes", outcomes, "--out", folder / "adapter"),
        "rollout --model": (*rollout, "--model", "demo"),
        "rollout --server": (*rollout, "--server", "http://localhost:1"),
        "start": ("schedule", "start", scored, "--run", run, "--strategy", "gain-rl", *start),
        "run": ("schedule", "run", run, "--", *trainer),
        "status": ("schedule", "status", run),
        "next": ("schedule", "next", run),
        "recipe": ("schedule", "recipe", "trl"),
        "report --run": ("report", scored, "--run", run),
        "compare": ("compare", folder / "compare.toml"),
    }
    return dict(zip(commands, run_without(EXTRAS, list(commands.values())), strict=True))


SCORING = "error: scoring needs torch and transformers: `pip install 'gaincurate[score]'`.\n"
REFUSED = {
    "next": "is finished: all of its 2 rounds are done",
    "score": SCORING,
    "rollout --model": SCORING,
    "derive residual": "scipy",
    "report page": "`pip install 'gaincurate[report]'`",
    "predict gp": "has no gc_embedding",
    "predict adapter": "--adapter needs torch: `pip install 'gaincurate[score]'`.",
    "show in a store": "need the package obstore: `pip install 'gaincurate[cloud]'`.",
    "fit": "difficulty fit needs torch: `pip install 'gaincurate[score]'`.",
    "compare": "error: compare needs torch and transformers and trl: `pip install 'gaincurate[score,trl]'`.",
    "rollout --server": "`pip install 'gaincurate[difficulty]'`.",
}
"""What a command says that does not work here, or that has nothing left to do."""
OTHER = {"doctor --trainer": 1}


def test_every_command_works_or_says_what_to_install(done: dict[str, dict[str, Any]]) -> None:
    for name, result in done.items():
        assert result["error"] is None, (name, result["error"])
        wanted = 2 if name in REFUSED else OTHER.get(name, 0)
        assert result["code"] == wanted, (name, result["stdout"], result["stderr"])
        if name in REFUSED:
            assert REFUSED[name] in result["stderr"], name
            assert result["stderr"].count("\n") == 1, name


def test_predictions_and_the_report_are_those_of_a_full_install(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scored = embedded.make_set(tmp_path / "set", random.normal(size=(60, 8)))
    rates = embedded.write_rates(tmp_path / "rates.parquet", range(0, 60, 2), random.integers(0, 9, 60))
    predict: Words = ("difficulty", "predict", scored, "--outcomes", rates, "--json", "--method")
    commands = [
        (*predict, "gp"),
        (*predict, "group-mean", "--group-column", "question"),
        ("report", scored, "--rollouts", rates, "--json"),
    ]
    without, full = run_without(HEAVY, commands), run_without((), commands)
    assert [result["code"] for result in full] == [0, 0, 0]
    assert without == full


def test_ray_is_needed_by_its_engine_alone(tmp_path: Path) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(3))
    model = tiny.save_model(tmp_path / "model")
    score: Words = ("score", data, "--model", model, "--out", tmp_path / "out")
    without, with_ray = run_without(("ray",), [(*score, "--engine", "ray"), score])
    assert (without["code"], with_ray["code"]) == (2, 0), without
    assert without["stderr"] == "error: --engine ray needs ray: `pip install 'gaincurate[ray]'`.\n"


def test_a_page_needs_its_extra_and_no_torch(tmp_path: Path) -> None:
    scored, page = some_set(tmp_path), tmp_path / "report.html"
    (result,) = run_without(HEAVY, [("report", scored, "-o", page)])
    assert result["code"] == 0, result
    assert page.read_text().startswith("<!doctype html>")


def test_doctor_lists_what_each_extra_lacks(done: dict[str, dict[str, Any]]) -> None:
    found = json.loads(done["doctor"]["stdout"])
    assert found["ok"]
    assert found["missing"]["report"] == ["jinja2", "vl-convert-python"]
    assert found["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert found["missing"]["score"] == ["accelerate", "datasets", "gguf", "torch", "transformers"]
