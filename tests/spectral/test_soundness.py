"""What is no symmetric matrix is refused before any work, with what was measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvlab.core.errors import OperatorError
from curvlab.spectral import Dense, FunctionOperator, SymmetricOperator
from curvlab.spectral.soundness import check, verify

KEY = jax.random.key(0)


def square(dim, seed=0):
    return np.random.default_rng(seed).normal(size=(dim, dim)).astype(np.float32)


def symmetric(dim, seed=0):
    return (square(dim, seed) + square(dim, seed).T) / 2


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, vector):
        self.calls += 1
        return self.function(vector)


@given(dim=st.sampled_from([1, 2, 7, 60]), seed=st.integers(0, 999), scale=st.integers(-20, 20))
def test_symmetric_matrices_pass_whatever_their_scale(dim, seed, scale):
    matrix = symmetric(dim, seed) * np.float32(10.0**scale)
    found = verify(Dense(matrix), KEY)
    assert found.asymmetry < 1e-5
    assert found.rounding < 1e-5
    assert found.notes == ()


@given(seed=st.integers(0, 999))
def test_asymmetry_is_measured_and_refused(seed):
    matrix = square(60, seed)
    part = (matrix - matrix.T) / 2
    with pytest.raises(OperatorError, match="is not symmetric: ") as caught:
        verify(FunctionOperator(lambda v: jnp.asarray(matrix) @ v, 60), KEY)
    measured = float(str(caught.value).split("is not symmetric: |u'Av - v'Au| is ")[1].split()[0])
    expected = np.linalg.norm(part) / np.linalg.norm(matrix)
    assert measured < 6 * expected


def test_a_slight_asymmetry_is_found_and_rounding_is_not():
    matrix = symmetric(200)
    slight = matrix + 0.01 * square(200, 1)
    with pytest.raises(OperatorError, match="not symmetric"):
        verify(FunctionOperator(lambda v: jnp.asarray(slight) @ v, 200), KEY)
    rounded = jnp.asarray(matrix, jnp.bfloat16)
    found = verify(
        FunctionOperator(lambda v: (rounded @ v.astype(jnp.bfloat16)).astype(jnp.float32), 200), KEY
    )
    assert 1e-4 < found.rounding < 1e-2
    assert "less than float32" in found.notes[0]
    # A floor that estimators may use: it is not below what the rounding does to a product.
    vector = np.random.default_rng(3).normal(size=200).astype(np.float32)
    error = np.asarray(rounded @ jnp.asarray(vector, jnp.bfloat16), np.float64) - np.asarray(
        rounded, np.float64
    ) @ vector.astype(np.float64)
    assert found.noise_floor > 0.2 * np.linalg.norm(error) / np.linalg.norm(vector)


def test_semi_gradient_of_temporal_differences_is_refused():
    features, successors = square(40)[:, :10], square(40, 1)[:, :10]

    def update(params):  # the semi-gradient: no derivative of the target
        error = features @ params - 0.9 * successors @ params
        return features.T @ error / 40

    def product(vector):
        return jax.jvp(update, (jnp.zeros(10),), (vector,))[1]

    with pytest.raises(OperatorError, match=r"semi-gradient.*targets once"):
        verify(FunctionOperator(product, 10), KEY)


def test_what_is_not_linear():
    with pytest.raises(OperatorError, match=r"not linear: .* differs from Au \+ Av by 0\.\d+"):
        verify(FunctionOperator(lambda v: v * jnp.abs(v), 50), KEY)
    with pytest.raises(OperatorError, match="not linear"):
        verify(FunctionOperator(lambda v: v + 1, 50), KEY)


def test_what_is_random():
    rng = np.random.default_rng(0)
    with pytest.raises(OperatorError, match=r"Two products .* with one vector differ"):
        verify(FunctionOperator(lambda v: v * rng.normal(), 50), KEY)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_products_that_are_not_finite(bad):
    with pytest.raises(OperatorError, match=r"1 of 50 entries that are NaN or infinite"):
        verify(FunctionOperator(lambda v: v.at[3].set(bad), 50), KEY)


class Short(SymmetricOperator):
    def product(self, vector):
        return vector

    def matvec(self, vector):  # past the type checker of the tests
        return vector[:3]


def test_products_of_another_length():
    with pytest.raises(OperatorError, match=r"has shape \(3,\), not \(50,\)"):
        verify(Short(50, np.float32, "short"), KEY)


def test_a_false_promise_of_semidefiniteness():
    op = FunctionOperator(lambda v: -v, 50, positive_semidefinite=True)
    with pytest.raises(OperatorError, match="declared positive semidefinite"):
        verify(op, KEY)


def test_the_zero_operator_is_sound():
    found = verify(FunctionOperator(lambda v: 0 * v, 50), KEY)
    assert found.notes == ("every product is zero",)
    assert found.noise_floor == 0


def test_three_products_and_none_the_second_time():
    product = Counted(lambda v: 2 * v)
    op = FunctionOperator(product, 20)
    assert verify(op, KEY).products == product.calls == 3
    assert verify(op, KEY).products == 0
    verify(op, jax.random.key(1))
    assert product.calls == 3


def test_report():
    report = str(check(Dense(symmetric(30)), KEY))
    assert "symmetric to" in report
    assert "noise floor" in report
    assert "note: the operator has no reference" in report


def test_a_product_that_returns_its_argument_is_sound():
    for dim in (1, 4096, 100_003):
        found = verify(FunctionOperator(lambda vector: vector, dim), KEY)
        assert found.rounding < 1e-6
