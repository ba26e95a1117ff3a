"""The tangent kernel: its entries in blocks, and the spectrum it shares with Gauss-Newton."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.errors import OperatorError, ProblemError, UnknownNameError
from curvlab.curvature import GaussNewton, Problem, TangentKernel, tangent_kernel
from curvlab.objectives import cross_entropy, squared_error
from tests.oracles import dense_curvature as dense
from tests.oracles.dense_curvature import Oracle

KINDS = ("full", "gauss_newton", "trace", "logit-sum", "target")


def make(
    loss=cross_entropy, targets: Any = dense.LABELS, weights=dense.WEIGHTS, params=dense.PARAMS
):
    return Problem(dense.predict, loss, params, (dense.INPUTS, targets, weights))


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param(kind, marks=[] if kind in ("gauss_newton", "trace") else pytest.mark.long)
        for kind in KINDS
    ],
)
def test_entries_in_blocks_are_those_of_the_formula(outputs, x64):
    expected = Oracle("cross_entropy").kernel(outputs)
    each = 43 * 8 * (1 if outputs in ("logit-sum", "target") else 3)
    for memory in (2**20, 2 * 4 * each):  # in one piece, and four examples at a time
        np.testing.assert_allclose(
            tangent_kernel(make(), outputs=outputs, memory=memory), expected, atol=1e-13
        )
    with pytest.raises(OperatorError, match=rf"two examples, {2 * each} bytes"):
        tangent_kernel(make(), outputs=outputs, memory=each)


def top(matrix, count):
    return np.sort(np.linalg.eigvalsh(matrix))[-count:]


def welsch(outputs, targets):
    return (1 - jnp.exp(-((outputs - targets) ** 2))).sum(axis=1)


def pseudo_huber(outputs, targets):
    return jnp.sqrt(1 + ((outputs - targets) ** 2).sum(axis=1))


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (cross_entropy, dense.LABELS),
        (squared_error, dense.VALUES),
        (pseudo_huber, dense.VALUES),  # no closed form: the factor of a full output Hessian
    ],
)
def test_shares_its_non_zero_spectrum_with_gauss_newton(loss, targets, x64):
    problem = make(loss, targets)
    kernel = TangentKernel(problem, outputs="gauss_newton").to_dense()
    curvature = GaussNewton(problem).to_dense()
    count = min(len(kernel), len(curvature))
    np.testing.assert_allclose(top(kernel, count), top(curvature, count), atol=1e-13)


def test_full_kernel_of_squared_error_shares_it_up_to_the_stated_factor(x64):
    problem = make(squared_error, dense.VALUES, np.ones(dense.EXAMPLES))
    kernel = TangentKernel(problem).to_dense() * 2 / (dense.EXAMPLES * dense.CLASSES)
    np.testing.assert_allclose(
        top(kernel, 33), top(GaussNewton(problem).to_dense(), 33), atol=1e-13
    )


def test_float32_entries_agree_with_products():
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dense.PARAMS)
    batch = (dense.INPUTS.astype(np.float32), dense.LABELS)
    problem = Problem(dense.predict, cross_entropy, single, [batch, batch])
    op = TangentKernel(problem, outputs="trace")
    assert op.dim == 2 * dense.EXAMPLES
    entries = tangent_kernel(problem, outputs="trace")
    np.testing.assert_allclose(entries[: dense.EXAMPLES, dense.EXAMPLES :], entries[:11, :11])
    np.testing.assert_allclose(op.to_dense(), entries, atol=1e-5)
    assert op.noise_floor(jax.random.key(0)) < 1e-5 * np.abs(entries).max() * len(entries)


def test_problems_without_such_a_kernel(x64):
    with pytest.raises(UnknownNameError, match=r"'traces'.*Did you mean 'trace'"):
        TangentKernel(make(), outputs="traces")
    with pytest.raises(ProblemError, match="integer target"):
        TangentKernel(make(squared_error, dense.VALUES), outputs="target")
    with pytest.raises(ProblemError, match="targets from 0 to 3, but the network has 3 outputs"):
        TangentKernel(
            Problem(
                dense.predict, cross_entropy, dense.PARAMS, (dense.INPUTS[:2], np.array([0, 3]))
            ),
            outputs="target",
        )
    with pytest.raises(ProblemError, match="welsch is not known"):
        TangentKernel(make(welsch, 3 * dense.VALUES), outputs="gauss_newton")
    streamed = lambda: iter([(dense.INPUTS, dense.LABELS)])  # noqa: E731
    with pytest.raises(ProblemError, match="streamed"):
        TangentKernel(Problem(dense.predict, cross_entropy, dense.PARAMS, streamed))

    def two(params, inputs):
        return {"a": dense.predict(params, inputs), "b": inputs}

    def loss(outputs, targets):
        return cross_entropy(outputs["a"], targets)

    with pytest.raises(ProblemError, match="outputs in one array"):
        TangentKernel(Problem(two, loss, dense.PARAMS, (dense.INPUTS, dense.LABELS)))
