"""Traces: unbiased, exact where small, widened by noise."""

import jax
import numpy as np
import pytest
from hypothesis import given

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64
from curvlab.spectral import Diagonal, FunctionOperator, complement, eigenpairs, trace
from curvlab.spectral.complement import deflation, gaussian_rows
from curvlab.spectral.work import Work
from tests.spectra import SEEDS, rotated, spectra


@given(spectra(dims=(5, 24)), SEEDS)
def test_small_operators_are_summed_exactly(eigenvalues, seed):
    estimate = trace(rotated(eigenvalues, seed), jax.random.key(0))
    assert estimate.method == "exact"
    slack = 1e-12 * np.abs(eigenvalues).sum()
    assert estimate.low - slack <= eigenvalues.sum() <= estimate.high + slack


def test_sketch_and_deflation_are_unbiased_and_remove_outliers():
    rng = np.random.default_rng(0)
    eigenvalues = np.r_[rng.normal(size=290) * 0.01, np.geomspace(1, 100, 10)]
    op = Diagonal(eigenvalues)
    pairs = eigenpairs(op, jax.random.key(9), order=60, largest=10, smallest=1)
    total = eigenvalues.sum()
    runs = []
    for known in (None, pairs):
        runs = [trace(op, jax.random.key(i), noise_floor=0.0, deflate=known) for i in range(25)]
        values = np.array([run.value for run in runs])
        z = (values.mean() - total) / (values.std(ddof=1) / 5)
        assert abs(z) < 4
    plain = trace(op, jax.random.key(0), sketch=0, noise_floor=0.0)
    assert plain.stderr > 10 * runs[0].stderr
    assert runs[0].matvecs == 16


def test_a_krylov_space_holds_as_many_eigenvalues_as_it_costs_products():
    eigenvalues = np.r_[np.zeros(290), np.geomspace(1, 100, 10)]
    found = trace(Diagonal(eigenvalues), jax.random.key(0), sketch=11, vectors=8, noise_floor=0.0)
    assert found.value == pytest.approx(eigenvalues.sum(), rel=1e-9)
    assert found.matvecs == 11 + 8


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_an_exhausted_krylov_space_is_left_for_a_random_vector(monkeypatch, dtype):
    drawn = []

    def counting(key, first, count, dim):
        drawn.append(first)
        return gaussian_rows(key, first, count, dim)

    monkeypatch.setattr(complement, "gaussian_rows", counting)
    op = rotated(np.tile([1.0, 3.0], 30), dtype=dtype)
    with float64():
        deflation(Work(op), jax.random.key(0), sketch=6, deflate=None)
    assert drawn == [0, 2, 4]


@pytest.mark.parametrize("distinct", [[0.0], [1.0], [1.0, 3.0], [1.0, 3.0, 3 + 1e-7]])
def test_an_exhausted_krylov_space_goes_on_with_another_vector(distinct):
    op = rotated(np.tile(distinct, 60)[:60])
    found = deflation(Work(op), jax.random.key(0), sketch=16, deflate=None)
    np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(16), atol=1e-12)
    assert found.images is not None
    np.testing.assert_allclose(found.images, found.basis @ op.to_dense(), atol=1e-12)


def test_noise_floor_widens_by_the_dimension():
    op = Diagonal(np.linspace(0, 1, 300))
    quiet = trace(op, jax.random.key(0), noise_floor=0.0)
    noisy = trace(op, jax.random.key(0), noise_floor=1e-3)
    assert noisy.high - quiet.high == pytest.approx(0.3)


def test_fewer_than_eight_vectors_are_refused():
    with pytest.raises(OperatorError, match=r"vectors=4.*vectors >= 8"):
        trace(Diagonal(np.ones(300)), jax.random.key(0), vectors=4)


def test_operators_with_nan_products_are_refused():
    op = FunctionOperator(lambda v: v * np.nan, 300)
    with pytest.raises(OperatorError, match="NaN or infinite"):
        trace(op, jax.random.key(0))


def test_integer_entries_become_float64_and_complex_ones_are_refused():
    assert trace(Diagonal(np.arange(100)), jax.random.key(0)).value == pytest.approx(4950, rel=0.2)
    with pytest.raises(OperatorError, match="finite real entries, got dtype complex"):
        Diagonal(np.ones(3) * 1j)
