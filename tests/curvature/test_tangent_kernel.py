"""The tangent kernel: its entries in blocks, and the spectrum it shares with Gauss-Newton."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.errors import OperatorError, ProblemError, UnknownNameError
from curvlab.curvature import GaussNewton, Metric, Problem, TangentKernel, tangent_kernel
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


PART = ("hidden_0", "head/bias")
ENTRIES = np.exp(np.random.default_rng(5).normal(size=43))
ENTRIES[dense.rows("head/kernel")[0]] = np.inf  # does not move


def as_metric(entries, name="drawn metric"):
    with jax.enable_x64(True):
        layout = Problem(
            dense.predict, cross_entropy, dense.PARAMS, (dense.INPUTS, dense.LABELS)
        ).layout
        return Metric(jax.tree.map(np.asarray, layout.unravel(jnp.asarray(entries))), name)


def inside(*paths):
    scales = np.zeros(43)
    scales[dense.rows(*paths)] = 1
    return scales


REDUCED = {
    "block": (lambda op: op.block(PART), inside(*PART)),
    "last layers": (lambda op: op.block(last=2), inside("hidden_1", "head")),
    "metric": (lambda op: op.in_metric(as_metric(ENTRIES)), ENTRIES**-0.5),
    "block in metric": (
        lambda op: op.in_metric(as_metric(ENTRIES)).block(PART),
        inside(*PART) * ENTRIES**-0.5,
    ),
    "metric of block of block, twice": (
        lambda op: (
            op.block(last=2)
            .block("head")
            .in_metric(as_metric(ENTRIES))
            .in_metric(as_metric(np.full(43, 4.0)))
        ),
        inside("head") * ENTRIES**-0.5 / 2,
    ),
}


@pytest.mark.parametrize(
    ("outputs", "how"),
    [
        pytest.param(
            outputs,
            how,
            marks=[] if outputs == "full" or how == "block in metric" else pytest.mark.long,
        )
        for outputs in KINDS
        for how in REDUCED
    ],
)
def test_blocks_and_metrics_are_those_of_the_explicit_jacobian(outputs, how, x64):
    reduce, scales = REDUCED[how]
    op = reduce(TangentKernel(make(), outputs=outputs))
    expected = Oracle("cross_entropy").kernel(outputs, scales)
    np.testing.assert_allclose(op.to_dense(), expected, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("how", REDUCED)
def test_they_share_the_spectrum_of_gauss_newton_in_the_same_block_and_metric(how, x64):
    reduce, problem = REDUCED[how][0], make()
    kernel = reduce(TangentKernel(problem, outputs="gauss_newton"))
    curvature = reduce(GaussNewton(problem))
    found, expected = kernel.to_dense(), curvature.to_dense()
    count = min(len(found), len(expected))
    assert kernel.layers == curvature.layers
    np.testing.assert_allclose(
        top(found, count), top(expected, count), atol=1e-13 * np.abs(expected).max()
    )


def test_kernels_of_layers_sum_to_the_whole(x64):
    op = TangentKernel(make())
    whole = op.to_dense()
    total = sum(op.block(layer).to_dense() for layer in op.layers)
    np.testing.assert_allclose(total, whole, atol=1e-13)
    assert op.block("head").block("head/bias").layers == ("head",)


def test_estimands_name_block_and_metric(x64):
    op = TangentKernel(make(), outputs="trace")
    data = op.estimand[-13:]  # "data" and eight digits
    assert op.block("head").in_metric(as_metric(ENTRIES)).estimand == (
        "tangent kernel (sum over 3 outputs, not normalised) of 11 examples, 12 of 43 parameters "
        f"(head/bias, head/kernel), {data}, in the drawn metric"
    )
    assert op.estimand.endswith(f"of 11 examples, 43 parameters, {data}")  # the whole is left


def test_blocks_and_metrics_that_do_not_exist(x64):
    op = TangentKernel(make()).block("head")
    with pytest.raises(UnknownNameError, match="parameter path 'hidden_0'"):
        op.block("hidden_0")
    with pytest.raises(OperatorError, match="either paths or a number"):
        op.block()
    with pytest.raises(OperatorError, match="needs an entry 'head/bias'"):
        op.in_metric(Metric({"hidden_0": np.ones(3)}, "drawn metric"))


def test_float32_blocks_in_metrics_have_their_float64_reference():
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dense.PARAMS)
    batch = (dense.INPUTS.astype(np.float32), dense.LABELS)
    whole = TangentKernel(Problem(dense.predict, cross_entropy, single, batch))
    assert not np.array_equal(whole.matvec(np.ones(33)), np.zeros(33))  # linearised before
    op = whole.in_metric(as_metric(ENTRIES)).block(PART)
    first, reference = whole.reference(), op.reference()
    assert reference is not None
    assert reference is not first
    assert (op.dtype, reference.dtype) == (np.float32, np.float64)
    assert op.estimand == reference.estimand
    scale = np.abs(op.to_dense()).max() * op.dim
    assert 0 < op.noise_floor(jax.random.key(0)) < 1e-5 * scale


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
