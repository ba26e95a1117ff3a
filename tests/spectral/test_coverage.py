"""Do the intervals hold the truth as often as they say? Simulated on operators with known spectra.

Every draw goes through the public estimators, or (for measures) through their intervals on Lanczos
runs simulated together. The one-sided 95 % Clopper-Pearson bound of the coverage must be at least
0.93 for nominal 95 %. The quick passes can only catch a gross error: they ask that the observed
coverage does not exclude 0.95 (one-sided, 99.9 %).
"""

from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats

from curvlab.spectral import Dense, Diagonal, eigenpairs, slq, trace
from curvlab.spectral.complement import gaussian_rows
from curvlab.spectral.diagonal import diagonal
from curvlab.spectral.frobenius import frobenius_norm
from curvlab.spectral.functions import function_trace, shifted_log
from curvlab.spectral.operator import SymmetricOperator, random_vector
from curvlab.spectral.ranks import spectral_ranks
from curvlab.spectral.xtrace import xnystrace, xtrace
from tests.spectral.simulation import measures

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


class Host(SymmetricOperator):
    """A diagonal matrix whose products never leave the host, so that 2,000 draws are cheap."""

    def __init__(self, entries):
        super().__init__(
            len(entries), np.float64, "host", positive_semidefinite=bool((entries >= 0).all())
        )
        self.entries = np.asarray(entries, np.float64)

    def product(self, vector) -> Any:
        return self.entries * vector

    def matmat(self, rows):
        return self.entries * np.asarray(rows)


def least_coverage(hits, draws):
    """Return the one-sided 95 % bound of the coverage (Clopper and Pearson)."""
    return float(scipy.stats.beta.ppf(0.05, hits, draws - hits + 1)) if hits else 0.0


def covered_often_enough(hits, draws):
    return hits == draws or least_coverage(hits, draws) >= 0.93


def not_grossly_wrong(hits, draws):
    return hits >= scipy.stats.binom.ppf(0.001, draws, 0.95)


def coverage(estimate, truth, draws, first=0):
    slack = 1e-12 * max(1, abs(truth))
    hits = 0
    for seed in range(first, first + draws):
        found = estimate(jax.random.key(seed))
        hits += found.low - slack <= truth <= found.high + slack
    return hits


def check_shares(name, draws, vectors, enough):
    eigenvalues = SPECTRA[name]
    points = [float(np.quantile(eigenvalues, q)) + 1e-3 for q in (0.1, 0.5, 0.97)]
    truth = [np.mean(eigenvalues <= x) for x in points]
    inner = np.mean((eigenvalues > points[0]) & (eigenvalues <= points[2]))
    hits = np.zeros(4, int)
    for measure in measures(eigenvalues, draws=draws, order=12, vectors=vectors):
        found = [measure.cdf(x) for x in points] + [measure.mass(points[0], points[2])]
        for i, (estimate, value) in enumerate(zip(found, [*truth, inner], strict=True)):
            hits[i] += estimate.low - 1e-12 <= value <= estimate.high + 1e-12
    assert all(enough(h, draws) for h in hits), hits / draws


def check_band(name, draws, enough):
    eigenvalues = np.sort(SPECTRA[name])
    middle = (eigenvalues[1:] + eigenvalues[:-1]) / 2
    grid = np.unique(np.r_[eigenvalues[0] - 0.1, middle[::4], middle[-3:], eigenvalues[-1] + 0.1])
    truth = np.searchsorted(eigenvalues, grid, side="right") / 200
    hits = 0
    for measure in measures(eigenvalues, draws=draws, order=12, noise_floor=1e-12):
        band = measure.cdf_band(grid)
        hits += bool(((band.low <= truth + 1e-12) & (truth <= band.high + 1e-12)).all())
    assert enough(hits, draws), hits / draws


TRACES = {
    "plain": lambda op, key: trace(op, key, sketch=0, noise_floor=0.0),
    "sketched": lambda op, key: trace(op, key, noise_floor=0.0),
    "eight": lambda op, key: trace(op, key, vectors=8, noise_floor=0.0),
    # A number of vectors chosen by the data must not spoil the coverage.
    "two-stage": lambda op, key: trace(op, key, sketch=0, tolerance=0.5, noise_floor=0.0),
    "xtrace": lambda op, key: xtrace(op, key, noise_floor=0.0),
    "Frobenius": lambda op, key: frobenius_norm(op, key, noise_floor=0.0),
}


def check_trace(name, method, draws, enough):
    eigenvalues = SPECTRA[name]
    truth = np.linalg.norm(eigenvalues) if method == "Frobenius" else eigenvalues.sum()
    op = Host(eigenvalues)
    hits = coverage(lambda key: TRACES[method](op, key), truth, draws)
    assert enough(hits, draws), hits / draws


@each_spectrum
def test_coverage_of_shares_is_not_grossly_wrong(name):
    check_shares(name, 60, 1, not_grossly_wrong)


@each_spectrum
@pytest.mark.parametrize("method", TRACES)
def test_coverage_of_traces_is_not_grossly_wrong(name, method):
    check_trace(name, method, 40, not_grossly_wrong)


def test_simulated_runs_are_those_of_the_library():
    key = jax.random.key(3)
    values = SPECTRA["flat"]
    start = np.asarray(random_vector(jax.random.fold_in(key, 0), 200), np.float64)
    rows = gaussian_rows(key, 0, 1, 200)
    np.testing.assert_array_equal(rows[0], start)  # one draw for traces and measures
    ours = slq(Diagonal(values), key, order=12, noise_floor=0.0)
    (simulated,) = measures(values, draws=1, order=12, seed=4)
    np.testing.assert_allclose(simulated.weights.sum(1), 1)
    given = slq(
        Diagonal(values),
        key,
        order=12,
        start=np.random.default_rng(4).normal(size=200),
        noise_floor=0.0,
    )
    np.testing.assert_allclose(simulated.nodes, given.nodes, atol=1e-12)
    np.testing.assert_allclose(simulated.weights, given.weights, atol=1e-12)
    assert ours.nodes.shape == simulated.nodes.shape


@pytest.mark.long
@each_spectrum
def test_bands_that_stopped_at_a_tolerance_hold_what_they_claim(name):
    eigenvalues = np.sort(np.tile(SPECTRA[name], 15))  # 3,000: too many to take the exact way out
    grid = np.r_[eigenvalues[0] - 0.1, (eigenvalues[1:] + eigenvalues[:-1])[::60] / 2, 1e3]
    truth = np.searchsorted(eigenvalues, grid, side="right") / len(eigenvalues)
    draws, hits = 30, 0
    for seed in range(draws):
        key = jax.random.key(seed)
        measure = slq(Diagonal(eigenvalues), key, tolerance=0.1, noise_floor=1e-12)
        assert not measure.complete
        band = measure.cdf_band(grid)
        hits += bool(((band.low <= truth + 1e-12) & (truth <= band.high + 1e-12)).all())
    assert not_grossly_wrong(hits, draws), hits / draws


def test_intervals_of_traces_are_near_the_ideal_where_no_outlier_is_left():
    op = Host(SPECTRA["flat"])
    # Sample variance on the sphere: 2 n / (n + 2) (‖A‖² - (tr A)² / n).
    spread = np.sqrt(2 * 200 / 202 * (op.entries**2).sum())
    ideal = 2 * 1.96 * spread / 16**0.5
    for seed in range(10):
        found = trace(op, jax.random.key(seed), sketch=0, noise_floor=0.0)
        assert found.high - found.low < 1.3 * ideal


def test_two_stages_reach_the_target_and_say_what_they_spent():
    values = np.linspace(0, 1, 2000)
    op = Host(values)
    quick = trace(op, jax.random.key(1), noise_floor=0.0)
    found = trace(op, jax.random.key(1), tolerance=0.005, noise_floor=0.0)
    assert found.method == "two-stage"
    assert found.high - found.low <= 2 * 0.005 * 1.02 * found.value
    assert found.low <= values.sum() <= found.high
    assert found.matvecs == 16 + found.vectors
    assert found.vectors > quick.vectors
    # Where it cannot, the interval says so; where n products do, the sum is exact.
    short = trace(op, jax.random.key(1), tolerance=1e-3, max_vectors=50, noise_floor=0.0)
    assert short.vectors == 50
    assert short.high - short.low > 2 * 1e-3 * short.value
    exact = trace(op, jax.random.key(1), tolerance=1e-6, max_vectors=10_000, noise_floor=0.0)
    assert (exact.method, exact.value) == ("exact", pytest.approx(values.sum()))


def test_bulk_at_rounding_level_is_not_taken_for_an_exact_measure():
    # Lanczos ends when the residual is rounding noise; a bulk of that width must stay blurred.
    quantiles = scipy.stats.norm.ppf((np.arange(990) + 0.5) / 990)
    values = np.r_[1.5e-6 * quantiles, np.geomspace(1e-2, 1, 10)].astype(np.float32)
    truth = np.mean(values <= np.float32(6e-7))
    for seed in range(4):
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


@pytest.mark.parametrize(("vectors", "draws"), [(4, 30), (8, 6)])
def test_expectations_are_covered_beside_an_outlier(vectors, draws):
    # Student's t over four vectors would cover about 82 % here.
    eigenvalues = SPECTRA["one outlier"]
    hits = 0
    for measure in measures(eigenvalues, draws=draws, order=6, vectors=vectors):
        found = measure.moment(1)
        hits += found.low <= eigenvalues.mean() <= found.high
    assert hits >= draws - 1


@pytest.mark.long
@pytest.mark.parametrize("name", ["one outlier", "decaying outliers"])
def test_coverage_of_shares(name):
    check_shares(name, 2000, 1, covered_often_enough)


@pytest.mark.long
def test_coverage_of_shares_of_several_vectors():
    check_shares("decaying outliers", 700, 3, covered_often_enough)


# Where it is hardest: one outlier that no sketch looks for, and one that escapes the sketch.
HARD = [
    ("one outlier", "plain"),
    ("one outlier", "two-stage"),
    ("nine outliers", "sketched"),
    ("nine outliers", "eight"),
    ("one outlier", "Frobenius"),
    ("nine outliers", "Frobenius"),
    ("nine outliers", "xtrace"),
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "method"), HARD)
def test_coverage_of_traces(name, method):
    check_trace(name, method, 2000, covered_often_enough)


@pytest.mark.long
@each_spectrum
@pytest.mark.parametrize("method", TRACES)
def test_coverage_of_traces_on_all_spectra(name, method):
    check_trace(name, method, 200, not_grossly_wrong)


@pytest.mark.long
@pytest.mark.parametrize("name", ["twelve decades", "nine outliers"])
def test_coverage_of_nystrom_traces(name):
    op = Host(SPECTRA[name])
    hits = coverage(lambda key: xnystrace(op, key, noise_floor=0.0), op.entries.sum(), 1000)
    assert covered_often_enough(hits, 1000), hits / 1000


@pytest.mark.long
@pytest.mark.parametrize("name", ["one outlier", "null cluster", "twelve decades"])
def test_coverage_of_bands(name):
    check_band(name, 300, covered_often_enough)


def test_coverage_of_moments_beyond_the_quadrature_of_their_variance():
    """Three steps know the fourth moment, but not the eighth, on which its variance depends."""
    values, draws, hits = np.linspace(-1, 1, 300), 200, 0
    for measure in measures(values, draws=draws, order=3, vectors=32):
        found = measure.moment(4)
        assert np.isnan(found.stderr)
        hits += found.low <= (values**4).mean() <= found.high
    assert covered_often_enough(hits, draws), hits / draws


@pytest.mark.long
@pytest.mark.parametrize("name", ["one outlier", "nine outliers", "flat"])
def test_coverage_of_moments_and_moment_ranks(name):
    eigenvalues = SPECTRA[name]
    squares = eigenvalues**2
    truth = (
        eigenvalues.mean(),
        squares.sum() ** 2 / (squares**2).sum(),
        squares.sum() / squares.max(),
    )
    draws, hits = 40, np.zeros(3, int)
    for measure in measures(eigenvalues, draws=draws, order=8, vectors=8):
        ranks = spectral_ranks(measure)
        found = (measure.moment(1), ranks.participation, ranks.stable)
        for i, (estimate, value) in enumerate(zip(found, truth, strict=True)):
            hits[i] += estimate.low - 1e-9 <= value <= estimate.high + 1e-9
    assert all(not_grossly_wrong(h, draws) for h in hits), hits / draws


@pytest.mark.long
@pytest.mark.parametrize("name", ["twelve decades", "nine outliers"])
def test_coverage_of_functions(name):
    values, draws, hits = SPECTRA[name], 300, np.zeros(2, int)
    truth = np.tanh(values).sum(), np.log(values + 0.1).sum()
    for measure in measures(values, draws=draws, order=8, vectors=8):
        found = (
            function_trace(measure, np.tanh, level=0.95, name="tanh"),
            shifted_log(measure, 0.1, level=0.95),
        )
        for i, (estimate, value) in enumerate(zip(found, truth, strict=True)):
            hits[i] += estimate.low - 1e-9 <= value <= estimate.high + 1e-9
    assert all(not_grossly_wrong(h, draws) for h in hits), hits / draws


@pytest.mark.long
def test_coverage_of_diagonals():
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(60, 60)))
    matrix = (basis * np.r_[0.01 * rng.normal(size=59), 1.0]) @ basis.T
    op = Dense((matrix + matrix.T) / 2)
    hits, draws = 0, 400
    for seed in range(draws):
        found = diagonal(op, jax.random.key(seed), sketch=0, noise_floor=0.0)
        hits += int(found.low[7] <= matrix[7, 7] <= found.high[7])
    assert not_grossly_wrong(hits, draws), hits / draws


@pytest.mark.long
@each_spectrum
def test_coverage_of_eigenvalue_intervals(name):
    # Containment is a theorem, so every interval must hold, in float32 with its noise floor.
    single = Diagonal(SPECTRA[name].astype(np.float32))
    truth = np.sort(np.asarray(SPECTRA[name].astype(np.float32), np.float64))
    for seed in range(25):
        pairs = eigenpairs(single, jax.random.key(seed), order=30)
        for cluster in np.unique(pairs.clusters):
            members = pairs.clusters == cluster
            low, high = pairs.low[members].min(), pairs.high[members].max()
            assert ((low <= truth) & (truth <= high)).sum() >= members.sum()
