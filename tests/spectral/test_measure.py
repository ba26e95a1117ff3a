"""Spectral measures: quadrature exactness, brackets, bands, refusals, storage."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curvlab.core.errors import OperatorError
from curvlab.spectral import Dense, Diagonal, SpectralMeasure, slq
from curvlab.spectral.brackets import extremal_sums
from curvlab.spectral.lanczos import lanczos
from tests.spectra import SEEDS, rotated, spectra

KEY = jax.random.key(3)


def true_cdf(eigenvalues, points):
    return np.searchsorted(np.sort(eigenvalues), points, side="right") / len(eigenvalues)


def measure_of_start(eigenvalues, order, start):
    """Return the measure of one start vector on a diagonal operator and its exact CDF."""
    measure = slq(Diagonal(eigenvalues), KEY, order=order, start=start, noise_floor=0.0)
    shares = start**2 / (start**2).sum()

    def cdf(points):
        return np.array([shares[eigenvalues <= x].sum() for x in points])

    return measure, cdf


@given(spectra(), st.integers(1, 5))
def test_moments_up_to_twice_the_order_are_those_of_the_start_vector(eigenvalues, order):
    start = np.random.default_rng(1).normal(size=len(eigenvalues))
    measure, _ = measure_of_start(eigenvalues, order, start)
    shares = start**2 / (start**2).sum()
    for k in range(2 * order):
        exact = (shares * eigenvalues**k).sum()
        size = np.abs(eigenvalues).max() ** k or 1.0
        assert measure.moment(k).value == pytest.approx(exact, abs=1e-11 * size)
    assert (measure.weights >= 0).all()
    np.testing.assert_allclose(measure.weights.sum(1), 1, atol=1e-12)


@given(
    spectra(dims=(24,)), st.integers(2, 8), st.lists(st.floats(-1.1, 1.1), min_size=1, max_size=9)
)
def test_brackets_hold_the_measure_of_the_start_vector(eigenvalues, order, where):
    start = np.random.default_rng(2).normal(size=24)
    measure, cdf = measure_of_start(eigenvalues, order, start)
    points = np.array(where) * np.abs(eigenvalues).max()
    # Ties between a point and an eigenvalue are decided by rounding; stay off them.
    gap = np.abs(points[:, None] - eigenvalues).min(1)
    points = points[gap > 1e-9 * np.abs(eigenvalues).max()]
    low, high = measure.bracket(points)
    truth = cdf(points)
    assert (low <= truth + 1e-9).all()
    assert (truth <= high + 1e-9).all()


@given(spectra(dims=(24,)), st.integers(2, 8))
def test_brackets_are_never_wider_than_the_gauss_weights_allow(eigenvalues, order):
    start = np.random.default_rng(3).normal(size=24)
    measure, _ = measure_of_start(eigenvalues, order, start)
    if measure.exact.any():
        return
    nodes, weights = measure.nodes[0], measure.weights[0]
    points = (nodes[:-1] + nodes[1:]) / 2
    cumulative = np.concatenate([[0], np.cumsum(weights)])
    j = np.arange(1, len(nodes))
    low, high = measure.bracket(points)
    assert (low >= cumulative[j - 1] - 1e-8).all()
    assert (high <= cumulative[j + 1] + 1e-8).all()


@pytest.mark.parametrize("eigenvalues", [np.ones(24), np.repeat([-1.0, 2.0], [6, 18])])
def test_exhausted_krylov_space_gives_the_exact_measure(eigenvalues):
    measure = slq(rotated(eigenvalues), KEY, order=8, vectors=2)
    assert measure.exact.all()
    low, high = measure.bracket(np.array([0.0]))
    assert high - low == pytest.approx(0, abs=1e-11)
    assert np.isfinite(measure.cdf_band(np.linspace(-2, 3, 20)).high).all()


@given(spectra(dims=(24,)), SEEDS)
def test_band_contains_the_intervals_of_its_points_and_is_monotone(eigenvalues, seed):
    measure = slq(rotated(eigenvalues, seed), KEY, order=6, vectors=2)
    grid = np.linspace(*measure.support, 9)
    band = measure.cdf_band(grid)
    assert (np.diff(band.low) >= 0).all()
    assert (np.diff(band.high) >= 0).all()
    assert ((band.low <= band.value) & (band.value <= band.high)).all()
    for i in (2, 4, 6):
        point = measure.cdf(float(grid[i]))
        assert band.low[i] <= point.low + 1e-12
        assert point.high <= band.high[i] + 1e-12


@given(spectra(dims=(24,)), SEEDS, st.floats(0.1, 10), st.floats(-3, 3))
def test_affine_maps_of_the_matrix_move_the_nodes_only(eigenvalues, seed, factor, shift):
    values = eigenvalues / np.abs(eigenvalues).max()
    one = slq(rotated(values, seed), KEY, order=4, noise_floor=0.0)
    two = slq(rotated(factor * values + shift, seed), KEY, order=4, noise_floor=0.0)
    if one.exact.any() or two.exact.any() or one.offdiagonal[:, :-1].min() < 1e-6:
        return  # breakdown thresholds are relative to the norm, which a shift changes
    np.testing.assert_allclose(two.nodes, factor * one.nodes + shift, atol=1e-7 * (factor + 3))


@settings(max_examples=10)
@given(spectra(dims=(24,)), st.integers(2, 6), st.integers(-100, 100))
def test_every_claim_scales_with_the_matrix(eigenvalues, order, power):
    factor, unit = 2.0**power, np.abs(eigenvalues).max()
    start = np.random.default_rng(4).normal(size=24)
    one, _ = measure_of_start(eigenvalues / unit, order, start)
    two, _ = measure_of_start(factor * (eigenvalues / unit), order, start)
    points = np.linspace(-1.05, 1.05, 7)
    for ours, scaled in zip(one.bracket(points), two.bracket(factor * points), strict=True):
        np.testing.assert_allclose(scaled, ours, atol=1e-9)
    np.testing.assert_allclose(two.grid, factor * one.grid, rtol=1e-9, atol=1e-9 * factor)
    first, second = one.expectation(np.abs), two.expectation(np.abs)
    assert second.low == pytest.approx(factor * first.low, rel=1e-6, abs=1e-9 * factor)
    assert second.high == pytest.approx(factor * first.high, rel=1e-6, abs=1e-9 * factor)


@pytest.mark.parametrize("scale", [1e-170, 1.0, 1e170])
def test_brackets_neither_vanish_nor_overflow(scale):
    rng = np.random.default_rng(0)
    diagonal, offdiagonal = rng.normal(size=6), np.abs(rng.normal(size=6))
    points = np.linspace(-2, 2, 9)
    expected = extremal_sums(diagonal, offdiagonal, points)
    found = extremal_sums(scale * diagonal, scale * offdiagonal, scale * points)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@given(spectra(dims=(5, 24)))
def test_known_eigenvalues_are_their_own_measure(eigenvalues):
    measure = SpectralMeasure.from_eigenvalues(eigenvalues[::-1])
    assert measure.complete
    scale = np.abs(eigenvalues).max()
    for x in (eigenvalues[2] + 1e-9 * scale, 0.3 * scale):
        found = measure.cdf(x)
        assert found.method == "exact"
        for value in (found.low, found.value, found.high):
            assert value == pytest.approx(np.mean(eigenvalues <= x), abs=1e-9)
    exact = measure.expectation(np.abs)
    assert exact.low == pytest.approx(np.abs(eigenvalues).mean(), rel=1e-9)
    assert exact.high == pytest.approx(np.abs(eigenvalues).mean(), rel=1e-9)


def test_mass_and_negative_fraction_agree_with_the_cdf():
    eigenvalues = np.sort(np.random.default_rng(0).normal(size=500))
    measure = slq(Diagonal(eigenvalues), KEY, order=40, vectors=4)
    whole = measure.mass(-10, 10)
    assert whole.value == pytest.approx(1)
    inner = measure.mass(-1, 1)
    assert inner.low <= true_cdf(eigenvalues, 1) - true_cdf(eigenvalues, -1) <= inner.high
    assert inner.value == pytest.approx(measure.cdf(1).value - measure.cdf(-1).value, abs=1e-6)
    negative = measure.negative_fraction(0.5)
    assert negative.value == measure.cdf(-0.5).value
    assert negative.method == "beta"
    assert negative.bracket_high - negative.bracket_low < negative.high - negative.low


def test_one_vector_has_an_interval_but_no_standard_error():
    measure = slq(Diagonal(np.linspace(-1, 1, 200)), KEY, order=20, vectors=1)
    estimate = measure.cdf(0.0)
    assert np.isnan(estimate.stderr)
    assert estimate.low < 0.5 < estimate.high


def test_given_start_vectors_claim_nothing_about_the_spectrum():
    measure = slq(Diagonal(np.linspace(-1, 1, 200)), KEY, order=20, start=np.ones(200))
    estimate = measure.cdf(0.3)
    assert estimate.method == "bracket"
    assert (estimate.low, estimate.high) == (estimate.bracket_low, estimate.bracket_high)


def test_noise_floor_widens_the_bracket():
    run = lanczos(Diagonal(np.linspace(-1, 1, 200)), KEY, order=20)
    settings: dict[str, Any] = {"dim": 200, "matvecs": 20, "estimand": "test"}
    quiet = SpectralMeasure.from_lanczos([run], noise_floor=0.0, **settings)
    noisy = SpectralMeasure.from_lanczos([run], noise_floor=0.05, **settings)
    assert noisy.cdf(0.0).low < quiet.cdf(0.0).low
    assert noisy.cdf(0.0).high > quiet.cdf(0.0).high


def test_expectation_of_a_polynomial_equals_its_moment():
    measure = slq(Diagonal(np.linspace(0, 2, 300)), KEY, order=12, vectors=2)
    assert measure.expectation(lambda x: x**3).value == pytest.approx(measure.moment(3).value)
    exact = measure.moment(3)
    assert exact.bracket_high - exact.bracket_low <= 1e-11
    assert exact.low < (np.linspace(0, 2, 300) ** 3).mean() < exact.high


def test_moment_beyond_the_quadrature_is_refused():
    measure = slq(Diagonal(np.linspace(0, 1, 50)), KEY, order=3)
    assert measure.moment(5).value > 0
    with pytest.raises(OperatorError, match=r"moment\(6\).*reaches 5.*order >= 4"):
        measure.moment(6)


def test_bad_settings_are_refused():
    op = Diagonal(np.ones(10))
    with pytest.raises(OperatorError, match="dimension 10"):
        slq(op, KEY, order=11)
    with pytest.raises(OperatorError, match="vectors=0"):
        slq(op, KEY, order=2, vectors=0)
    measure = slq(Diagonal(np.linspace(0, 1, 10)), KEY, order=2)
    with pytest.raises(OperatorError, match="reversed"):
        measure.mass(1, 0)
    with pytest.raises(OperatorError, match="floor >= 0"):
        measure.negative_fraction(-1.0)


def test_asymmetric_matrices_are_refused_with_the_measured_gap():
    with pytest.raises(OperatorError, match="symmetric matrix; max"):
        Dense(np.array([[1.0, 2.0], [0.0, 1.0]]))


def test_common_key_gives_common_start_vectors():
    values = np.linspace(0, 1, 64)
    one = slq(Diagonal(values), KEY, order=5, vectors=2)
    two = slq(Diagonal(2 * values), KEY, order=5, vectors=2)
    np.testing.assert_array_equal(one.vector_weights, two.vector_weights)
    np.testing.assert_allclose(two.nodes, 2 * one.nodes, rtol=1e-12)


def test_dataset_round_trip_keeps_every_claim():
    measure = slq(rotated(np.repeat([0.0, 1.0, 3.0], 8)), KEY, order=5, vectors=2)
    again = SpectralMeasure.from_dataset(measure.to_dataset())
    assert again.cdf(0.5) == measure.cdf(0.5)
    assert again.moment(1) == measure.moment(1)


def test_infinite_and_undefined_points():
    measure = slq(Diagonal(np.linspace(-1, 1, 50)), KEY, order=10)
    assert measure.cdf(np.inf).value == pytest.approx(1)
    assert measure.cdf(-np.inf).high == 0
    assert measure.mass(-np.inf, 0.0).low < 0.5 < measure.mass(-np.inf, 0.0).high
    with pytest.raises(OperatorError, match="at NaN"):
        measure.cdf(np.nan)
    with pytest.raises(OperatorError, match="not finite everywhere"):
        measure.expectation(np.log)
