"""Eigenpairs: containment, clusters, multiplicities, convergence flags."""

import jax
import numpy as np
import pytest
from hypothesis import given

from curvlab.core.errors import OperatorError
from curvlab.spectral import Diagonal, eigenpairs, lanczos
from tests.spectra import rotated, spectra

KEY = jax.random.key(1)


def check_certificates(pairs, eigenvalues):
    """Every cluster holds at least as many true eigenvalues as it has pairs."""
    slack = 1e-13 * np.abs(eigenvalues).max()  # accuracy of the oracle itself
    for cluster in np.unique(pairs.clusters):
        members = pairs.clusters == cluster
        low, high = pairs.low[members].min(), pairs.high[members].max()
        inside = (low - slack <= eigenvalues) & (eigenvalues <= high + slack)
        assert inside.sum() >= members.sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(eigenvalues=spectra(dims=(24,)))
def test_intervals_hold_eigenvalues_whatever_the_spectrum(dtype, eigenvalues):
    op = rotated(eigenvalues, dtype=dtype)
    truth = np.linalg.eigvalsh(op.to_dense().astype(np.float64))
    for order in (8, 24):
        pairs = eigenpairs(op, KEY, order=order, largest=3, smallest=3)
        check_certificates(pairs, truth)
        assert (np.diff(pairs.values) <= 0).all()
        gram = pairs.vectors @ pairs.vectors.T
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-10)


@given(spectra(dims=(24,)))
def test_full_order_finds_both_ends_with_multiplicities(eigenvalues):
    pairs = eigenpairs(rotated(eigenvalues), KEY, order=24, largest=4, smallest=4)
    expected = np.r_[eigenvalues[::-1][:4], eigenvalues[:4][::-1]]
    scale = np.abs(eigenvalues).max()
    np.testing.assert_allclose(pairs.values, expected, atol=1e-11 * scale)
    assert pairs.converged.all()


def test_residuals_are_those_of_explicit_products():
    eigenvalues = np.linspace(-1, 5, 300)
    pairs = eigenpairs(Diagonal(eigenvalues), KEY, order=30, largest=3, smallest=2)
    explicit = np.linalg.norm(
        pairs.vectors * eigenvalues - pairs.values[:, None] * pairs.vectors, axis=1
    )
    np.testing.assert_allclose(pairs.residuals, explicit, atol=1e-13)
    assert not pairs.converged.all()  # order 30 of 300 with a flat spectrum
    assert pairs.matvecs == 30 + 5 + 4


def test_close_eigenvalues_form_a_cluster_and_far_ones_do_not():
    eigenvalues = np.r_[np.linspace(-0.1, 0.1, 200), 1.0, 1.0 + 1e-9, 3.0]
    op = Diagonal(eigenvalues.astype(np.float32))
    pairs = eigenpairs(op, KEY, order=60, largest=3, smallest=0)
    assert pairs.clusters[0] != pairs.clusters[1]
    assert pairs.low[0] <= 3.0 <= pairs.high[0]


def test_a_given_krylov_run_saves_its_products():
    op = Diagonal(np.linspace(-1, 5, 300))
    run = lanczos(op, KEY, order=30)
    pairs = eigenpairs(op, KEY, order=30, largest=2, smallest=2, krylov=run, noise_floor=1e-15)
    assert pairs.matvecs == 4
    np.testing.assert_allclose(pairs.values[0], run.ritz()[0][-1], rtol=1e-12)


def test_a_given_krylov_run_that_is_too_short_is_refused():
    op = Diagonal(np.repeat([1.0, 2.0], 20))
    with pytest.raises(OperatorError, match="has 2 steps on dimension 40; 4 pairs"):
        eigenpairs(op, KEY, order=10, largest=2, smallest=2, krylov=lanczos(op, KEY, order=10))


def test_ends_and_bad_requests():
    op = Diagonal(np.linspace(-1, 5, 40))
    only_bottom = eigenpairs(op, KEY, order=40, largest=0, smallest=2)
    np.testing.assert_allclose(only_bottom.values, np.linspace(-1, 5, 40)[1::-1], atol=1e-12)
    with pytest.raises(OperatorError, match="between 1 and order=4"):
        eigenpairs(op, KEY, order=4, largest=3, smallest=2)
    with pytest.raises(OperatorError, match="dimension 40"):
        eigenpairs(op, KEY, order=41)
    with pytest.raises(OperatorError, match="no parameter tree"):
        only_bottom.tree(0)
