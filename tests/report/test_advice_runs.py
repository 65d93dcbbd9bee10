"""The commands that a report advises, typed as they are printed in the folder where it was made."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import exports
import runs
import tiny
from command import run as gaincurate
from gaincurate.report.build import report
from gaincurate.report.document import Document
from gaincurate.report.verdict import next_steps

ROWS = 3


def advised(document: Document) -> list[list[str]]:
    """Every command in the advice, those within a sentence too."""
    steps = next_steps(document)
    inside = [command for step in steps for command in re.findall(r"`(gaincurate .*?)`", step.text)]
    return [shlex.split(command) for command in [*inside, *(step.command for step in steps if step.command)]]


@pytest.fixture(scope="module")
def place(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a set that it scored, named from there."""
    folder = tmp_path_factory.mktemp("advice")
    # Room for as many tokens as a rollout takes by default.
    shutil.copytree(tiny_model, folder / "my model")
    config = json.loads((folder / "my model/config.json").read_text())
    (folder / "my model/config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    rows = [
        {
            "question": f"What is {i} + {i}?",
            "answer": str(2 * i),
            "metadata": json.dumps({"source_dataset": "chain_sum", "source_index": i}),
        }
        for i in range(ROWS)
    ]
    data = tiny.write_jsonl(folder / "rows.jsonl", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = gaincurate("score", data, "--model", "my model", "--out", "scored")
        assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_advice_names_the_sets_own_model_and_verifier_and_runs_as_printed(here: Path) -> None:
    rollout, again = advised(report("scored"))
    assert rollout[rollout.index("--model") + 1] == str(here / "my model")
    assert rollout[rollout.index("--verifier") + 1] == "reasoning-gym"
    done = gaincurate(*rollout[1:])
    assert done.exit_code == 0, done.stderr
    done = gaincurate(*again[1:], "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["outcomes"][0]["prompts"] == ROWS


@pytest.mark.parametrize("kind", ["nothing", "trial"])
def test_the_next_run_starts_as_printed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs.some_set(tmp_path / "a set", rows=240)
    rates = [
        {"gc_id": f"id{i:04d}", "reward": float(k < (4 if kind == "nothing" else 1 + i // 60)), "sample": k}
        for i in range(240)
        for k in range(8)
    ]
    (tmp_path / "rates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rates))
    document = report("a set", rollouts=["rates.jsonl"])
    commands = advised(document)
    assert commands
    for command in commands:
        done = gaincurate(*command[1:])
        assert done.exit_code == 0, done.stderr
        assert "warning" not in done.stderr
    # What is chosen from is more than what is chosen.
    assert json.loads((tmp_path / "run/run.json").read_text())["config"]["budget"] < 240


def test_a_report_of_a_run_advises_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = runs.begin(tmp_path, rows=60)
    runs.report(run)
    (command,) = advised(report("set", run="run"))
    assert command[command.index("--run") + 1] == "run-next"
    assert gaincurate(*command[1:]).exit_code == 0


def test_a_set_with_answers_of_another_kind_gets_the_verifier_of_mathematics(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": str(i), "metadata": {"source": "a book"}} for i in range(4)]
    document = report(exports.make_set(tmp_path / "set", rows))
    assert document.unknown is not None
    assert "--model some-model --verifier math --reference 4" in document.unknown


def test_no_tokens_are_reported_where_nobody_logged_them(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    runs.report(run)
    page = tmp_path / "report.html"
    assert gaincurate("schedule", "next", run.folder).exit_code == 0
    done = gaincurate("report", tmp_path / "set", "--run", run.folder, "--json", "-o", page)
    assert done.exit_code == 0, done.stderr
    rounds = json.loads(done.stdout)["run"]["rounds"]
    assert rounds[0]["rollouts"] == 16
    assert rounds[0]["completion_tokens"] is None
    assert "generated 0" not in page.read_text()
