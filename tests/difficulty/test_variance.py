"""Predicting p (1 - p) itself: what is observed of it, every predictor, and what the detour over d gets wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedded
import gaincurate
from command import run
from gaincurate.core.rng import Floats
from gaincurate.core.stats import pearson
from gaincurate.difficulty.metrics import observation_noise, pass_variance, quality, variance_ceiling
from gaincurate.difficulty.pass_rates import PassRates, read_pass_rates
from gaincurate.difficulty.predict import make, predict

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("rollouts", [2, 3, 8])
def test_what_is_observed_of_the_variance_has_no_bias(rollouts: int) -> None:
    for p in (0.0, 0.1, 0.5, 0.8):
        wins = np.arange(rollouts + 1.0)
        chance = np.array([math.comb(rollouts, int(k)) * p**k * (1 - p) ** (rollouts - k) for k in wins])
        assert chance @ pass_variance(wins, rollouts - wins) == pytest.approx(p * (1 - p), abs=1e-15)
    assert np.isnan(pass_variance(np.ones(1), np.zeros(1))).all()


@pytest.mark.parametrize("rollouts", [4, 8, 32])
def test_its_ceiling_is_what_the_truth_itself_reaches(rollouts: int) -> None:
    random = np.random.default_rng(0)
    truth = random.beta(0.7, 0.7, 60_000)
    losses = random.binomial(rollouts, truth).astype(float)
    reached = pearson(truth * (1 - truth), pass_variance(rollouts - losses, losses))
    assert variance_ceiling(rollouts - losses, losses) == pytest.approx(reached, abs=0.015)


def test_without_four_whole_rollouts_it_has_none() -> None:
    assert variance_ceiling(np.array([1.0, 2, 3]), np.array([2.0, 1, 0])) is None
    assert variance_ceiling(np.array([1.5, 2, 3]), np.array([6.5, 6, 5])) is None
    assert variance_ceiling(np.full(5, 2.0), np.full(5, 6.0)) is None
    assert variance_ceiling(np.array([0.0, 4, 8]), np.array([8.0, 4, 0])) is not None


def test_quality_leaves_single_rollouts_out() -> None:
    wins, losses = np.array([4.0, 0, 2, 1, 1]), np.array([4.0, 8, 6, 0, 1])
    predicted = np.array([0.24, 0.01, 0.2, 0.9, 0.1])
    found = quality(predicted, wins, losses, target="variance", intervals=False)
    observed = np.array([16, 0, 12, 28]) / 56
    assert found.count == 4
    assert found.brier.value == pytest.approx(np.mean((predicted[[0, 1, 2, 4]] - observed) ** 2))
    assert found.pearson.value == pytest.approx(np.corrcoef(predicted[[0, 1, 2, 4]], observed)[0, 1])
    assert [round(b.low, 2) for b in found.reliability] == [0.0, 0.1, 0.2]


def two_kinds(folder: Path) -> tuple[Path, Path, Floats]:
    """A kind of prompts that fails always or never, and one that fails half the time."""
    random, kind = np.random.default_rng(0), np.arange(120) % 2
    embeddings = np.outer(np.where(kind == 0, 4.0, -4.0), np.eye(8)[0]) + 0.3 * random.normal(size=(120, 8))
    truth = np.where(kind == 0, np.arange(120) // 2 % 2, 0.5)
    losses = random.binomial(8, truth).astype(float)
    scored = embedded.make_set(folder / "set", embeddings)
    return scored, embedded.write_rates(folder / "observed.parquet", range(80), losses), losses


def test_bimodal_tasks_look_mid_difficulty_and_have_no_variance(tmp_path: Path) -> None:
    scored, observed, _ = two_kinds(tmp_path)
    for target in ("difficulty", "variance"):
        result = run("difficulty", "predict", scored, "--outcomes", observed, "--target", target)
        assert result.exit_code == 0, result.stderr
    opened = gaincurate.open_scores(scored)
    d, v = (opened.column(f"gc_{name}").to_numpy()[80:] for name in ("difficulty", "variance"))
    assert np.abs(d[::2] - 0.5).mean() < 0.1  # the bimodal kind, which teaches nothing
    assert v[::2].mean() < 0.05 < 0.2 < v[1::2].mean()
    how = opened.computed_columns()["gc_variance"]["how"]
    assert how["meaning"].startswith("p (1 - p)")
    assert "gc_variance written, p (1 - p) of 120 rows; 80 as observed" in result.stdout


def test_observed_values_are_kept_and_group_means_are_of_the_variances(tmp_path: Path) -> None:
    scored, observed, losses = two_kinds(tmp_path)
    opened, (rates,) = gaincurate.open_scores(scored), read_pass_rates(observed)
    found = predict(opened, rates, "group-mean", group_column="question", target="variance")
    v = losses * (8 - losses) / 56
    np.testing.assert_allclose(found.values[:80], v[:80])
    for i in range(80, 90):
        assert found.values[i] == pytest.approx(v[:80][np.arange(80) % 5 == i % 5].mean())


def test_a_folder_of_ones_own_leaves_the_set_as_it_was(tmp_path: Path) -> None:
    scored, observed, losses = two_kinds(tmp_path)
    asked = ("difficulty", "predict", scored, "--outcomes", observed, "--method", "gp")
    assert run(*asked, "--out", tmp_path / "own", "--target", "variance").exit_code == 0
    assert not (scored / "columns").exists()
    how = json.loads((tmp_path / "own/gc_variance.json").read_text())["how"]
    assert (how["on_references"]["count"], how["on_others"]) == (80, None)
    with pa.OSFile(str(tmp_path / "own/gc_variance.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.column("gc_id").to_pylist() == embedded.names(120)
    values = table.column("value").to_numpy()[:80]
    np.testing.assert_allclose(values, (losses * (8 - losses) / 56)[:80], atol=1e-7)


def test_rates_of_unknown_numbers_of_rollouts_tell_nothing_of_it(tmp_path: Path) -> None:
    scored, _, losses = two_kinds(tmp_path)
    unknown = pa.table({"gc_id": embedded.names(80), "pass_rate": 1 - losses[:80] / 8})
    pq.write_table(unknown, tmp_path / "r.parquet")
    singles = embedded.write_rates(tmp_path / "s.parquet", range(5), np.array([1.0, 0, 1, 0, 1]), rollouts=1)
    for observed, said in (
        (tmp_path / "r.parquet", "r.parquet: p (1 - p) cannot be computed from rates of unknown numbers of rollouts"),
        (singles, "0 observed prompts are too few to predict from"),
    ):  # fmt: skip
        result = run("difficulty", "predict", scored, "--outcomes", observed, "--target", "variance")
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {said}")


def test_the_references_say_which_aim_is_better(tmp_path: Path) -> None:
    """Prompts whose mean failure rate is .5 and which teach nothing mislead one aim, and not the other."""
    scored, file, losses = two_kinds(tmp_path)
    result = run("difficulty", "predict", scored, "--outcomes", file, "--target", "auto")
    assert result.exit_code == 0, result.stderr
    assert "gc_variance written" in result.stdout
    assert "of the best quarter of references that were not seen" in result.stdout
    opened, (rates,) = gaincurate.open_scores(scored), read_pass_rates(file)
    found = predict(opened, rates, "group-mean", group_column="question", target="auto", references=60)
    names, v = found.references, losses * (8 - losses) / 56
    rows = np.array([int(name[2:]) for name in names])
    carried: dict[str, list[float]] = {"difficulty": [], "variance": []}
    for name, observed in (("difficulty", losses / 8), ("variance", v)):
        values = PassRates("p", names, 1 - observed[rows], observed[rows], counted=False)
        fitted = make("group-mean", opened, values, group_column="question")
        for half, predicted in fitted.halves(0):
            worth = predicted if name == "variance" else -np.abs(predicted - 0.5)
            # Five groups are five values: the ten prompts of a quarter may be cut out of one of them.
            cut = np.sort(worth)[::-1][len(half) // 4 - 1]
            above, tied = v[rows[half[worth > cut + 1e-9]]], v[rows[half[np.abs(worth - cut) < 1e-9]]]
            missing = len(half) // 4 - len(above)
            low, high = np.sort(tied)[:missing].sum(), np.sort(tied)[::-1][:missing].sum()
            carried[name].append((above.sum() + np.array([low, high])) / (len(half) // 4))
    for name, bounds in carried.items():
        low, high = np.mean(bounds, axis=0)
        assert low - 1e-9 <= found.how["aims"][name] <= high + 1e-9
    better = "variance" if found.how["aims"]["variance"] > found.how["aims"]["difficulty"] else "difficulty"
    assert found.target == better


def test_where_references_cannot_say_it_the_aim_is_the_papers(tmp_path: Path) -> None:
    scored, _, losses = two_kinds(tmp_path)
    opened = gaincurate.open_scores(scored)
    names = embedded.names(80)
    tables = {
        "uncounted": {"gc_id": names, "pass_rate": 1 - losses[:80] / 8},
        "partial": {"gc_id": names, "wins": 7.92 - losses[:80] * 0.99, "losses": 0.08 + losses[:80] * 0.99},
        "single": {"gc_id": names, "wins": (losses[:80] > 4) * 1.0, "losses": (losses[:80] <= 4) * 1.0},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        (rates,) = read_pass_rates(tmp_path / f"{name}.parquet")
        found = predict(opened, rates, "gp", target="auto")
        assert (found.target, "aims" in found.how) == ("difficulty", False)


def test_rollouts_so_many_and_alike_that_their_mean_is_rounded_to_one_have_a_noise() -> None:
    wins = np.full(100, 1e14)
    assert np.isfinite(observation_noise(wins, np.zeros(100))).all()
