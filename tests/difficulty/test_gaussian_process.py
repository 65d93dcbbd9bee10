"""The Gaussian process: densities and posteriors against float64 formulas, the noise, and where it could break."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

import embedded
import gaincurate
from gaincurate.core.rng import Floats
from gaincurate.core.stats import pearson
from gaincurate.difficulty.embeddings import DIRECTIONS, evenly_spaced, whitening
from gaincurate.difficulty.methods import (
    TRIED,
    ByGaussianProcess,
    Evidence,
    Seen,
    Sizes,
    choose_sizes,
    log_likelihood,
    posterior,
)
from gaincurate.difficulty.metrics import Target, observation_noise, pass_variance
from gaincurate.difficulty.pass_rates import PassRates, read_pass_rates
from gaincurate.difficulty.predict import make, predict

SIZES = Sizes(embedding=0.03, signals=0.05, both=0.02, own=0.007, length=1.3)


def evidence(count: int, seed: int = 0, directions: int = 4, signals: int = 3) -> Evidence:
    """References whose rates go by one direction and by one signal."""
    random = np.random.default_rng(seed)
    units = random.normal(size=(count, directions))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    x = random.normal(size=(count, signals))
    values = np.clip(0.5 + 0.3 * units[:, 0] + 0.2 * np.tanh(x[:, 0]), 0, 1)
    return Evidence(units, x, values, random.uniform(0.001, 0.03, count))


def kernel(a: Evidence, i: int, b: Evidence, j: int, sizes: Sizes) -> float:
    """The prior covariance of two rates, from its definition."""
    cosine = sum(p * q for p, q in zip(a.units[i], b.units[j], strict=True))
    distance = sum((p - q) ** 2 for p, q in zip(a.signals[i], b.signals[j], strict=True))
    near = math.exp(-distance / (2 * sizes.length**2))
    return float(0.25 + sizes.embedding * cosine + sizes.signals * near + sizes.both * near * cosine)


def prior(known: Evidence, sizes: Sizes) -> Floats:
    """The covariance of what was observed."""
    count = range(len(known.values))
    noise = np.diag(known.noise + sizes.own)
    return np.array([[kernel(known, i, known, j, sizes) for j in count] for i in count]) + noise


def test_its_likelihood_is_a_multivariate_normals_density() -> None:
    known = evidence(12)
    expected = stats.multivariate_normal(np.full(12, 0.5), prior(known, SIZES)).logpdf(known.values)
    assert log_likelihood(known, SIZES) == pytest.approx(expected, abs=1e-9)


def conditioned(known: Evidence, asked: Evidence, sizes: Sizes) -> Floats:
    """The mean of a joint normal distribution given a part of it, by elimination, one reference at a time."""
    both = len(known.values) + len(asked.values)
    joint = Evidence(*(np.concatenate(pair) for pair in zip(known, asked, strict=True)))
    c, mean = prior(joint, sizes), np.full(both, 0.5)
    for i, value in enumerate(known.values):
        gain = c[:, i] / c[i, i]
        mean, c = mean + gain * (value - mean[i]), c - np.outer(gain, c[i])
        c[i, i] = 1.0  # it is known from here on and takes no part
    return mean[len(known.values) :]


def test_its_means_are_those_of_a_normal_distribution_given_the_references() -> None:
    known, asked = evidence(15), evidence(7, seed=1)
    mean, _ = posterior(known, SIZES)
    expected = conditioned(known, asked, SIZES)
    np.testing.assert_allclose(mean(asked.units, asked.signals), expected, atol=1e-10)


def test_leaving_one_out_is_a_fit_on_the_others() -> None:
    known = evidence(10)
    expected = []
    for i in range(10):
        others = Evidence(*(np.delete(part, i, axis=0) for part in known))
        expected.append(posterior(others, SIZES)[0](known.units[[i]], known.signals[[i]])[0])
    np.testing.assert_allclose(posterior(known, SIZES)[1], expected, atol=1e-10)


def test_the_sizes_are_a_maximum_of_the_likelihood_over_what_is_tried() -> None:
    known = evidence(80)
    sizes = choose_sizes(known)
    best = log_likelihood(known, sizes)
    for name, values in TRIED.items():
        for value in values:
            assert log_likelihood(known, replace(sizes, **{name: value})) <= best + 1e-5
    assert best > log_likelihood(known, Sizes()) + 5


def test_a_part_that_tells_nothing_is_left_out() -> None:
    random = np.random.default_rng(3)
    known = evidence(200)
    by_signal = known._replace(values=np.clip(0.5 + 0.3 * np.tanh(known.signals[:, 0]), 0, 1))
    noisy = by_signal._replace(values=by_signal.values + random.normal(size=200) * np.sqrt(known.noise))
    sizes = choose_sizes(noisy)
    assert sizes.signals > 0.01 > sizes.embedding + sizes.both


@given(some.permutations(range(20)))
def test_the_order_of_references_says_nothing(order: list[int]) -> None:
    known, asked = evidence(20), evidence(5, seed=2)
    turned = Evidence(*(part[order] for part in known))
    assert choose_sizes(turned) == choose_sizes(known)
    first, other = (posterior(each, SIZES)[0](asked.units, asked.signals) for each in (turned, known))
    np.testing.assert_allclose(first, other, atol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_references_that_are_all_alike_make_everything_alike(rate: float) -> None:
    known = evidence(60)
    noise = observation_noise(np.full(60, 8 * (1 - rate)), np.full(60, 8 * rate))
    known = known._replace(values=np.full(60, rate), noise=noise)
    asked, (mean, alone) = evidence(30, seed=5), posterior(known, choose_sizes(known))
    assert np.abs(mean(asked.units, asked.signals) - rate).max() < 0.02
    assert np.abs(alone - rate).max() < 0.02


@pytest.mark.parametrize("rollouts", [2, 3, 8, 16])
def test_the_noise_is_the_variance_of_what_is_observed(rollouts: int) -> None:
    """Against sums over all outcomes, for a Beta distribution of p with whole parameters."""
    a, b, k = 3, 2, np.arange(rollouts + 1.0)[:, None]
    p = (np.arange(400) + 0.5) / 400  # the integrals are of polynomials
    density = p ** (a - 1) * (1 - p) ** (b - 1)
    chances = stats.binom.pmf(k, rollouts, p)  # [outcomes, p]
    random = np.random.default_rng(0)
    wins = random.binomial(rollouts, random.beta(a, b, 200_000)).astype(float)
    targets: dict[Target, tuple[Floats, Floats]] = {
        "difficulty": (k / rollouts, p),
        "variance": (k * (rollouts - k) / (rollouts * (rollouts - 1)), p * (1 - p)),
    }
    for name, (observed, truth) in targets.items():
        expected = (density * chances * (observed - truth) ** 2).sum() / density.sum()
        noise = observation_noise(wins, rollouts - wins, name)
        assert np.ptp(noise) == 0
        assert noise[0] == pytest.approx(expected, rel=0.03)  # a and b are estimated from the draws


def test_the_noise_has_bounds_where_nothing_tells_it() -> None:
    for wins, losses in ((np.zeros(50), np.full(50, 8.0)), (np.ones(3), np.zeros(3)), (np.full(9, 4.0),) * 2):
        noise = observation_noise(wins, losses)
        assert (noise > 0).all()
        assert (noise <= 0.25 / (wins + losses)).all()
    assert observation_noise(np.array([0.0]), np.array([1.0])).shape == (1,)
    several = observation_noise(np.array([1.0, 2.0]), np.array([1.0, 6.0]), "variance")
    assert (several > 0).all()


def signalled(folder: Path, rows: int = 240) -> tuple[Path, Path, Floats]:
    """A set whose failure rates go by length alone, in one of four directions of the embedding."""
    random = np.random.default_rng(0)
    kind = np.arange(rows) % 4
    embeddings = 4 * np.eye(8)[kind] + 0.5 * random.normal(size=(rows, 8))
    tokens = random.integers(3, 200, rows)
    truth = np.where(kind == 0, 0.15 * np.log1p(tokens), 0.4)
    losses = random.binomial(8, np.clip(truth, 0, 1)).astype(float)
    scored = embedded.make_set(folder / "set", embeddings, tokens=tokens)
    return scored, embedded.write_rates(folder / "o.parquet", range(rows // 2), losses), truth


def test_signals_of_the_set_are_read_and_give_what_embeddings_do_not(tmp_path: Path) -> None:
    scored, observed, truth = signalled(tmp_path)
    opened, (rates,) = gaincurate.open_scores(scored), read_pass_rates(observed)
    by_length = np.arange(120, 240, 4)  # of the one direction in which length matters
    prediction = predict(opened, rates, "gp")
    assert prediction.how["signals"] == ["gc_question_tokens"]  # the angle is the same in every row
    assert set(prediction.how["sizes"]) == {"embedding", "signals", "both", "own", "length"}
    assert (pearson(prediction.values[by_length], truth[by_length]) or 0.0) > 0.5


def test_predictions_are_the_same_bytes_and_do_not_depend_on_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, observed, _ = signalled(tmp_path)
    opened, (rates,) = gaincurate.open_scores(scored), read_pass_rates(observed)
    first, again = (predict(opened, rates, "gp", references=60, seed=3) for _ in range(2))
    assert first.values.tobytes() == again.values.tobytes()
    assert (first.on_halves, first.how) == (again.on_halves, again.how)
    monkeypatch.setattr("gaincurate.difficulty.predict.BLOCK", 7)
    blocks = predict(opened, rates, "gp", references=60, seed=3)
    np.testing.assert_allclose(blocks.values, first.values, atol=1e-6)


def test_a_row_without_a_signal_counts_as_usual_in_it(tmp_path: Path) -> None:
    scored, _, _ = signalled(tmp_path)
    opened = gaincurate.open_scores(scored)
    method = ByGaussianProcess(opened, "difficulty")
    table = next(iter(opened.tables(method.columns)))
    place = table.column_names.index("gc_question_tokens")
    nothing = pa.nulls(len(table), pa.int32())
    read = method.read(table.set_column(place, "gc_question_tokens", nothing))
    assert np.isfinite(read).all()
    assert (read[:, -1] == 0).all()
    assert (method.read(table)[:, :-1] == read[:, :-1]).all()
    seen = Seen(np.linspace(0, 1, len(read)), np.full(len(read), 0.02), np.ones(len(read)))
    assert np.isfinite(method.fit(read, seen).predict(read)).all()


def test_a_set_of_one_prompt_again_and_again_gets_one_rate(tmp_path: Path) -> None:
    scored = embedded.make_set(tmp_path / "set", np.ones((30, 8)))
    losses = np.array([4.0, 6.0] * 15)
    (rates,) = read_pass_rates(embedded.write_rates(tmp_path / "o.parquet", range(20), losses))
    values = predict(gaincurate.open_scores(scored), rates, "gp").values[20:]
    assert np.ptp(values) < 1e-9
    assert values[0] == pytest.approx(5 / 8, abs=0.01)


def test_of_the_variance_it_predicts_up_to_a_quarter(tmp_path: Path) -> None:
    scored, _, _ = signalled(tmp_path)
    opened = gaincurate.open_scores(scored)
    wins = np.arange(60.0) % 9
    values = pass_variance(wins, 8 - wins)
    fitted = make("gp", opened, PassRates("p", embedded.names(60), wins, 8 - wins), target="variance")
    predicted = np.concatenate([fitted.rows(table) for table in opened.tables()])
    assert 0 <= predicted.min() <= predicted.max() <= 0.25
    assert predicted.mean() == pytest.approx(values.mean(), abs=0.02)


def test_a_half_is_predicted_by_a_fit_that_never_saw_it(tmp_path: Path) -> None:
    scored, _, _ = signalled(tmp_path)
    opened = gaincurate.open_scores(scored)
    values = np.random.default_rng(1).integers(0, 9, 41) / 8
    rates = PassRates("p", embedded.names(41), 1 - values, values, counted=False)
    fitted = make("gp", opened, rates)
    halves = fitted.halves(seed=2)
    assert len(halves) == 10
    for place in range(0, 10, 2):
        rows = np.concatenate([halves[place][0], halves[place + 1][0]])
        assert sorted(rows.tolist()) == list(range(41))
    asked, predicted = halves[3]
    alone = make("gp", opened, rates.at(np.setdiff1d(np.arange(41), asked)))
    np.testing.assert_allclose(predicted, alone.rows(opened.take(asked)), atol=1e-12)
    assert make("gp", opened, rates.at(np.arange(5))).halves(0) == []


def test_directions_that_are_not_there_are_not_made_up() -> None:
    flat = np.outer(np.arange(10), [1, 2, 3]).astype(np.float32)
    space = whitening(flat)
    assert space.directions.shape == (3, 1)
    same = whitening(np.ones((5, 3), np.float32))
    assert same.directions.shape == (3, 0)
    assert np.isfinite(same(np.ones((2, 3), np.float32))).all()


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("rows", "width"), [(400, 30), (60, 300)])  # more rows than width, and fewer
def test_cosines_are_those_of_an_svd(rows: int, width: int, exponent: float) -> None:
    random = np.random.default_rng(0)
    sample = (random.normal(size=(rows, width)) * random.uniform(0.1, 9, width)).astype(np.float32)
    space = whitening(sample, exponent=exponent)
    u, spread, _ = np.linalg.svd(sample - sample.mean(0, dtype=np.float64), full_matrices=False)
    keep = np.flatnonzero(spread > spread[0] * 1e-6)[:DIRECTIONS]
    scaled = u[:, keep] * spread[keep] ** (1 - exponent)
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    exact, single = space(sample.astype(np.float64)), space(sample)
    np.testing.assert_allclose(exact @ exact.T, scaled @ scaled.T, atol=1e-9)
    np.testing.assert_allclose(single @ single.T, scaled @ scaled.T, atol=1e-4)
    assert exact.dtype == np.dtype(np.float64)
    assert single.dtype == np.dtype(np.float32)


@pytest.mark.parametrize(("rows", "most"), [(1, 5), (5, 5), (6, 5), (10_007, 1024)])
def test_evenly_spaced_places_are_distinct_and_reach_both_ends(rows: int, most: int) -> None:
    places = evenly_spaced(rows, most)
    assert len(places) == min(rows, most)
    assert (places[0], places[-1]) == (0, rows - 1)
    assert len(set(np.diff(places).tolist())) <= 2
