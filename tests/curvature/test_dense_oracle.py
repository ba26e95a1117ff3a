"""The engine against a dense Hessian built in NumPy, at a size and in the precisions people use."""

import jax
import numpy as np
import pytest
from scipy.sparse.linalg import eigsh

from curvlab.core.precision import float64
from curvlab.curvature import GaussNewton, Hessian, ResidualCurvature
from curvlab.spectral import eigenpairs, slq
from tests import problems

# Early in training both signs are large; at convergence the spectrum spans six decades.
STEPS = (60, pytest.param(300, marks=pytest.mark.long))
PRECISIONS = {np.float32: 1e-4, np.float64: 1e-9}


@pytest.fixture(scope="module", params=STEPS)
def oracle(request):
    eigenvalues, matrix = problems.dense(request.param)
    return request.param, eigenvalues, matrix


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_extreme_eigenpairs(oracle, dtype):
    steps, truth, matrix = oracle
    largest = np.abs(truth).max()
    with float64():  # only the problem's dtype decides in which precision products run
        op = Hessian(problems.problem(steps, dtype=dtype))
    pairs = eigenpairs(op, jax.random.key(1), order=160, largest=5, smallest=5)
    expected = np.r_[truth[::-1][:5], truth[:5][::-1]]
    assert np.abs(pairs.values - expected).max() <= PRECISIONS[dtype] * largest
    assert pairs.converged.all()
    # No ghosts: ten orthonormal vectors, each with the residual that is claimed.
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(10), atol=1e-12)
    residuals = pairs.vectors @ matrix - pairs.values[:, None] * pairs.vectors
    # The noise of these ten products, of which eigenpairs measures that of the outermost two.
    floor = max(pairs.noise_floor, op.noise_floor(jax.random.key(2), vectors=pairs.vectors))
    assert np.abs(np.linalg.norm(residuals, axis=1) - pairs.residuals).max() <= (
        floor + 1e-13 * largest
    )
    # Each cluster holds its own eigenvalues, as many as it has pairs.
    used = np.zeros(len(truth), bool)
    for cluster in np.unique(pairs.clusters):
        members = pairs.clusters == cluster
        low, high = pairs.low[members].min(), pairs.high[members].max()
        inside = (low - 1e-14 * largest <= truth) & (truth <= high + 1e-14 * largest) & ~used
        assert inside.sum() >= members.sum()
        used |= inside


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_band_holds_the_true_distribution_and_is_narrow(oracle, dtype):
    steps, truth, _ = oracle
    with float64():
        op = Hessian(problems.problem(steps, dtype=dtype))
    measure = slq(op, jax.random.key(0), order=90, vectors=4)
    middle = (truth[1:] + truth[:-1]) / 2
    grid = np.unique(np.r_[np.linspace(*measure.support, 120), middle[:40], middle[-40:]])
    band = measure.cdf_band(grid)
    share = np.searchsorted(truth, grid, side="right") / len(truth)
    assert (band.low <= share).all()
    assert (share <= band.high).all()
    away = np.abs(grid) > 1e-3 * np.abs(truth).max()
    assert (band.high - band.low)[away].mean() <= 0.03


def test_products_agree_with_the_dense_matrix(oracle):
    steps, _, matrix = oracle
    op = Hessian(problems.problem(steps))
    rng = np.random.default_rng(0)
    for vector in rng.normal(size=(3, op.dim)).astype(np.float32):
        gap = np.asarray(op.matvec(vector), np.float64) - matrix @ vector
        # What float32 costs here is what the noise floor says.
        floor = op.noise_floor(jax.random.key(0), vectors=[vector])
        assert np.linalg.norm(gap) <= 1.01 * floor * np.linalg.norm(vector)


def test_noise_floor_is_measured_not_guessed(oracle):
    steps, truth, matrix = oracle
    op = Hessian(problems.problem(steps))
    top = eigsh(matrix, k=1, which="LA")[1][:, 0]
    floor = op.noise_floor(jax.random.key(0), vectors=[top])
    single = top.astype(np.float32)
    gap = np.asarray(op.matvec(single), np.float64) - matrix @ single.astype(np.float64)
    assert floor >= 0.99 * np.linalg.norm(gap)
    assert floor <= 1e-4 * truth[-1]


def test_an_eigenvalue_is_split_into_its_two_curvatures_and_its_layers():
    with float64():
        problem = problems.problem(60, dtype=np.float64)
        hessian, gauss_newton, residual = (
            matrix(problem) for matrix in (Hessian, GaussNewton, ResidualCurvature)
        )
    pairs = eigenpairs(hessian, jax.random.key(1), order=80, largest=3, smallest=2)
    parts = pairs.forms(gauss_newton), pairs.forms(residual)
    np.testing.assert_allclose(sum(parts), pairs.values, atol=1e-10)
    assert (parts[0] >= -1e-12).all()
    assert parts[1][-1] < 0  # what is negative is no part of the Gauss-Newton matrix
    layers = pairs.mass_by_layer()
    assert tuple(sorted(layers)) == tuple(sorted(hessian.layers))
    np.testing.assert_allclose(sum(layers.values()), 1, atol=1e-12)
    parameters = jax.tree.leaves(pairs.tree(0), is_leaf=lambda node: isinstance(node, tuple))
    own = [
        sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(layer))
        for layer in parameters
    ]
    np.testing.assert_allclose([mass[0] for mass in layers.values()], own)
