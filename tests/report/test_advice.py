from __future__ import annotations

import shlex
from dataclasses import replace
from typing import get_args

import documents
from gaincurate.report.advice import ANSWERS, next_steps
from gaincurate.report.document import Document, Kind
from gaincurate.report.figures import Estimate


def judged(*kinds: Kind, unknown: str | None = None) -> Document:
    base = documents.example()
    verdicts = [
        replace(base.verdicts[0], signal=f"signal{i}", verdict=kind, target="rollouts p(1-p)")
        for i, kind in enumerate(kinds)
    ]
    return replace(base, verdicts=verdicts, unknown=unknown)


def commands(document: Document) -> list[list[str]]:
    return [shlex.split(step.command) for step in next_steps(document) if step.command]


def test_every_verdict_has_an_answer() -> None:
    assert set(ANSWERS) == set(get_args(Kind))
    assert {tone for _, tone in ANSWERS.values()} == {"yes", "some", "no", "unknown"}


def test_the_best_signal_is_to_be_tried_beside_its_controls() -> None:
    steps = next_steps(judged("tells-nothing", "tells-little-more", "tells-more"))
    assert len(steps) == 1
    assert "signal2" in steps[0].text
    assert "length and at random" in steps[0].text
    command = commands(judged("tells-nothing", "tells-little-more", "tells-more"))[0]
    assert command[:4] == ["gaincurate", "schedule", "start", "scored <set>"]
    assert command[command.index("--by") + 1] == "signal2"
    assert command[command.index("--budget") + 1] == "240"


def test_the_end_that_carries_more_comes_first() -> None:
    def command(value: float) -> list[str]:
        document = judged("tells-more")
        estimate = Estimate(value, value - 0.1, value + 0.1, 200)
        return commands(replace(document, verdicts=[replace(document.verdicts[0], estimate=estimate)]))[0]

    assert "--ascending" in command(-0.3)
    assert "--ascending" not in command(0.3)


def test_where_nothing_tells_more_prompts_are_drawn_by_outcomes_or_at_random() -> None:
    document = judged("tells-nothing", "no-more-than-length")
    assert commands(document)[0][6:8] == ["--strategy", "variance"]
    assert commands(replace(document, outcomes=[]))[0][6:8] == ["--strategy", "uniform"]


def test_what_is_unknown_comes_first_and_alone() -> None:
    steps = next_steps(judged("no-outcomes-to-judge", unknown="Run `gaincurate difficulty rollout`."))
    assert [step.text for step in steps] == ["Run `gaincurate difficulty rollout`."]
