"""Other models' pass rates as a prior, against brute force with SciPy's functions and plain Newton steps."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import betaln, expit

import embedded
import gaincurate
import sets
from command import run
from gaincurate.core.rng import Floats
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty import rates
from gaincurate.difficulty.beta import groups_that_differ
from gaincurate.difficulty.rates import Calibrated, calibrate


def world(
    seed: int = 0, prompts: int = 600, noises: tuple[float, ...] = (0.3, 0.6, 1.0), strength: float = 8.0
) -> tuple[Floats, Floats, Floats]:
    """Rates of sources that see the policy's logit with some noise, and the policy's successes of 8."""
    random = np.random.default_rng(seed)
    logits = random.normal(-0.5, 1.5, prompts)
    seen = 1.5 * logits[:, None] + 1 + random.normal(size=(prompts, len(noises))) * noises
    sources = random.binomial(16, 1 / (1 + np.exp(-seen))) / 16
    mean = 1 / (1 + np.exp(-logits))
    wins = random.binomial(8, random.beta(strength * mean, strength * (1 - mean))).astype(np.float64)
    return sources, wins, 8.0 - wins


def calibrated(
    sources: Floats, wins: Floats, losses: Floats, observed: int = 256, **given: Any
) -> Calibrated:
    rows = np.arange(observed)
    return calibrate(sources, rows, wins[rows], losses[rows], **given)


def brute_fit(z: Floats, wins: Floats, losses: Floats, ridge: float) -> tuple[float, list[float]]:
    """The best penalised log likelihood over all subsets of sources whose weights come out above 0."""
    share = 5 / (4 + wins + losses)
    best = (-math.inf, [0.0])
    for size in range(z.shape[1] + 1):
        for subset in itertools.combinations(range(z.shape[1]), size):
            design = np.column_stack([*(z[:, k] for k in subset), np.ones(len(z))])
            penalty = np.array([ridge] * size + [1e-3])
            theta = np.zeros(size + 1)
            for _ in range(60):
                p = expit(design @ theta)
                curvature = share * (wins + losses) * p * (1 - p)
                hessian = np.einsum("r,ri,rj->ij", curvature, design, design) + np.diag(penalty)
                gradient = design.T @ (share * (wins - (wins + losses) * p)) - penalty * theta
                theta = theta + np.linalg.solve(hessian, gradient)
            p = expit(design @ theta)
            value = (share * (wins * np.log(p) + losses * np.log(1 - p))).sum() - penalty @ theta**2 / 2
            if value > best[0] and (theta[:-1] >= 0).all():
                whole = dict(zip(subset, theta[:-1].tolist(), strict=True))
                best = float(value), [*(whole.get(k, 0.0) for k in range(z.shape[1])), float(theta[-1])]
    return best


def beta_binomial(a: Any, b: Any, wins: Any, losses: Any) -> Any:
    return betaln(a + wins, b + losses) - betaln(a, b)


@pytest.mark.parametrize("ridge", [0.3, 30.0])
def test_weights_are_the_best_of_all_subsets_of_sources(ridge: float) -> None:
    sources, wins, losses = world(3, 60)
    random = np.random.default_rng(5)
    z = np.column_stack([sources, random.normal(size=60), -wins + 4 * random.normal(size=60)])
    z = (z - z.mean(0)) / z.std(0)
    losses[:20] = 2.0
    _, reference = brute_fit(z, wins, losses, ridge)
    fitted = rates.fit(z, wins, losses, ridge)
    assert fitted.tolist() == pytest.approx(reference, abs=1e-7)
    assert fitted[4] == 0  # what goes down with the rate gets no weight


def test_ridge_and_strength_are_those_of_the_likeliest_held_out_outcomes() -> None:
    sources, wins, losses = world(1, 120, (1.2, 1.2))
    found = calibrated(sources, wins, losses, 120, rollouts=np.array([16.0, 16.0]))
    logits = np.log((16 * sources + 0.5) / (16.5 - 16 * sources))
    z = (logits - logits.mean(0)) / logits.std(0)

    def held_out(z: Floats) -> tuple[float, float, float]:
        tried = []
        for ridge in (0.3, 3.0, 30.0, 300.0):
            expected = np.empty(120)
            for fold in range(5):
                train = np.arange(120) % 5 != fold
                _, theta = brute_fit(z[train], wins[train], losses[train], ridge)
                expected[~train] = expit(z[~train] @ theta[:-1] + theta[-1])
            for half_octaves in range(19):
                s = 0.25 * math.sqrt(2) ** half_octaves
                each = beta_binomial(s * expected, s * (1 - expected), wins, losses)
                tried.append((each.sum(), ridge, s))
        return max(tried)

    likelihood, ridge, strength = held_out(z)
    assert likelihood > held_out(z[:, :1])[0] + 1  # so both sources stay
    assert likelihood > held_out(z[:, 1:])[0] + 1
    _, theta = brute_fit(z, wins, losses, ridge)
    assert found.strength == pytest.approx(strength)
    assert found.weights.tolist() == pytest.approx(theta[:-1], abs=1e-7)
    assert found.expected == pytest.approx(expit(z @ theta[:-1] + theta[-1]), abs=1e-7)


def test_the_expected_rates_and_the_strength_are_those_of_the_world() -> None:
    sources, wins, losses = world(2, 20_000, (0.1,), strength=8.0)
    found = calibrated(sources, wins, losses, 2048)
    unseen = slice(2048, None)
    for low in np.arange(0, 1, 0.1):
        bin_ = (found.expected[unseen] >= low) & (found.expected[unseen] < low + 0.1)
        if bin_.sum() > 300:
            came = wins[unseen][bin_].sum() / (8 * bin_.sum())
            assert came == pytest.approx(found.expected[unseen][bin_].mean(), abs=0.03)
    assert 5 < found.strength < 12  # the source's own noise takes from the 8
    m, likelihoods = found.expected[unseen], []
    for s in (found.strength / 2, found.strength, found.strength * 2):
        likelihoods.append(beta_binomial(s * m, s * (1 - m), wins[unseen], losses[unseen]).sum())
    assert max(likelihoods) == likelihoods[1]


def test_an_order_of_sources_only_orders_the_weights() -> None:
    sources, wins, losses = world()
    order = [2, 0, 1]
    found, other = calibrated(sources, wins, losses), calibrated(sources[:, order], wins, losses)
    assert other.weights == pytest.approx(found.weights[order], abs=1e-8)
    assert other.expected == pytest.approx(found.expected, abs=1e-8)
    assert other.strength == found.strength


def test_a_column_of_noise_gets_no_weight() -> None:
    sources, wins, losses = world()
    random = np.random.default_rng(7)
    noisy = np.column_stack([sources, random.random((600, 2)), 1 - sources[:, 0], np.full(600, 0.5)])
    found = calibrated(noisy, wins, losses)
    assert found.weights[:3].min() > 0.3
    assert found.weights[3:].tolist() == [0, 0, 0, 0]
    alone = calibrated(noisy[:, 3:], wins, losses)
    assert (alone.strength, alone.weights.tolist()) == (0, [0, 0, 0, 0])
    overall = wins[:256].sum() / (8 * 256)
    assert alone.expected == pytest.approx(np.full(600, overall), abs=1e-3)


def test_a_prompt_that_every_source_solves_more_often_is_expected_to_be_easier() -> None:
    sources, wins, losses = world()
    found = calibrated(sources, wins, losses).expected
    above = (sources[:, None] >= sources[None]).all(2)
    assert (found[:, None] - found[None])[above].min() >= -1e-12


def test_missing_rates_are_filled_from_the_other_sources() -> None:
    sources, wins, losses = world(4, 2000)
    whole = calibrated(sources, wins, losses, 512)
    gaps = sources.copy()
    gaps[np.random.default_rng(1).random(gaps.shape) < 0.3] = np.nan
    gaps[:10] = np.nan
    found = calibrated(gaps, wins, losses, 512)
    nowhere = np.isnan(gaps).all(1)
    assert np.array_equal(np.isnan(found.expected), nowhere)
    error = np.abs(found.expected - whole.expected)[~nowhere]
    assert error.mean() < 0.06
    # A source that tells nothing does not stand in for the one that is missing.
    random = np.random.default_rng(2).random(2000)
    half = np.where(np.arange(2000) % 2, sources[:, 0], np.nan)
    found = calibrated(np.column_stack([half, random]), wins, losses, 512)
    assert found.weights[1] == 0
    assert found.expected[::2].std() < 0.02 < 0.2 < found.expected[1::2].std()


@pytest.mark.parametrize("observed", [0, 15])
def test_with_few_outcomes_it_is_the_mean_of_the_logits(observed: int) -> None:
    sources, wins, losses = world()
    found = calibrated(sources, wins, losses, observed)
    odds = np.log((16 * sources + 0.5) / (16.5 - 16 * sources)).mean(1)
    assert found.expected == pytest.approx(expit(odds))
    assert (found.strength, found.weights.tolist()) == (1.0, [1 / 3] * 3)
    assert calibrated(sources, wins, losses, rates.FEWEST).weights.tolist() != [1 / 3] * 3


def test_of_many_observed_prompts_evenly_spaced_ones_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST", 64)
    sources, wins, losses = world()
    some = np.linspace(0, 255, 64).round().astype(np.int64)
    expected = calibrate(sources, some, wins[some], losses[some]).expected
    assert calibrated(sources, wins, losses).expected.tolist() == expected.tolist()


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path]:
    """A set without embeddings with two sources and a column of counts, and outcomes of 300 of its rows."""
    sources, _, losses = world(3, 800, (0.3,))
    names = embedded.names(800)
    folder = sets.make_set(tmp_path / "set", [[sets.scored_row(name) for name in names]])
    opened = ScoredSet(folder)
    some = np.where(np.arange(800) % 50 == 7, np.nan, sources[:, 0])
    opened.add_column("gc_other", names, pa.array(some, from_pandas=True), {})
    opened.add_column("gc_noise", names, pa.array(np.random.default_rng(4).random(800)), {})
    opened.add_column("gc_counts", names, pa.array((16 * sources[:, 0]).astype(int)), {})
    opened.add_column("gc_text", names, pa.array(["a"] * 800), {})
    return folder, embedded.write_rates(tmp_path / "observed.parquet", np.arange(300), losses)


def test_the_command_writes_failure_rates_and_buckets_and_prints_the_weights(
    scored: tuple[Path, Path],
) -> None:
    folder, observed = scored
    result = run("difficulty", "predict", folder, "--outcomes", observed, "--rates", "gc_other,gc_noise")
    assert result.exit_code == 0, result.stderr
    opened = gaincurate.open_scores(folder)
    how = opened.computed_columns()["gc_difficulty"]["how"]
    assert (how["method"], how["references"], how["observed"]) == ("rates", 256, 300)
    assert how["weights"]["gc_other"] > 0.5
    assert how["weights"]["gc_noise"] == 0
    assert f"the rates count for {how['strength']:.3g} rollouts of each prompt" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    printed = dict(line for line in lines if line and line[0] in how["weights"])
    assert printed == {"gc_other": f"{how['weights']['gc_other']:.2f}", "gc_noise": "0.00"}
    difficulty = opened.column("gc_difficulty").to_numpy()
    sources, wins, losses = world(3, 800, (0.3,))
    assert difficulty[:300] == pytest.approx(losses[:300] / 8)
    assert np.corrcoef(difficulty[300:], losses[300:])[0, 1] > 0.7
    buckets = np.array(opened.column("gc_bucket").to_pylist())
    assert buckets[300:].tolist() == rates.buckets(1.0 - difficulty[300:], how["strength"])
    assert set(buckets[:300][wins[:300] == 4]) == {"live"}
    rated = np.where(np.arange(300) % 50 == 7, np.nan, sources[:300, 0])
    assert set(buckets[:300][(wins[:300] == 8) & (rated == 1)]) == {"easy"}
    assert set(buckets[:300][(wins[:300] == 0) & (rated == 0)]) <= {"hard", "dead"}
    # Rows without any rate get the mean of what was observed.
    assert run("difficulty", "predict", folder, "--outcomes", observed, "--rates", "gc_other").exit_code == 0
    missing = gaincurate.open_scores(folder).column("gc_difficulty").to_numpy()[307::50]
    assert len(set(missing.tolist())) == 1
    by_group = ("--method", "group-mean", "--group-column", "gc_text")
    assert run("difficulty", "predict", folder, "--outcomes", observed, *by_group).exit_code == 0
    assert gaincurate.open_scores(folder).column("gc_bucket").null_count == 800  # the old ones are gone


def test_buckets_have_the_cut_points_of_the_docs() -> None:
    expected = np.array([0.5, 0.1, 0.04, 0.001, 0.97, 0.9999])
    chances = groups_that_differ(1e6 * expected, 1e6 * (1 - expected), 8)
    assert np.round(chances, 2).tolist() == [0.99, 0.57, 0.28, 0.01, 0.22, 0.0]
    assert rates.buckets(expected, 1e6) == ["live", "live", "hard", "dead", "easy", "easy"]


def test_what_is_no_pass_rate_is_refused(scored: tuple[Path, Path]) -> None:
    folder, observed = scored
    counts = "--rates gc_counts: id00000 has 16, and a pass rate is from 0 to 1. If the column counts successes, divide by the number of rollouts."
    for sentence, *options in (
        (counts, "gc_other,gc_counts"),
        ("--rates gc_text: the column has type string, not numbers.", "gc_text"),
        ("has no column 'nothing'", "nothing"),
        ("give one of --method and --rates.", "gc_other", "--method", "gp"),
        ("--target variance does not go with --rates, which", "gc_other", "--target", "variance"),
    ):
        result = run("difficulty", "predict", folder, "--outcomes", observed, "--rates", *options)
        assert result.exit_code == 2
        assert sentence in " ".join(result.stderr.split())
    assert "gc_difficulty" not in gaincurate.open_scores(folder).computed_columns()
