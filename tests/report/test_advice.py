from __future__ import annotations

import shlex
from dataclasses import replace
from typing import get_args

import documents
from gaincurate.core.stats import Estimate
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
    about = replace(base.about, rows=240)
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
    assert command[command.index("--budget") + 1] == "60"  # a round of all 240 rows leaves nothing to choose
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
