"""Leave-one-out traces: against formulas written out, exact where the rank is small, refused."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvlab.core.errors import OperatorError
from curvlab.spectral import Diagonal, FunctionOperator
from curvlab.spectral.xtrace import left_out, nystrom_left_out, xnystrace, xtrace
from tests.spectra import SEEDS, rotated, spectra

KEY = jax.random.key(2)


def positive(eigenvalues):
    values = np.asarray(eigenvalues, np.float64)
    return FunctionOperator(
        lambda v: jax.numpy.asarray(values) * v, len(values), np.float64, positive_semidefinite=True
    )


def case(seed, dim=30, count=8, floor=0.0):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    values = np.maximum(rng.normal(size=dim), floor)
    return (basis * values) @ basis.T, rng.normal(size=(dim, count))


@given(st.integers(0, 1000))
def test_leave_one_out_formulas_equal_their_definition(seed):
    matrix, tests = case(seed, floor=-9)
    dim, count = tests.shape
    images = matrix @ tests
    basis, triangle = np.linalg.qr(images)
    values, variances = left_out(tests, images, basis, triangle, matrix @ basis)
    for i in range(count):
        others, _ = np.linalg.qr(np.delete(images, i, 1))
        rest = np.eye(dim) - others @ others.T
        unit = rest @ tests[:, i]
        unit /= np.linalg.norm(unit)
        inner = rest @ matrix @ rest
        form = unit @ inner @ unit
        remainder = inner @ unit - form * unit
        free = dim - count + 1
        expected = np.trace(others.T @ matrix @ others) + free * form
        assert values[i] == pytest.approx(expected, rel=1e-8, abs=1e-8)
        assert variances[i] == pytest.approx(2 * free * remainder @ remainder, rel=1e-6, abs=1e-9)


@given(st.integers(0, 1000))
def test_nystrom_formulas_equal_their_definition(seed):
    matrix, tests = case(seed, floor=0.1)
    dim, count = tests.shape
    values, variances = nystrom_left_out(tests, matrix @ tests)
    for i in range(count):
        others = np.delete(tests, i, 1)
        image = matrix @ others
        inner = matrix - image @ np.linalg.solve(others.T @ image, image.T)
        span, _ = np.linalg.qr(others)
        unit = tests[:, i] - span @ (span.T @ tests[:, i])
        unit /= np.linalg.norm(unit)
        form = unit @ inner @ unit
        remainder = inner @ unit - form * unit
        free = dim - count + 1
        expected = np.trace(matrix - inner) + free * form
        assert values[i] == pytest.approx(expected, rel=1e-7)
        assert variances[i] == pytest.approx(2 * free * remainder @ remainder, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("rank", [0, 3, 7])
def test_low_rank_is_exact(rank):
    eigenvalues = np.r_[np.zeros(200 - rank), 1.0 + np.arange(rank)]
    for estimator in (xtrace, xnystrace):
        found = estimator(positive(eigenvalues), KEY, vectors=8, noise_floor=0.0)
        assert found.value == pytest.approx(eigenvalues.sum(), abs=1e-7)
    assert xtrace(Diagonal(-eigenvalues), KEY, vectors=8).value == pytest.approx(
        -eigenvalues.sum(), abs=1e-9
    )


def test_decaying_spectra_are_where_every_vector_used_twice_pays():
    eigenvalues = 0.7 ** np.arange(300.0)
    op = positive(eigenvalues)
    errors = {
        estimator: np.mean(
            [
                abs(estimator(op, jax.random.key(i), vectors=s, noise_floor=0.0).value - 1 / 0.3)
                for i in range(8)
            ]
        )
        for estimator, s in ((xtrace, 16), (xnystrace, 32))
    }
    assert errors[xtrace] < 0.02
    assert errors[xnystrace] < 1e-3
    found = xtrace(op, KEY, vectors=16, noise_floor=0.0)
    assert (found.matvecs, found.method) == (32, "leave-one-out")
    assert xnystrace(op, KEY, vectors=16, noise_floor=0.0).matvecs == 16


@given(spectra(dims=(24,)), SEEDS, st.integers(-30, 30))
def test_intervals_scale_with_the_matrix(eigenvalues, seed, power):
    values = eigenvalues / np.abs(eigenvalues).max()
    one = xtrace(rotated(values, seed), KEY, vectors=8, noise_floor=0.0)
    two = xtrace(rotated(values * 2.0**power, seed), KEY, vectors=8, noise_floor=0.0)
    assert two.low == pytest.approx(one.low * 2.0**power, rel=1e-9, abs=1e-9 * 2.0**power)
    assert two.high == pytest.approx(one.high * 2.0**power, rel=1e-9, abs=1e-9 * 2.0**power)


def test_indefinite_matrices_are_refused_by_xnystrace():
    with pytest.raises(OperatorError, match=r"does not promise to be one\. Use trace\(\)"):
        xnystrace(Diagonal(np.ones(100)), KEY)
    with pytest.raises(OperatorError, match=r"declared positive semidefinite, but u'Au is -"):
        xnystrace(positive(np.linspace(-1, 0.5, 100)), KEY)
    with pytest.raises(OperatorError, match=r"xtrace\(vectors=5\)"):
        xtrace(Diagonal(np.ones(100)), KEY, vectors=5)
