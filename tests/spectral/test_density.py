"""Smoothed spectra: mass, Jacobian, bands, scaling."""

import jax
import numpy as np
import pytest

from curvlab.core.errors import OperatorError
from curvlab.spectral import Diagonal, LinearAxis, SignedLogAxis, slq

KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
EIGENVALUES = np.sort(np.r_[0.01 * RNG.normal(size=900), np.abs(RNG.normal(size=100))])
MEASURE = slq(Diagonal(EIGENVALUES), KEY, order=60, vectors=4)
LOG = SignedLogAxis(1e-3)


def kernel_truth(axis, grid, bandwidth):
    z = (axis.forward(grid)[:, None] - axis.forward(EIGENVALUES)) / bandwidth
    return (np.exp(-0.5 * z**2) / (bandwidth * np.sqrt(2 * np.pi))).mean(1)


@pytest.mark.parametrize(("axis", "bandwidth"), [(LinearAxis(), 0.2), (LOG, 0.3)])
def test_density_integrates_to_one_on_its_own_axis(axis, bandwidth):
    u = np.linspace(axis.forward(np.array(-3.0)), axis.forward(np.array(8.0)), 4000)
    density = MEASURE.density(axis.inverse(u), bandwidth=bandwidth, axis=axis)
    assert np.trapezoid(density.value, u) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("axis", "bandwidth"), [(LinearAxis(), 0.2), (LOG, 0.3)])
def test_band_contains_the_smoothed_true_spectrum_and_is_no_triviality(axis, bandwidth):
    u = np.linspace(axis.forward(np.array(-0.5)), axis.forward(np.array(3.5)), 60)
    density = MEASURE.density(axis.inverse(u), bandwidth=bandwidth, axis=axis)
    truth = kernel_truth(axis, density.grid, bandwidth)
    assert (density.low <= truth + 1e-9).all()
    assert (truth <= density.high + 1e-9).all()
    trivial = 1 / (bandwidth * np.sqrt(2 * np.pi))  # the band of somebody who knows nothing
    assert (density.high - density.low).mean() < 0.3 * trivial


def test_signed_log_axis_inverts_and_is_odd():
    x = np.array([-5.0, -1e-4, 0.0, 1e-4, 7.0])
    np.testing.assert_allclose(LOG.inverse(LOG.forward(x)), x, rtol=1e-12)
    np.testing.assert_allclose(LOG.forward(-x), -LOG.forward(x))
    # Far above the threshold one unit is a decade.
    assert LOG.forward(np.array(1e6)) - LOG.forward(np.array(1e5)) == pytest.approx(1, abs=1e-6)


def test_density_is_covariant_under_scaling():
    # An absolute term in the kernel width would break this.
    grid = np.linspace(-0.5, 3, 40)
    scaled = slq(Diagonal(100 * EIGENVALUES), KEY, order=60, vectors=4)
    one = MEASURE.density(grid, bandwidth=0.1)
    two = scaled.density(100 * grid, bandwidth=10)
    np.testing.assert_allclose(two.value, one.value / 100, rtol=1e-6, atol=1e-12)


def test_small_bandwidth_recovers_the_mass_of_an_interval():
    grid = np.linspace(0.5, 4, 2_001)
    density = MEASURE.density(grid, bandwidth=0.01)
    mass = MEASURE.mass(0.5, 4)
    assert np.trapezoid(density.value, grid) == pytest.approx(mass.value, abs=0.01)


def test_ritz_histogram_says_that_it_is_no_density():
    grid = np.linspace(-1, 4, 2001)
    histogram = MEASURE.ritz_histogram(grid, bandwidth=0.05)
    assert histogram.unit.startswith("Ritz values, order 60")
    assert np.isnan(histogram.high).all()
    # Equal weights put far more mass on outliers than the spectrum does.
    outside = grid > 0.5
    assert np.trapezoid(histogram.value[outside], grid[outside]) > 5 * np.mean(EIGENVALUES > 0.5)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0])
def test_bandwidth_must_be_positive(bandwidth):
    with pytest.raises(OperatorError, match="bandwidth > 0"):
        MEASURE.density(np.linspace(0, 1, 5), bandwidth=bandwidth)


def test_axis_threshold_must_be_positive():
    with pytest.raises(OperatorError, match="positive threshold"):
        SignedLogAxis(0.0)
