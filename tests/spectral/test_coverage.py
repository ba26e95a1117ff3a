"""Do the intervals hold the truth as often as they say? Simulated on operators with known spectra.

Every draw goes through the public estimators; diagonal operators keep it at milliseconds. The
one-sided 95 % Clopper-Pearson bound of the coverage must be at least 0.93 for nominal 95 %.
"""

import jax
import numpy as np
import pytest
import scipy.stats

from curvlab.spectral import Diagonal, eigenpairs, slq, trace

RNG = np.random.default_rng(0)
SPECTRA = {
    "one outlier": np.r_[0.01 * RNG.normal(size=199), 1.0],
    "decaying outliers": np.r_[0.001 * RNG.normal(size=180), np.geomspace(0.01, 1, 20)],
    "null cluster": np.r_[np.zeros(150), RNG.normal(size=50)],
    "flat": np.linspace(-1, 1, 200),
    "twelve decades": np.geomspace(1e-12, 1, 200),
    # More equal outliers than the sketch of a trace has columns: one escapes.
    "nine outliers": np.r_[np.zeros(191), np.ones(9)],
}
each_spectrum = pytest.mark.parametrize("name", SPECTRA)


def covered_often_enough(hits, draws):
    """Return whether the Clopper-Pearson lower bound of the coverage reaches 0.93."""
    return scipy.stats.beta.ppf(0.05, hits, draws - hits + 1) >= 0.93 if hits < draws else True


def coverage(estimate, truth, draws):
    slack = 1e-12 * max(1, abs(truth))
    hits = 0
    for seed in range(draws):
        found = estimate(jax.random.key(seed))
        hits += found.low - slack <= truth <= found.high + slack
    return hits


def check_shares(name, draws, vectors):
    eigenvalues = SPECTRA[name]
    op = Diagonal(eigenvalues)
    points = [float(np.quantile(eigenvalues, q)) + 1e-3 for q in (0.1, 0.5, 0.97)]
    truth = [np.mean(eigenvalues <= x) for x in points]
    inner = np.mean((eigenvalues > points[0]) & (eigenvalues <= points[2]))
    hits = np.zeros(4, int)
    for seed in range(draws):
        measure = slq(op, jax.random.key(seed), order=12, vectors=vectors, noise_floor=0.0)
        found = [measure.cdf(x) for x in points] + [measure.mass(points[0], points[2])]
        for i, (estimate, value) in enumerate(zip(found, [*truth, inner], strict=True)):
            hits[i] += estimate.low - 1e-12 <= value <= estimate.high + 1e-12
    assert all(covered_often_enough(h, draws) for h in hits), hits / draws


def check_trace(name, draws):
    eigenvalues = SPECTRA[name]
    op = Diagonal(eigenvalues)
    hits = coverage(lambda key: trace(op, key, noise_floor=0.0), eigenvalues.sum(), draws)
    assert covered_often_enough(hits, draws), hits / draws


def check_band(name, draws):
    eigenvalues = np.sort(SPECTRA[name])
    op = Diagonal(eigenvalues)
    middle = (eigenvalues[1:] + eigenvalues[:-1]) / 2
    grid = np.unique(np.r_[eigenvalues[0] - 0.1, middle[::4], middle[-3:], eigenvalues[-1] + 0.1])
    truth = np.searchsorted(eigenvalues, grid, side="right") / 200
    hits = 0
    for seed in range(draws):
        band = slq(op, jax.random.key(seed), order=12, vectors=1, noise_floor=1e-12).cdf_band(grid)
        hits += bool(((band.low <= truth + 1e-12) & (truth <= band.high + 1e-12)).all())
    assert covered_often_enough(hits, draws), hits / draws


# A quick pass with few draws can only catch a gross error: it asks that the observed coverage does
# not exclude 0.95 (one-sided, 99.9 %). The long one proves the bound.


@each_spectrum
def test_coverage_is_not_grossly_wrong(name):
    draws = 60
    lowest = scipy.stats.binom.ppf(0.001, draws, 0.95)
    eigenvalues = SPECTRA[name]
    op = Diagonal(eigenvalues)
    x = float(np.quantile(eigenvalues, 0.9)) + 1e-3
    share = coverage(
        lambda key: slq(op, key, order=12, noise_floor=0.0).cdf(x), np.mean(eigenvalues <= x), draws
    )
    assert share >= lowest
    assert coverage(lambda key: trace(op, key, noise_floor=0.0), eigenvalues.sum(), draws) >= lowest


def test_bulk_at_rounding_level_is_not_taken_for_an_exact_measure():
    # Lanczos ends when the residual is rounding noise; a bulk of that width must stay blurred.
    quantiles = scipy.stats.norm.ppf((np.arange(990) + 0.5) / 990)
    values = np.r_[1.5e-6 * quantiles, np.geomspace(1e-2, 1, 10)].astype(np.float32)
    truth = np.mean(values <= np.float32(6e-7))
    for seed in range(10):
        found = slq(Diagonal(values), jax.random.key(seed), order=60, vectors=4).cdf(6e-7)
        assert found.low <= truth <= found.high


def test_narrow_kernels_do_not_make_the_band_of_a_density_a_lie():
    values = np.linspace(-1, 1, 20_000)
    measure = slq(Diagonal(values), jax.random.key(0), order=40)
    density = measure.density(np.array([0.1, 0.2001, 0.3, 0.4002]), bandwidth=2e-4)
    assert (density.low <= 0.5).all()
    assert (density.high >= 0.5).all()


def test_expectations_see_functions_that_are_not_monotone_between_nodes():
    values = np.linspace(-1, 1, 1000)
    measure = slq(Diagonal(values), jax.random.key(0), order=8)

    def bump(x):
        return np.exp(-0.5 * ((x - 0.1234) / 0.05) ** 2)

    found = measure.expectation(bump)
    assert found.low <= bump(values).mean() <= found.high


def test_expectations_are_covered_beside_an_outlier():
    # Student's t over four vectors would cover about 82 % here.
    eigenvalues = SPECTRA["one outlier"]
    op = Diagonal(eigenvalues)
    hits = coverage(
        lambda key: slq(op, key, order=8, vectors=4, noise_floor=0.0).moment(1),
        eigenvalues.mean(),
        30,
    )
    assert hits >= 29


@pytest.mark.long
@pytest.mark.parametrize("name", ["one outlier", "decaying outliers"])
def test_coverage_of_shares(name):
    check_shares(name, 2000, 1)


@pytest.mark.long
def test_coverage_of_shares_of_several_vectors():
    check_shares("decaying outliers", 700, 3)


@pytest.mark.long
@each_spectrum
def test_coverage_of_traces(name):
    # Most draws where it is hardest: where one outlier escapes, and where one dominates.
    check_trace(name, 2000 if name in ("nine outliers", "one outlier") else 500)


@pytest.mark.long
@pytest.mark.parametrize("name", ["one outlier", "null cluster", "twelve decades"])
def test_coverage_of_bands(name):
    check_band(name, 300)


@pytest.mark.long
@each_spectrum
def test_coverage_of_eigenvalue_intervals(name):
    # Containment is a theorem, so every interval must hold, in float32 with its noise floor.
    single = Diagonal(SPECTRA[name].astype(np.float32))
    truth = np.sort(np.asarray(SPECTRA[name].astype(np.float32), np.float64))
    for seed in range(100):
        pairs = eigenpairs(single, jax.random.key(seed), order=30)
        for cluster in np.unique(pairs.clusters):
            members = pairs.clusters == cluster
            low, high = pairs.low[members].min(), pairs.high[members].max()
            assert ((low <= truth) & (truth <= high)).sum() >= members.sum()
