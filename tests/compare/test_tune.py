"""`gaincurate compare --tune` with the training left out: what is tried, chosen, kept and refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from compare_command import small_sets
from gaincurate.compare.arm import ArmJob
from gaincurate.compare.config import checked_comparison
from gaincurate.compare.results import FACTS
from gaincurate.compare.runner import CHOICE, TUNE, compare
from gaincurate.errors import InputError, OutputError
from gaincurate.schedule.run import Run

pytest.importorskip("trl")

RATE = {"train": {"learning_rate": 1e-3}}
G = 8  # rollouts of a prompt in `small_sets`


class Bench:
    """Runs `compare` on small sets; says which trainings it would have done, and makes up what they gave."""

    def __init__(self, folder: Path) -> None:
        self.out, self._settings = folder / "out", small_sets(folder) | RATE
        self.trained: list[str] = []
        self.killed = False

    def compare(self, *, tune: bool = True, **changes: Any) -> dict[str, Any]:
        """What `comparison.json` says then."""
        self.trained.clear()
        if isinstance(table := changes.pop("table", None), dict):
            changes["tune"] = table
        compare(checked_comparison(self._settings | changes), self.out, tune=tune)
        return dict(json.loads((self.out / FACTS).read_bytes()))

    def work(self, jobs: list[ArmJob], *rest: Any) -> None:
        """Instead of training."""
        self.trained += [f"{job.arm.name} {job.seed}" for job in jobs]
        if self.killed:
            raise KeyboardInterrupt

    def choice(self) -> dict[str, Any]:
        """What `tune.json` says."""
        return dict(json.loads((self.out / TUNE / CHOICE).read_bytes()))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The best setting is twice the learning rate with half of the prompts; seed 101 is always worse by 0.05."""

    def evaluation_rows(job: ArmJob, prompts: list[str]) -> list[dict[str, Any]]:
        right = 5 * job.comparison.learning_rate / 1e-3 - job.comparison.step_prompts - (job.seed == 101)
        unjudged = {"right": 0, "samples": 0}
        return [{"right": 10 + int(right), "samples": 20}, {"right": 10, "samples": 20}, unjudged]

    bench = Bench(tmp_path)
    for name in ("roll_out", "collect"):
        monkeypatch.setattr(f"gaincurate.compare.runner.{name}", lambda *given: None)
    monkeypatch.setattr("gaincurate.compare.runner._work", bench.work)
    monkeypatch.setattr(ArmJob, "evaluation_rows", evaluation_rows)
    monkeypatch.setattr(ArmJob, "cost", lambda job, k: {"step": 100 // job.comparison.step_prompts})
    return bench


def test_uniform_is_tuned_first_and_all_arms_inherit(bench: Bench) -> None:
    facts = bench.compare(arms=[{"name": "angle", "strategy": "file-order", "round_steps": 3}], seeds=[0])
    grid = itertools.product((100, 101), (G // 2, G, 2 * G), (2, 4), ("0.0005", "0.001", "0.002"))
    tried = [f"uniform-at-{n}x{group}-lr-{rate} {seed}" for seed, group, n, rate in grid]
    assert bench.trained == [*tried, "uniform 0", "length 0", "angle 0"]
    assert facts["tuned"]["chosen"] == {"learning_rate": 2e-3, "step_prompts": 2, "group": G // 2}
    settings = facts["comparison"]
    assert settings["train"]["learning_rate"] == 2e-3
    assert (settings["step_prompts"], settings["group"]) == (2, G // 2)
    # A round keeps its 8 prompts, and that of the last arm its 12.
    assert (settings["round_steps"], settings["arms"][2]["round_steps"]) == (4, 6)
    best = facts["tuned"]["grid"][2]
    assert best["accuracy_by_seed"] == pytest.approx([(18 / 20 + 10 / 20) / 2, (17 / 20 + 10 / 20) / 2])
    assert best["accuracy"] == pytest.approx(0.6875)
    assert best["steps"] == 50
    assert Run(bench.out / "jobs/uniform/seed-0/run").config.budget == 8


def test_a_tuned_folder_goes_on_with_what_was_chosen(bench: Bench) -> None:
    first = bench.compare()
    assert bench.compare(tune=False) == first
    assert not any("lr" in name for name in bench.trained)
    assert bench.compare(seeds=[5])["tuned"] == first["tuned"]


def test_killed_while_it_tunes_it_goes_on(bench: Bench) -> None:
    bench.killed = True
    with pytest.raises(KeyboardInterrupt):
        bench.compare()
    assert "chosen" not in bench.choice()
    assert not (bench.out / FACTS).exists()
    checkpoint = bench.out / TUNE / f"uniform-at-2x{G}-lr-0.001" / "seed-100" / "a-checkpoint"
    checkpoint.write_text("kept")
    bench.killed = False
    bench.compare(tune=False)  # the folder says it
    assert checkpoint.exists()
    assert bench.choice()["chosen"] == {"learning_rate": 2e-3, "step_prompts": 2, "group": G // 2}


def test_killed_while_trainings_were_prepared_they_are_prepared_again(bench: Bench) -> None:
    half = bench.out / TUNE / f"uniform-at-2x{G}-lr-0.0005" / "seed-100"
    half.mkdir(parents=True)
    (half / "run").write_text("no folder")
    bench.compare()
    assert Run(half / "run").config.strategy == "uniform"


def test_one_setting_is_tried_once_and_ties_go_to_the_first(bench: Bench) -> None:
    table = {"learning_rate": [1, 1.0], "step_prompts": [1, 0.9], "group": [1], "seeds": [7]}
    facts = bench.compare(table=table)
    assert bench.trained[:2] == [f"uniform-at-4x{G}-lr-0.001 7", "uniform 0"]
    assert facts["tuned"]["chosen"] == {"learning_rate": 1e-3, "step_prompts": 4, "group": G}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"table": {"seeds": [1]}}, "tune.seeds"),
        ({"train": {"learning_rate": 1e-2}}, "comparison.train.learning_rate"),
        ({"budget_tokens": 900}, "comparison.budget_tokens"),
    ],
)
def test_other_settings_of_a_tuned_folder_are_refused(bench: Bench, change: dict[str, Any], key: str) -> None:
    bench.compare()
    with pytest.raises(OutputError, match=rf"was tuned with other settings: .*{key}.* differ\."):
        bench.compare(**change)


def test_a_folder_that_was_begun_without_is_refused(bench: Bench) -> None:
    bench.compare(tune=False)
    with pytest.raises(OutputError, match=r"holds a comparison that was begun without --tune; give another"):
        bench.compare()


def test_a_step_that_an_arm_cannot_have_is_refused_before_tuning(bench: Bench) -> None:
    sentence = rf"^\[tune\] step_prompts = 2, group = {G // 2}: the arm 'r': fresh_share 0.2 of 2 groups is 0"
    with pytest.raises(InputError, match=sentence):
        bench.compare(arms=[{"name": "r", "strategy": "uniform", "replay": {"fresh_share": 0.2}}])
    assert bench.trained == []
