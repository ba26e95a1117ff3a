"""Which losses have a Fisher matrix, and that sampled ones estimate it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.errors import OperatorError, ProblemError
from curvlab.core.precision import float64
from curvlab.curvature import (
    EmpiricalFisher,
    Fisher,
    GaussNewton,
    GradientSecondMoment,
    MonteCarloFisher,
    Problem,
)
from curvlab.objectives import Categorical, Gaussian, cross_entropy, squared_error
from tests.oracles import dense_curvature as dense
from tests.oracles.dense_curvature import Oracle


@pytest.fixture(autouse=True)
def _x64(x64):
    """All of this is checked in float64."""


def make(loss, targets, **changes):
    return Problem(
        dense.predict, loss, dense.PARAMS, (dense.INPUTS, targets, dense.WEIGHTS), **changes
    )


def huber(outputs, targets):
    gap = jnp.abs(outputs - targets)
    return jnp.where(gap < 1, gap**2 / 2, gap - 0.5).sum(axis=1)


def half_squares(outputs, targets):
    return ((outputs - targets) ** 2).sum(axis=1) / (2 * 0.7)


def test_squared_error_has_the_variance_that_makes_it_a_likelihood():
    problem = make(squared_error, dense.VALUES)
    oracle = Oracle("squared_error")
    fisher = Fisher(problem).to_dense()
    np.testing.assert_allclose(fisher, oracle.gauss_newton, atol=1e-14)
    np.testing.assert_allclose(fisher, GaussNewton(problem).to_dense(), atol=1e-14)
    # Variance ½ for one output: the density exp(-(f - y)²) has it, by quadrature.
    y = np.linspace(-10, 10, 20001)
    density = np.exp(-(y**2)) / np.exp(-(y**2)).sum()
    single = Gaussian()._variance(np.zeros(1))
    assert (density * y**2).sum() == pytest.approx(single)
    # E[(dl/df)²] of l = (f - y)² is 4 × ½ = 2, what the factor squares to.
    factor = Gaussian().factor(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    assert (density * (2 * y) ** 2).sum() == pytest.approx(float(factor[0, 0]) ** 2)


def test_expectation_of_the_empirical_fisher_over_the_models_labels():
    # Two examples, all nine label pairs, weighted by their probability: the definition.
    inputs = dense.INPUTS[:2]
    outputs = np.asarray(dense.predict(jax.tree.map(jnp.asarray, dense.PARAMS), inputs))
    shares = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    total = 0
    for first in range(3):
        for second in range(3):
            batch = (inputs, np.array([first, second]))
            one = EmpiricalFisher(Problem(dense.predict, cross_entropy, dense.PARAMS, batch))
            total = total + shares[0, first] * shares[1, second] * one.to_dense()
    labels = (inputs, np.array([0, 0]))
    fisher = Fisher(Problem(dense.predict, cross_entropy, dense.PARAMS, labels)).to_dense()
    np.testing.assert_allclose(fisher, total, atol=1e-14)


def test_refused_for_losses_that_are_no_likelihood_unless_one_is_given():
    problem = make(huber, dense.VALUES)
    for matrix in (Fisher, lambda p: MonteCarloFisher(p, jax.random.key(0))):
        with pytest.raises(ProblemError, match=r"huber is not known.*Pass likelihood="):
            matrix(problem)
    given = Fisher(problem, likelihood=Gaussian(0.5))
    assert "Gaussian likelihood of variance 0.5" in given.estimand
    oracle = Oracle("squared_error")
    flat = oracle.jacobian
    expected = np.einsum("i,icp,icq->pq", dense.SHARES, flat, flat) / 0.5
    np.testing.assert_allclose(given.to_dense(), expected, atol=1e-13)


def test_own_loss_with_its_likelihood():
    problem = make(half_squares, dense.VALUES)
    fisher = Fisher(problem, likelihood=Gaussian(0.7))
    np.testing.assert_allclose(fisher.to_dense(), GaussNewton(problem).to_dense(), atol=1e-13)
    targets = jnp.asarray(dense.VALUES)
    outputs = jnp.asarray(dense.INPUTS)
    np.testing.assert_allclose(
        Gaussian(0.7).negative_log(outputs, targets), half_squares(outputs, targets)
    )


@pytest.mark.parametrize(
    ("likelihood", "loss", "targets"),
    [
        (Categorical(), cross_entropy, dense.LABELS),
        (Gaussian(), squared_error, dense.VALUES),
    ],
)
def test_default_likelihoods_are_the_losses(likelihood, loss, targets):
    outputs, targets = jnp.asarray(2 * dense.INPUTS), jnp.asarray(targets)
    np.testing.assert_allclose(likelihood.negative_log(outputs, targets), loss(outputs, targets))


def test_sampled_matrix_is_unbiased():
    problem = make(cross_entropy, dense.LABELS)
    exact = Fisher(problem)
    direction = np.random.default_rng(0).normal(size=exact.dim)
    # v'Fv of one draw is the mean over examples of independent terms; their spread is known.
    draws = [MonteCarloFisher(problem, jax.random.key(k), samples=50) for k in range(4)]
    values = np.array([direction @ np.asarray(op.matvec(direction)) for op in draws])
    oracle = Oracle("cross_entropy")
    slopes = oracle.jacobian @ direction
    p = oracle.shares_of_labels
    terms = (slopes[:, None, :] * (p[:, None, :] - np.eye(3))).sum(-1) ** 2
    spread = ((p * terms**2).sum(1) - (p * terms).sum(1) ** 2) * dense.SHARES**2
    deviation = np.sqrt(spread.sum() / 50 / len(values))
    truth = direction @ np.asarray(exact.matvec(direction))
    assert abs(values.mean() - truth) < 4 * deviation
    assert 0 < values.std(ddof=1) < 4 * deviation * np.sqrt(len(values))


@pytest.mark.long
def test_sampled_gaussian_matrix_is_unbiased():
    problem = make(squared_error, dense.VALUES)
    exact = Fisher(problem).to_dense()
    sampled = MonteCarloFisher(problem, jax.random.key(0), samples=4000).to_dense()
    assert np.linalg.norm(sampled - exact) < 0.05 * np.linalg.norm(exact)


def test_labels_are_drawn_once_and_are_the_same_for_the_same_key():
    problem = make(cross_entropy, dense.LABELS)
    vector = np.random.default_rng(0).normal(size=43)

    def product(seed):
        return np.asarray(MonteCarloFisher(problem, jax.random.key(seed)).matvec(vector))

    op = MonteCarloFisher(problem, jax.random.key(0))
    np.testing.assert_array_equal(op.matvec(vector), op.matvec(vector))
    np.testing.assert_array_equal(product(0), product(0))
    assert not np.array_equal(product(0), product(1))
    labels = [np.asarray(batch.targets) for batch in op.problem.batches()]
    assert labels[0].shape == (dense.EXAMPLES, 1)
    assert "1 target per example" in op.estimand
    with pytest.raises(OperatorError, match=r"samples=0\) has no sample\. Use 1"):
        MonteCarloFisher(problem, jax.random.key(0), samples=0)


def test_scalar_losses_have_neither_fisher_nor_per_example_gradients():
    def mean(params, batch):
        return cross_entropy(dense.predict(params, batch[0]), batch[1]).mean()

    problem = Problem.from_loss(mean, dense.PARAMS, (dense.INPUTS, dense.LABELS))
    for matrix in (Fisher, EmpiricalFisher):
        with pytest.raises(ProblemError, match="from_loss"):
            matrix(problem)
    assert EmpiricalFisher is GradientSecondMoment


def test_gauss_newton_promises_no_sign_for_losses_that_bend_down():
    def concave(outputs, targets):
        return -((outputs - targets) ** 2).sum(axis=1)

    def welsch(outputs, targets):
        return (1 - jnp.exp(-((outputs - targets) ** 2))).sum(axis=1)

    for loss in (concave, welsch):
        op = GaussNewton(make(loss, 3 * dense.VALUES))
        assert not op.positive_semidefinite
        assert np.linalg.eigvalsh(op.to_dense()).min() < 0
    for loss in (half_squares, huber):
        op = GaussNewton(make(loss, dense.VALUES))
        assert op.positive_semidefinite
        assert np.linalg.eigvalsh(op.to_dense()).min() > -1e-14


def test_convexity_is_checked_for_outputs_in_half_precision():
    def low(params, inputs):
        return dense.predict(params, inputs).astype(jnp.bfloat16)

    def squares(outputs, targets):
        return ((outputs.astype(jnp.float32) - targets) ** 2).sum(axis=1)

    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dense.PARAMS)
    batch = (dense.INPUTS.astype(np.float32), dense.VALUES.astype(np.float32))
    assert GaussNewton(Problem(low, squares, params, batch)).positive_semidefinite


def test_float32_and_float64_draw_the_same_labels():
    with float64():
        wide = make(cross_entropy, dense.LABELS)
    narrow = Problem(
        dense.predict,
        cross_entropy,
        jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dense.PARAMS),
        (dense.INPUTS.astype(np.float32), dense.LABELS),
    )
    drawn = [
        np.concatenate([np.asarray(b.targets) for b in op.problem.batches()])
        for op in (MonteCarloFisher(p, jax.random.key(3), samples=5) for p in (wide, narrow))
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
