"""The next steps of a report: which they are, and that their commands run as they are printed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import Result

import documents
import exports
import runs
import tiny
from command import run
from gaincurate.core.stats import Estimate
from gaincurate.report.build import report
from gaincurate.report.document import Document, Kind, Lift
from gaincurate.report.verdict import ANSWERS, answer, next_steps, unknown


def judged(*kinds: Kind, first: str | None = None, unknown: str | None = None) -> Document:
    """Signals with these verdicts; the last one is worth a trial at the end `first`."""
    base = documents.example()
    verdicts = [
        replace(base.verdicts[0], signal=f"signal{i}", verdict=kind, sort_first=None)
        for i, kind in enumerate(kinds)
    ]
    verdicts[-1] = replace(verdicts[-1], sort_first=first)
    lifts = [*base.lifts, Lift(verdicts[-1].signal, "p", first or "", 0.1, Estimate(2.0, 1.9, 2.1, 99))]
    about = replace(base.about, rows=242)
    return replace(base, about=about, verdicts=verdicts, lifts=lifts, unknown=unknown, wasted=None)


def commands(document: Document) -> list[list[str]]:
    return [shlex.split(step.command) for step in next_steps(document) if step.command]


def test_every_verdict_has_an_answer() -> None:
    assert set(ANSWERS) == set(get_args(Kind))
    for kind in get_args(Kind):
        document = judged(kind)
        assert answer(document, document.verdicts[0]) == ANSWERS[kind]


def test_a_signal_that_tells_more_is_worth_a_trial_only_where_a_batch_by_it_carries_more() -> None:
    worth = judged("tells-more", first="highest")
    assert answer(worth, worth.verdicts[0]) == ("Worth a trial", "yes")
    no_outcomes = replace(judged("tells-more"), lifts=[])
    assert answer(no_outcomes, no_outcomes.verdicts[0]) == ("Not known yet", "unknown")
    carries_nothing = judged("tells-more")
    assert answer(carries_nothing, carries_nothing.verdicts[0]) == ("No", "no")


def test_a_signal_worth_a_trial_is_tried_beside_its_controls() -> None:
    document = judged("tells-nothing", "tells-more", first="highest")
    steps = next_steps(document)
    assert len(steps) == 1
    assert steps[0].text.startswith("Train by signal1, highest first, and compare with question length")
    command = commands(document)[0]
    assert command[:4] == ["gaincurate", "schedule", "start", "scored <set>"]
    assert command[command.index("--by") + 1] == "signal1"
    assert command[command.index("--budget") + 1] == "60"  # a round of all 242 rows leaves nothing to choose
    assert "--ascending" not in command


def test_the_end_that_carries_more_comes_first_and_no_strategy_begins_in_the_middle() -> None:
    assert "--ascending" in commands(judged("tells-more", first="lowest"))[0]
    document = judged("tells-more", first="middle")
    assert "middle first" in next_steps(document)[0].text
    assert commands(document) == []


def test_of_several_the_one_whose_end_carries_most_is_tried() -> None:
    document = judged("tells-more", "tells-more")
    ratios = {"signal0": 1.1, "signal1": 1.4}
    lifts = [Lift(name, "p", "lowest", 0.1, Estimate(r, r, r, 99)) for name, r in ratios.items()]
    verdicts = [replace(verdict, sort_first="lowest") for verdict in document.verdicts]
    command = commands(replace(document, lifts=lifts, verdicts=verdicts))[0]
    assert command[command.index("--by") + 1] == "signal1"


def test_where_nothing_tells_more_prompts_are_drawn_by_outcomes_or_at_random() -> None:
    document = judged("tells-nothing", "no-more-than-length")
    assert commands(document)[0][6:8] == ["--strategy", "posterior"]
    assert "random" not in next_steps(document)[0].text
    uniform = commands(replace(document, outcomes=[]))[0]
    assert uniform[6:8] == ["--strategy", "uniform"]
    budget, rounds = int(uniform[9]), int(uniform[11])
    assert 3 * document.about.rows <= budget * rounds < 4 * document.about.rows


def test_where_uniform_wastes_little_random_prompts_in_smaller_batches_are_advised() -> None:
    document = judged("tells-nothing")
    little, much = (replace(document, wasted=Estimate(share, share, share, 99)) for share in (0.3, 0.7))
    assert commands(little)[0][6:8] == ["--strategy", "uniform"]
    assert "such as 4 prompts a step in place of 16" in next_steps(little)[0].text
    assert commands(much)[0][6:8] == ["--strategy", "posterior"]
    assert "difficulty forecast" in next_steps(much)[0].text


def test_what_is_unknown_comes_first_and_alone() -> None:
    steps = next_steps(judged("no-outcomes-to-judge", unknown="Run `gaincurate difficulty rollout`."))
    assert [step.text for step in steps] == ["Run `gaincurate difficulty rollout`."]


def test_advised_rollouts_say_what_they_cost() -> None:
    text = unknown(frozenset({"signal"}), "scored", 300, model="m", verifier="math")
    assert text is not None
    assert "--reference 300" in text
    # The defaults of `difficulty rollout`: 8 completions of a prompt, 1,024 tokens each at most.
    assert "300 prompts x 8 = 2,400 completions: 2,457,600 tokens at most" in text
    assert "480,000 with answers of 200 tokens" in text


def advised(document: Document) -> list[list[str]]:
    """Every command in the advice, those within a sentence too."""
    steps = next_steps(document)
    inside = [command for step in steps for command in re.findall(r"`(gaincurate .*?)`", step.text)]
    return [shlex.split(command) for command in [*inside, *(step.command for step in steps if step.command)]]


def test_advice_names_the_sets_own_model_and_verifier_and_runs_as_printed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Room for as many tokens as a rollout takes by default.
    shutil.copytree(tiny_model, "my model")
    config = json.loads(Path("my model/config.json").read_text()) | {"max_position_embeddings": 2048}
    Path("my model/config.json").write_text(json.dumps(config))
    sources = [json.dumps({"source_dataset": "chain_sum", "source_index": i}) for i in range(3)]
    questions = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(3)]
    rows = [question | {"metadata": source} for question, source in zip(questions, sources, strict=True)]
    runs_well(
        "score", tiny.write_jsonl(tmp_path / "rows.jsonl", rows), "--model", "my model", "--out", "scored"
    )
    rollout, again = advised(report("scored"))
    assert rollout[rollout.index("--model") + 1] == str(tmp_path / "my model")
    assert rollout[rollout.index("--verifier") + 1] == "reasoning-gym"
    runs_well(*rollout[1:])
    assert json.loads(runs_well(*again[1:], "--json").stdout)["outcomes"][0]["prompts"] == 3


def runs_well(*arguments: object) -> Result:
    done = run(*arguments)
    assert done.exit_code == 0, done.stderr
    return done


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
        assert "warning" not in runs_well(*command[1:]).stderr
    # What is chosen from is more than what is chosen.
    assert json.loads((tmp_path / "run/run.json").read_text())["config"]["budget"] < 240


def test_a_report_of_a_run_advises_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs.report(runs.begin(tmp_path, rows=60))
    (command,) = advised(report("set", run="run"))
    assert command[command.index("--run") + 1] == "run-next"
    runs_well(*command[1:])


def test_a_set_with_answers_of_another_kind_gets_the_verifier_of_mathematics(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": str(i), "metadata": {"source": "a book"}} for i in range(4)]
    document = report(exports.make_set(tmp_path / "set", rows))
    assert document.unknown is not None
    assert "--model some-model --verifier math --reference 4" in document.unknown
