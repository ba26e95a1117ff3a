"""SLQ: adaptive targets, deflation, given start vectors."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from curvlab.core.errors import OperatorError
from curvlab.spectral import Dense, Diagonal, eigenpairs, slq
from curvlab.spectral.slq import RANDOM_SHARE, STRIDE, mean_error, vectors_for
from tests.spectra import SEEDS, rotated, rotation, spectra

KEY = jax.random.key(4)
RNG = np.random.default_rng(1)
BULK = np.r_[np.zeros(3000), 0.01 * RNG.normal(size=990), np.geomspace(0.1, 10, 10)]


def test_a_target_is_met_and_its_cost_is_said():
    op = Diagonal(np.tile(BULK, 10))
    measure = slq(op, KEY, tolerance=0.02)
    assert measure.vectors == 3
    assert mean_error(measure) <= 0.02
    assert measure.matvecs == int(measure.orders.sum()) + 4
    assert measure.cost is not None
    assert measure.cost.products == measure.matvecs
    assert measure.cost.seconds > 0
    assert measure.cost.bytes >= 8 * op.dim * int(measure.orders.sum())
    assert np.isnan(measure.cost.gradients)  # a diagonal matrix has no gradient
    grid = np.linspace(-0.05, 11, 500)
    band = measure.cdf_band(grid)
    truth = np.mean(BULK[None, :] <= grid[:, None], axis=1)
    assert ((band.low <= truth + 1e-12) & (truth <= band.high + 1e-12)).all()
    looser = slq(op, KEY, tolerance=0.08)
    assert looser.matvecs < measure.matvecs


def test_number_of_vectors_follows_from_dimension_and_target_alone():
    assert vectors_for(10**6, 0.01) == 1
    assert vectors_for(1000, 0.01) > 50


SMALL = {
    "flat": np.linspace(-1, 1, 200),
    "one outlier": np.r_[0.01 * RNG.normal(size=199), 1.0],
    "null cluster": np.r_[np.zeros(150), RNG.normal(size=50)],
}
each_small = pytest.mark.parametrize("values", SMALL.values(), ids=SMALL.keys())


@each_small
def test_moments_over_many_start_vectors_are_those_of_the_matrix(values):
    measure = slq(Diagonal(values), KEY, order=3, vectors=200, noise_floor=0.0)
    for power in (1, 2):
        each = (measure.weights * measure.nodes**power).sum(1)
        stderr = each.std(ddof=1) / len(each) ** 0.5
        assert abs(each.mean() - (values**power).mean()) <= 4 * stderr


@each_small
def test_more_start_vectors_bring_the_measure_closer(values):
    op, keys = Diagonal(values), [jax.random.key(seed) for seed in range(6)]

    def distance(vectors):
        found = []
        for key in keys:
            measure = slq(op, key, order=20, vectors=vectors, noise_floor=0.0)
            pooled = measure.vector_weights[:, None] * measure.weights
            found.append(wasserstein_distance(measure.nodes.ravel(), values, pooled.ravel()))
        return np.mean(found)

    # 1 / √16 is expected of the chance in the vectors; what is left of the quadrature adds to it.
    assert distance(16) <= 0.5 * distance(1)


@given(spectra(dims=(24,)), SEEDS, st.integers(1, 8))
def test_the_basis_does_not_matter(eigenvalues, seed, order):
    start = np.random.default_rng(seed).normal(size=24)
    turned = rotation(24, seed) @ start
    one = slq(Diagonal(eigenvalues), KEY, order=order, start=start, noise_floor=0.0)
    two = slq(rotated(eigenvalues, seed), KEY, order=order, start=turned, noise_floor=0.0)
    # Nodes of tiny weight may be anywhere: the measures are compared, not the nodes one by one.
    gap = wasserstein_distance(one.nodes[0], two.nodes[0], one.weights[0], two.weights[0])
    assert gap <= 1e-12 * np.abs(eigenvalues).max()


@given(spectra(dims=(24,)), SEEDS)
def test_deflated_measures_hold_the_distribution_function(eigenvalues, seed):
    op = rotated(eigenvalues, seed)
    pairs = eigenpairs(op, KEY, order=24, largest=3, smallest=2)
    measure = slq(op, KEY, order=10, deflate=pairs)
    slack = 1e-9 * max(np.abs(eigenvalues).max(), 1e-300)
    points = np.unique(np.r_[eigenvalues - 10 * slack, eigenvalues + 10 * slack])
    band = measure.cdf_band(points)
    low = np.mean(eigenvalues[None, :] <= points[:, None] - slack, axis=1)
    high = np.mean(eigenvalues[None, :] <= points[:, None] + slack, axis=1)
    assert (band.low <= high + 1e-12).all()
    assert (band.high >= low - 1e-12).all()


def test_a_target_costs_little_more_than_all_columns():
    rng = np.random.default_rng(0)
    op = Diagonal(rng.normal(size=1500))
    found = slq(op, jax.random.key(0), tolerance=0.02, noise_floor=0.0)
    assert vectors_for(1500, RANDOM_SHARE * 0.02) * STRIDE < 1500  # it was worth a try
    assert 1500 < found.matvecs < 1.4 * 1500
    assert mean_error(found) < 1e-3


def test_deflated_outliers_have_exact_weight():
    op = Diagonal(BULK)
    pairs = eigenpairs(op, KEY, largest=8, smallest=0, tolerance=1e-6)
    plain = slq(op, KEY, order=30)
    sharp = slq(op, KEY, order=30, deflate=pairs)
    truth = np.mean(BULK > 0.5)
    found = sharp.mass(0.5, 20)
    assert found.value == pytest.approx(truth, abs=1e-12)
    assert found.low == pytest.approx(truth, abs=1e-12)
    assert found.high == pytest.approx(truth, abs=1e-12)
    assert plain.mass(0.5, 20).high - plain.mass(0.5, 20).low > 1e-3
    # The mean is dominated by the outliers: its scatter goes with them.
    assert abs(sharp.moment(1).value - BULK.mean()) < abs(plain.moment(1).value - BULK.mean())
    dataset = sharp.to_dataset()
    again = type(sharp).from_dataset(dataset)
    assert str(again.mass(0.5, 20)) == str(found)


def test_deflation_with_rough_pairs_is_honest_about_their_coupling():
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.normal(size=(300, 300)))[0]
    values = np.sort(np.r_[0.1 * rng.normal(size=295), 1.0, 1.1, 1.2, 1.3, 1.4])
    op = Dense((basis * values) @ basis.T)
    pairs = eigenpairs(op, KEY, order=9, largest=3, smallest=0, tolerance=0.2)
    assert 1e-3 < pairs.coupling(pairs.converged) < 0.3
    band = slq(op, KEY, order=25, deflate=pairs).cdf_band(values + 1e-9)
    truth = np.arange(1, 301) / 300
    assert ((band.low <= truth + 1e-12) & (truth <= band.high + 1e-12)).all()


def test_settings_that_contradict_each_other_are_refused():
    op = Diagonal(BULK)
    with pytest.raises(OperatorError, match="needs one of the two"):
        slq(op, KEY)
    with pytest.raises(OperatorError, match="needs one of the two"):
        slq(op, KEY, order=5, tolerance=0.1)
    with pytest.raises(OperatorError, match="between 0 and 1"):
        slq(op, KEY, tolerance=2.0)
    with pytest.raises(OperatorError, match="chooses its random vectors itself"):
        slq(op, KEY, tolerance=0.1, vectors=3)
    rough = eigenpairs(op, KEY, order=3, largest=1, smallest=0, tolerance=1e-12)
    with pytest.raises(OperatorError, match="0 converged pairs"):
        slq(op, KEY, order=5, deflate=rough)


def test_a_target_that_costs_more_than_the_whole_matrix_gives_all_eigenvalues():
    values = np.random.default_rng(0).normal(size=200)
    measure = slq(rotated(values), KEY, tolerance=0.01)
    assert measure.complete
    assert measure.cost is not None
    assert measure.cost.products == 202
    found = measure.cdf(0.1)
    assert [found.low, found.high] == pytest.approx(2 * [np.mean(values <= 0.1)], abs=1e-9)


def test_start_vectors_are_flat_or_like_the_parameters():
    with pytest.raises(
        OperatorError, match=r"start= has shape \(3,\), the operator has 40000 rows"
    ):
        slq(Diagonal(np.tile(BULK, 10)), KEY, order=3, start=np.ones(3))
    with pytest.raises(OperatorError, match="start= is a tree"):
        slq(Diagonal(BULK), KEY, order=3, start={"w": np.ones(4000)})


def test_several_vectors_keep_within_one_budget():
    vector = 4 * 8192
    op = Diagonal(np.linspace(-1, 1, 8192).astype(np.float32))
    measure = slq(op, KEY, order=16, vectors=4, memory=22 * vector)
    assert measure.cost is not None
    assert measure.cost.bytes <= 16 * vector
    assert measure.orthogonal
    told = str(measure)
    assert "order 16, 4 start vectors" in told
    assert "68 products" in told
