"""Hessian and Gauss-Newton matrix against NumPy, and the identities that tell them apart.

The contract of all operators is in ``test_contract.py``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curvlab.core.errors import ProblemError
from curvlab.curvature import GaussNewton, Hessian, Problem
from curvlab.objectives import cross_entropy, squared_error
from tests import problems
from tests.oracles import dense_mlp

OPERATORS = (Hessian, GaussNewton)
SIZES = (6, 5, 4, 3)
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(20, 6))
LABELS = RNG.integers(0, 3, 20)
PARAMS = problems.init(SIZES, seed=3)


def small(dtype: Any = np.float64, batch: Any = None, **changes: Any) -> Problem:
    params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), PARAMS)
    return Problem(
        problems.predict,
        cross_entropy,
        params,
        batch or (INPUTS.astype(dtype), LABELS),
        **changes,
    )


@pytest.fixture(autouse=True)
def _x64(x64):
    """Contracts are checked in float64, where they hold to rounding."""


@pytest.fixture(params=OPERATORS, ids=lambda op: op.__name__)
def matrix(request):
    return request.param


ORACLES = {
    Hessian: dense_mlp.hessian,
    GaussNewton: dense_mlp.gauss_newton,
}


def test_linear_maps_hold_the_weights_themselves(matrix):
    # Copies would take as much memory again as the parameters, for every batch in memory.
    op = matrix(small(batch=[(INPUTS[:10], LABELS[:10]), (INPUTS[10:], LABELS[10:])]))
    own = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(op.problem.params)}
    for linear in op._maps:
        weights = [leaf for leaf in jax.tree.leaves(linear) if leaf.shape in ((5, 4), (4, 3))]
        assert weights
        assert all(leaf.unsafe_buffer_pointer() in own for leaf in weights)


def test_equals_the_independent_dense_matrix(matrix):
    op = matrix(small())
    expected = ORACLES[matrix](problems.flat(PARAMS), INPUTS, LABELS, SIZES, "tanh")
    np.testing.assert_allclose(op.to_dense(), expected, atol=1e-13)


def cut(sizes):
    ends = np.cumsum(sizes)
    return [(INPUTS[e - s : e], LABELS[e - s : e]) for s, e in zip(sizes, ends, strict=True)]


@settings(max_examples=3)
@given(st.permutations([9, 6, 4, 1]))
def test_independent_of_batches_their_order_and_their_source(sizes):
    for matrix in OPERATORS:
        whole = matrix(small())
        vector = np.random.default_rng(1).normal(size=whole.dim)
        expected = np.asarray(whole.matvec(vector))
        listed = matrix(small(batch=cut(sizes)))
        np.testing.assert_allclose(listed.matvec(vector), expected, atol=1e-13)
        streamed = matrix(small(batch=lambda: iter(cut(sizes)[::-1])))
        np.testing.assert_allclose(streamed.matvec(vector), expected, atol=1e-13)


def test_hessian_equals_gauss_newton_for_a_linear_model_with_squared_error():
    def linear(params, inputs):
        return inputs @ params["w"] + params["b"]

    params = {"b": jnp.zeros(2), "w": jnp.asarray(RNG.normal(size=(6, 2)))}
    problem = Problem(linear, squared_error, params, (INPUTS, RNG.normal(size=(20, 2))))
    dense = Hessian(problem).to_dense()
    np.testing.assert_allclose(dense, GaussNewton(problem).to_dense(), atol=1e-14)
    # Closed form: squared error is a mean over two outputs, so the block of one output is X'X/n.
    design = np.c_[np.ones(20), INPUTS]
    np.testing.assert_allclose(
        np.linalg.eigvalsh(dense),
        np.sort(np.repeat(np.linalg.eigvalsh(design.T @ design / 20), 2)),
        atol=1e-13,
    )


def test_hessian_agrees_with_central_differences_of_the_gradient():
    problem = small()
    op = Hessian(problem)
    theta = np.asarray(problem.layout.ravel(problem.params))
    direction = RNG.normal(size=op.dim)
    step = 1e-5
    ahead, behind = (
        dense_mlp.gradient(theta + s * step * direction, INPUTS, LABELS, SIZES, "tanh")
        for s in (1, -1)
    )
    np.testing.assert_allclose(op.matvec(direction), (ahead - behind) / (2 * step), atol=1e-8)


def test_hidden_unit_permutation_leaves_the_spectrum_unchanged(matrix):
    order = RNG.permutation(5)
    (w0, b0), (w1, b1), last = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), PARAMS)
    permuted = [(w0[:, order], b0[order]), (w1[order], b1), last]
    moved = Problem(problems.predict, cross_entropy, permuted, (INPUTS, LABELS))
    np.testing.assert_allclose(
        np.linalg.eigvalsh(matrix(moved).to_dense()),
        np.linalg.eigvalsh(matrix(small()).to_dense()),
        atol=1e-13,
    )


def test_weights_count_examples(matrix):
    # Weight 2 is the same as an example given twice, weight 0 the same as one left out.
    weights = np.ones(20)
    weights[3], weights[7] = 2, 0
    index = [i for i in range(20) if i != 7] + [3]
    twice = matrix(small(batch=(INPUTS[index], LABELS[index])))
    weighted = matrix(small(weights=weights))
    np.testing.assert_allclose(weighted.to_dense(), twice.to_dense(), atol=1e-14)


def penalty(params):
    return 0.5 * 0.3 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def test_penalty_enters_the_hessian_by_name_and_not_the_gauss_newton_matrix():
    plain, decayed = small(), small(penalty=penalty)
    gap = Hessian(decayed).to_dense() - Hessian(plain).to_dense()
    np.testing.assert_allclose(gap, 0.3 * np.eye(len(gap)), atol=1e-13)
    assert "penalty included" in Hessian(decayed).estimand
    assert "no penalty" in Hessian(plain).estimand
    np.testing.assert_allclose(
        GaussNewton(decayed).to_dense(), GaussNewton(plain).to_dense(), atol=1e-14
    )


def test_product_is_taken_at_the_parameters_not_at_the_vector(matrix):
    # Museum: a tool that evaluates at the Lanczos vector is not linear in it.
    op = matrix(small())
    vector = RNG.normal(size=op.dim)
    np.testing.assert_allclose(op.matvec(1e3 * vector), 1e3 * op.matvec(vector), rtol=1e-12)


def test_state_is_data_and_reaches_predict():
    def scaled(params, inputs, state):
        return problems.predict(params, inputs) * state["scale"]

    problem = Problem(
        scaled,
        squared_error,
        small().params,
        (INPUTS, np.zeros((20, 3))),
        state={"scale": jnp.asarray(2.0)},
    )
    plain = Problem(problems.predict, squared_error, small().params, (INPUTS, np.zeros((20, 3))))
    np.testing.assert_allclose(
        Hessian(problem).to_dense(), 4 * Hessian(plain).to_dense(), atol=1e-12
    )


def test_scalar_losses_have_a_hessian_but_no_gauss_newton_matrix():
    def mean_loss(params, batch):
        inputs, targets = batch
        return cross_entropy(problems.predict(params, inputs), targets).mean()

    scalar = Problem.from_loss(mean_loss, small().params, cut([9, 6, 4, 1]))
    np.testing.assert_allclose(Hessian(scalar).to_dense(), Hessian(small()).to_dense(), atol=1e-13)
    with pytest.raises(ProblemError, match="from_loss"):
        GaussNewton(scalar)


def test_float32_operators_have_a_float64_reference_and_float64_ones_a_reordered_one(matrix):
    assert matrix(small(np.float32)).reference().dtype == np.float64
    twin = matrix(small()).reference()
    assert len(list(twin.problem.batches())) == 2
    np.testing.assert_allclose(twin.to_dense(), matrix(small()).to_dense(), atol=1e-14)


def test_code_that_casts_inside_is_not_taken_for_a_float64_reference():
    def casting(params, inputs):
        return problems.predict(params, inputs).astype(jnp.bfloat16).astype(jnp.float32)

    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
    inputs = INPUTS.astype(np.float32)
    op = Hessian(Problem(casting, cross_entropy, params, (inputs, LABELS)))
    twin = op.reference()
    assert twin is not None
    assert twin.dtype == np.float32
    assert op.noise_floor(jax.random.key(0)) > 0


@pytest.mark.parametrize("dtypes", [(jnp.float32, jnp.float64), (jnp.float16, jnp.bfloat16)])
def test_parameter_trees_of_mixed_precision(dtypes):
    low, high = dtypes
    mixed = [(jnp.asarray(w, low), jnp.asarray(b, high)) for w, b in PARAMS]
    op = Hessian(
        Problem(problems.predict, cross_entropy, mixed, (INPUTS.astype(np.float32), LABELS))
    )
    assert op.dtype in (np.float32, np.float64)
    expected = dense_mlp.hessian(problems.flat(mixed), INPUTS, LABELS, SIZES, "tanh")
    assert np.abs(op.to_dense() - expected).max() < 0.05 * np.abs(expected).max()
