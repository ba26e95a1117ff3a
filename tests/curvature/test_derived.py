"""Metrics, blocks and combinations of curvature matrices answer for the matrices inside."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from curvlab.core.errors import OperatorError, ProblemError
from curvlab.core.precision import float64
from curvlab.curvature import GaussNewton, Hessian, Metric, Problem, ResidualCurvature
from curvlab.curvature.parameter_operator import ParameterCombination, ParameterOperator
from curvlab.objectives import cross_entropy
from curvlab.spectral import Diagonal
from curvlab.spectral.deflated import Deflated
from curvlab.spectral.soundness import verify
from tests.oracles import dense_curvature as dense

KEY = jax.random.key(0)
SCALES = jax.tree.map(lambda leaf: 0.3 + np.abs(leaf), dense.init(7))
METRIC = Metric(SCALES, "drawn metric")
ROOT = 1 / np.sqrt(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(SCALES)]))
PART = ("head", "hidden_1/bias")


def linear(params, inputs):
    return inputs @ params["head"]["kernel"]


def hessian(loss=cross_entropy, seed=1, mesh=None):
    """Return the Hessian of one layer: what is asked of it does not depend on the network."""
    kernel = jnp.asarray(dense.init(seed)["head"]["kernel"], jnp.float32)
    data = (dense.INPUTS.astype(np.float32), dense.LABELS)
    return Hessian(Problem(linear, loss, {"head": {"kernel": kernel}}, data, mesh=mesh))


def bootstrapped(outputs, targets):
    """Return a semi-gradient loss, whose Hessian is not the derivative of its gradient."""
    constant = jax.lax.stop_gradient(0.9 * jax.nn.logsumexp(outputs, axis=1))
    return (outputs[:, 0] - constant) ** 2


DERIVATIONS = {
    "in_metric": lambda op: op.in_metric(METRIC),
    "block_diagonal": lambda op: op.block_diagonal(),
    "shared block": lambda op: op.block_diagonal().blocks["head"],
    "multiple": lambda op: 2 * op,
    "deflated": lambda op: Deflated(op, np.eye(1, op.dim)),
    "nested": lambda op: (op / 3).shift(0.1).in_metric(METRIC).block_diagonal(),
}


@pytest.fixture(params=DERIVATIONS)
def derive(request):
    return DERIVATIONS[request.param]


def test_refuses_what_the_plain_matrix_refuses(derive):
    with pytest.raises(ProblemError, match="not the derivative of its gradient"):
        verify(derive(hessian(bootstrapped)), KEY)


@cache
def sharded():
    mesh = Mesh(np.array(jax.devices()[:1]), "all")
    return hessian(mesh=mesh), hessian()


def test_devices_are_those_of_the_plain_matrix(derive):
    there, here = map(derive, sharded())
    assert there.sharding() == sharded()[0].sharding() is not None
    vector = np.random.default_rng(0).normal(size=here.dim)
    product = there.matvec(vector)
    assert product.sharding.device_set == there.sharding().device_set
    np.testing.assert_allclose(product, here.matvec(vector), rtol=1e-4, atol=1e-6)


def test_cost_is_counted():
    op = sharded()[1]
    gradients = op.gradients_per_product()
    assert 0.1 < gradients < 5
    assert op.in_metric(METRIC).gradients_per_product() == gradients
    assert (op - op).gradients_per_product() == 2 * gradients
    assert op.block_diagonal([]).gradients_per_product() == 0
    assert op.block_diagonal().blocks["head"].gradients_per_product() == gradients


def test_second_checkpoint_is_verified_without_products(derive, monkeypatch):
    verify(derive(hessian(seed=2)), KEY)
    second = derive(hessian(seed=3))

    def spent(self, vector):
        raise AssertionError("a product")

    monkeypatch.setattr(Hessian, "product", spent)
    verify(second, KEY)


@cache
def matrices():
    """Return ``H - G - ∇² penalty`` and the residual curvature, which are one matrix."""
    with float64():
        whole = Problem(
            dense.predict,
            cross_entropy,
            jax.tree.map(jnp.asarray, dense.PARAMS),
            (dense.INPUTS, dense.LABELS, dense.WEIGHTS),
            penalty=dense.penalty,
        )
        difference = Hessian(whole) - GaussNewton(whole)
        return difference.shift(-dense.DECAY), ResidualCurvature(whole)


def close(found, expected):
    np.testing.assert_allclose(found.to_dense(), expected.to_dense(), atol=1e-14)
    assert found.layout == expected.layout
    assert found.layers == expected.layers


@pytest.mark.parametrize(
    "view",
    [
        lambda op: op,
        lambda op: op.block(PART),
        lambda op: op.in_metric(METRIC),
        lambda op: op.in_metric(METRIC).block(PART),
        lambda op: op.block(PART).in_metric(METRIC),
        lambda op: op.block_diagonal(),
        lambda op: op.block_diagonal().in_metric(METRIC),
        lambda op: op.block_diagonal().block(PART),
        lambda op: op.block_diagonal().blocks["hidden_0"].block("hidden_0/bias"),
        lambda op: op.block_diagonal().blocks["hidden_0"].in_metric(METRIC),
        lambda op: op / 2,
    ],
)
def test_difference_of_hessian_and_gauss_newton_is_the_residual_curvature(view):
    difference, residual = map(view, matrices())
    assert isinstance(difference, ParameterOperator)
    close(difference, residual)


def test_trees_through_a_difference():
    difference, residual = matrices()
    with float64():
        tree = jax.tree.map(jnp.asarray, dense.init(4))
        found, expected = difference.matvec_tree(tree), residual.matvec_tree(tree)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), found, expected)


def test_a_multiple_of_the_identity_in_a_metric_is_its_inverse():
    difference, residual = matrices()
    found = difference.shift(0.5).in_metric(METRIC).to_dense()
    expected = ROOT[:, None] * residual.to_dense() * ROOT + 0.5 * np.diag(ROOT**2)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    block = difference.shift(0.5).block("head").to_dense()
    np.testing.assert_allclose(
        block, residual.block("head").to_dense() + 0.5 * np.eye(len(block)), atol=1e-14
    )


def test_a_block_of_blocks_keeps_no_cross_blocks():
    _, residual = matrices()
    found = residual.block_diagonal(["hidden_0", "hidden_1"]).block(PART)
    assert found.paths == ("hidden_1",)
    rows = dense.rows("hidden_1/bias")
    expected = np.zeros((found.dim, found.dim))
    expected[12:, 12:] = residual.to_dense()[np.ix_(rows, rows)]  # the head has no block
    np.testing.assert_allclose(found.to_dense(), expected, atol=1e-14)


def test_terms_with_other_rows():
    difference, residual = matrices()
    with pytest.raises(OperatorError, match=r"same parameters.*\(head/bias\).*\(hidden_1/bias\)"):
        _ = residual.block("head/bias") + residual.block("hidden_1/bias")
    with pytest.raises(OperatorError, match=r"one dimension, got \[12, 43\]"):
        _ = residual + residual.block("head")
    mixed = residual + Diagonal(np.ones(43))  # a matrix without parameters
    assert not isinstance(mixed, ParameterCombination)
    assert len((difference + residual).terms) == 3  # flattened


def test_single_and_double_precision_of_one_matrix():
    single = hessian()
    double = single.reference()
    assert double is not None
    error = single - double
    assert isinstance(error, ParameterCombination)
    assert error.layout == double.layout
    assert 0 < np.linalg.norm(error.matvec(np.arange(9.0))) < 1e-5
