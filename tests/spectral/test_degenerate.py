"""Operators at the edge: zero, one row, a multiple of the identity. Their spectra are known."""

import jax
import numpy as np
import pytest

from curvlab.core.errors import OperatorError
from curvlab.spectral import Diagonal, eigenpairs, lanczos, slq, trace

KEY = jax.random.key(0)


def test_the_zero_operator_has_all_eigenvalues_at_zero():
    op = Diagonal(np.zeros(50, np.float32))
    measure = slq(op, KEY, order=10, vectors=2)
    assert measure.nodes.ravel() == pytest.approx(0)
    assert measure.noise_floor == 0
    assert measure.cdf(1e-12).low == pytest.approx(1)
    assert measure.cdf(-1e-12).high == pytest.approx(0)
    pairs = eigenpairs(op, KEY, order=10, largest=2, smallest=2)
    assert pairs.values == pytest.approx(np.zeros(4))
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(4), atol=1e-6)
    assert trace(op, KEY).value == 0


@pytest.mark.parametrize("value", [-2.5, 0.0, 1e-30])
def test_one_row(value):
    op = Diagonal(np.array([value]))
    measure = slq(op, KEY, order=1)
    assert measure.nodes.ravel() == pytest.approx([value])
    assert measure.cdf(value + 1).value == 1
    pairs = eigenpairs(op, KEY, order=1, largest=1, smallest=0)
    assert pairs.values == pytest.approx([value])
    assert pairs.low[0] <= value <= pairs.high[0]
    with pytest.raises(OperatorError, match="dimension 1"):
        lanczos(op, KEY, order=2)


def test_repeated_values_are_found_after_the_space_is_exhausted():
    # Five values, so that Lanczos breaks down at the very step at which convergence is looked at.
    op = Diagonal(np.repeat([3.0, 1.0, 0.0, -1.0, -2.0], 4))
    pairs = eigenpairs(op, KEY, largest=2, smallest=0)
    np.testing.assert_allclose(pairs.values, [3.0, 3.0], atol=1e-9)


def test_values_below_the_noise_are_said_to_be():
    pairs = eigenpairs(Diagonal(np.r_[0.0, 1.0, 2.0]), KEY, order=3, largest=3, smallest=0)
    assert pairs.indistinguishable_from_zero.tolist() == [False, False, True]
    assert str(pairs).count("indistinguishable from zero") == 1


@pytest.mark.parametrize("dim", [2, 3, 17])
def test_a_multiple_of_the_identity(dim):
    op = Diagonal(np.full(dim, 3.0, np.float32))
    measure = slq(op, KEY, order=dim)
    assert measure.nodes.ravel() == pytest.approx(3)
    pairs = eigenpairs(op, KEY, order=dim, largest=dim, smallest=0)
    assert pairs.values == pytest.approx(np.full(dim, 3.0), rel=1e-6)
