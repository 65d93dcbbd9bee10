"""Signals planted to be length, a group, nothing or something: the report must call each what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from column_sets import column_set, rates_file
from command import run
from gaincurate.core.stats import Estimate
from gaincurate.report.build import report
from gaincurate.report.document import Document, Lift, SignalVerdict
from gaincurate.report.relations import SignalEvidence
from gaincurate.report.table import LENGTH
from gaincurate.report.verdict import mostly_groups, sort_by

ROWS = 1200


class World:
    """Prompts whose pass rate hangs on length, group and something that only a good signal sees."""

    def __init__(self, seed: int = 0, rows: int = ROWS) -> None:
        self.random = np.random.default_rng(seed)
        self.rows = rows
        self.length = np.round(np.exp(self.random.normal(4, 0.6, rows))).astype(int) + 3
        self.group = self.random.integers(0, 4, rows)
        self.hidden = self.random.normal(size=rows)
        logit = 1.2 * (4 - np.log(self.length)) + 0.9 * (self.group - 1.5) + 0.9 * self.hidden
        self.rate = 1 / (1 + np.exp(-logit))

    def signals(self) -> dict[str, np.ndarray]:
        """Each named after what it is."""
        log, noise = np.log(self.length), self.random.normal(size=(6, self.rows))
        return {
            "gc_angle": -log + 0.1 * noise[0],
            "gc_same": 1 / self.length,
            "gc_partly_length": -log + 0.6 * noise[1],
            "gc_bent_length": np.abs(log - np.median(log)) + 0.02 * noise[2],
            "gc_task": self.group + 0.3 * noise[3],
            "gc_good": self.hidden + 0.5 * noise[4] - 0.5 * log,
            "gc_nothing": noise[5],
            "gc_flat": np.ones(self.rows),
        }

    def report(
        self, folder: Path, *, outcomes: bool, level: bool = False, observed: int = ROWS
    ) -> dict[str, SignalVerdict]:
        source = {"task": pa.array([f"task {g}" for g in self.group])}
        if level:
            source["level"] = pa.array(np.round(5 - 4 * self.rate).astype(int))
        column_set(folder / "set", self.length, self.signals(), source)
        rollouts = [rates_file(folder / "rates.parquet", self.rate[:observed])] if outcomes else []
        self.document: Document = report(folder / "set", rollouts=rollouts)
        return {verdict.signal: verdict for verdict in self.document.verdicts}


def kinds(found: dict[str, SignalVerdict]) -> dict[str, str]:
    return {name: verdict.verdict for name, verdict in found.items()}


def test_with_pass_rates_each_signal_is_called_what_it_is(tmp_path: Path) -> None:
    world = World()
    found = world.report(tmp_path, outcomes=True)
    assert kinds(found) == {
        "gc_angle": "no-more-than-length",
        "gc_same": "tells-length-only",
        "gc_partly_length": "no-more-than-length",
        "gc_bent_length": "no-more-than-length",
        "gc_task": "no-more-than-groups",
        "gc_good": "tells-more",
        "gc_nothing": "tells-nothing",
        "gc_flat": "not-enough-rows",
    }
    assert world.document.unknown is None
    assert found["gc_good"].banner is None
    for said in (
        "gc_good tells something about pass rate (rates.parquet) that question length or task does not: rank ",
        "gc_angle tells no more about pass rate (rates.parquet) than question length does: rank correlation +",
        "gc_flat has the same value in every row: there is nothing to sort by.",
    ):
        assert found[said.partition(" ")[0]].sentence.startswith(said)
    assert "inside each. Choose among them by name, not by it." in found["gc_task"].sentence


def test_a_signal_that_is_length_in_another_form_in_each_group_tells_no_more(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    length, group = random.integers(10, 200, 3000), random.integers(0, 3, 3000)
    # In each group both are highest at another length, and nothing else is in the signal.
    bent = -np.abs(np.log(length) - np.array([3.2, 4.2, 5.2])[group])
    rates = rates_file(tmp_path / "r.parquet", 1 / (1 + np.exp(-(2 * bent + 1 + group))))
    signal = bent + group + 0.1 * random.normal(size=3000)
    column_set(tmp_path / "set", length, {"gc_angle": signal}, {"task": pa.array(group.astype(str))})
    document = report(tmp_path / "set", rollouts=[rates])
    (verdict,) = document.verdicts
    rate = next(r for r in document.relations if r.target == "pass rate (r.parquet)")
    assert rate.given_length_within_groups is not None
    assert rate.within_length_bins_and_groups is not None
    assert (rate.given_length_within_groups.low or 0) > 0.3  # a straight line does not take it away
    assert abs(rate.within_length_bins_and_groups.value or 1) < 0.1
    assert verdict.verdict == "no-more-than-length-and-groups"
    assert verdict.target == "pass rate (r.parquet)"


def test_without_anything_to_judge_by_it_says_so_and_how_to_find_out(tmp_path: Path) -> None:
    world = World()
    found = world.report(tmp_path, outcomes=False)
    assert kinds(found) == {
        "gc_angle": "tells-length-only",
        "gc_same": "tells-length-only",
        "gc_partly_length": "no-outcomes-to-judge",
        "gc_bent_length": "tells-length-only",
        "gc_task": "tells-groups-only",
        "gc_good": "no-outcomes-to-judge",
        "gc_nothing": "no-outcomes-to-judge",
        "gc_flat": "not-enough-rows",
    }
    assert world.document.headline == (
        "gc_angle, gc_same and gc_bent_length are close to question length. Whether sorting by any of 8 signals "
        "helps training is not known: there is nothing to judge it by."
    )
    assert world.document.unknown is not None
    assert "--verifier module:function" in world.document.unknown  # the set has no answers
    assert "whether to sort by it is not known" in found["gc_good"].sentence
    banners = {name: verdict.banner for name, verdict in found.items() if verdict.banner is not None}
    assert banners.keys() == {"gc_angle", "gc_same", "gc_bent_length"}
    assert banners["gc_angle"].startswith("gc_angle is close to question length: rank correlation -0.9")
    assert banners["gc_angle"].endswith("shorter questions score higher.")
    assert "though not in one direction" in banners["gc_bent_length"]


def test_a_level_judges_too_but_leaves_the_worth_unknown(tmp_path: Path) -> None:
    world = World()
    found = world.report(tmp_path, outcomes=False, level=True)
    assert found["gc_good"].verdict == "tells-more"
    assert found["gc_good"].target == "level"
    assert found["gc_good"].sentence.endswith("for training is unknown without pass rates.")
    assert found["gc_angle"].verdict == "no-more-than-length"
    assert world.document.unknown is not None
    assert "A level is a difficulty by another judge" in world.document.unknown


def test_few_rollouts_are_too_few_to_say(tmp_path: Path) -> None:
    found = World().report(tmp_path, outcomes=True, observed=40)
    assert found["gc_partly_length"].verdict == "not-enough-rows"
    assert "40 prompts with " in found["gc_partly_length"].sentence
    assert " suffice)." in found["gc_partly_length"].sentence
    fewer = World().report(tmp_path / "fewer", outcomes=True, observed=20)
    assert fewer["gc_good"].verdict == "not-enough-rows"


def test_what_picks_better_batches_than_chance_and_length_is_worth_a_trial(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    length = random.integers(10, 200, ROWS)
    hard = random.random(ROWS)
    rates = rates_file(tmp_path / "r.parquet", 0.5 * (1 - hard))  # the easiest are right every second time
    column_set(tmp_path / "set", length, {"gc_angle": hard + 0.05 * random.normal(size=ROWS)})
    document = report(tmp_path / "set", rollouts=[rates])
    (verdict,) = document.verdicts
    assert (verdict.verdict, verdict.sort_first) == ("tells-more", "lowest")
    assert document.headline.startswith("Worth a trial: sort by gc_angle, lowest first; ")
    best = next(lift for lift in document.lifts if (lift.column, lift.end) == ("gc_angle", "lowest"))
    assert (best.ratio.value or 0) > 1.3


def test_what_says_nothing_is_not_found_to_tell_more_by_looking_often(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    length = random.integers(10, 200, 1000)
    noise = {f"gc_noise_{k}": random.normal(size=1000) for k in range(24)}
    column_set(tmp_path / "set", length, noise, {"level": pa.array(random.integers(1, 6, 1000))})
    document = report(tmp_path / "set")
    assert {verdict.verdict for verdict in document.verdicts} == {"tells-nothing"}
    assert document.verdicts[0].looks == 24
    assert document.headline.startswith("None of 24 signals tells anything that question length does not: ")


def test_a_signal_has_to_pick_better_than_length_by_the_same_pass_rates() -> None:
    def made(column: str, target: str, ratio: float) -> Lift:
        return Lift(column, target, "highest", 0.1, Estimate(ratio, ratio / 1.05, ratio * 1.05, 100))

    lifts = [made("gc_good", "a", 1.5), made(LENGTH, "a", 1.2), made(LENGTH, "b", 2.0)]
    evidence = SignalEvidence("gc_good", ROWS, False, Estimate(None, None, None, ROWS), None, None, [], lifts)
    assert sort_by(evidence) == lifts[0]
    assert sort_by(replace(evidence, lifts=[*lifts, made(LENGTH, "a", 1.6)])) is None


@pytest.mark.parametrize(("between", "said"), [(3.0, True), (0.0, False)])
def test_a_score_that_is_mostly_its_group_is_said_to_be_that_first(
    tmp_path: Path, between: float, said: bool
) -> None:
    random = np.random.default_rng(0)
    task = random.integers(0, 4, 400)
    scores = {"gc_angle": between * task + random.normal(size=400)}
    source = {"task": pa.array([f"t{k}" for k in task])}
    folder = column_set(tmp_path / "set", random.integers(5, 120, 400), scores, source)
    document = report(folder)
    sentence = mostly_groups(document)
    if not said:
        assert sentence is None
        return
    ranks = stats.rankdata(scores["gc_angle"])
    inside = sum(((ranks[task == k] - ranks[task == k].mean()) ** 2).sum() for k in range(4))
    share = 1 - inside / ((ranks - ranks.mean()) ** 2).sum()
    start = f"task explains {share:.0%} of the order of gc_angle."
    assert sentence == f"{start} Sorting by gc_angle mostly chooses among these 4 groups."
    shown = run("report", folder).stdout
    assert shown.startswith(start)
