"""The Gram matrix of gradients equals the dense one, whichever way parameters are used."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curvlab.core.errors import ProblemError
from curvlab.curvature import Problem, gradient_gram
from curvlab.curvature import example_gradients as factors
from curvlab.networks import matmul_convolution
from curvlab.objectives import cross_entropy, squared_error

RNG = np.random.default_rng(0)
LAST = ("NHWC", "HWIO", "NHWC")
EXAMPLES = 11


@pytest.fixture(autouse=True)
def _x64(x64):
    """Equality is checked in float64, to rounding."""


def draw(*shape):
    return RNG.normal(size=shape)


def dense_layers(params, inputs):
    hidden = jnp.tanh(inputs.reshape(len(inputs), -1) @ params["a"] + params["b"])
    return hidden @ params["c"]


def convolutional(convolve):
    def predict(params, inputs):
        hidden = convolve(inputs, params["a"], (2, 2), "SAME", dimension_numbers=LAST)
        hidden = jax.nn.relu(hidden + params["b"])
        hidden = convolve(hidden, params["d"], (1, 1), "VALID", dimension_numbers=LAST)
        return jax.nn.relu(hidden).reshape(len(inputs), -1) @ params["c"]

    return predict


def normalised(params, inputs):
    hidden = inputs.reshape(len(inputs), -1) @ params["a"]
    hidden = hidden - hidden.mean(axis=1, keepdims=True)
    hidden = hidden / jnp.sqrt(jnp.square(hidden).mean(axis=1, keepdims=True) + 1e-5)
    return jnp.tanh(hidden * params["scale"] + params["b"]) @ params["c"]


def residual(params, inputs):
    hidden = inputs.reshape(len(inputs), -1) @ params["a"]
    return (hidden + jax.nn.silu(hidden @ params["d"])) @ params["c"]


def shared(params, inputs):
    hidden = inputs.reshape(len(inputs), -1) @ params["a"]
    for _ in range(3):
        hidden = jnp.tanh(hidden @ params["d"])
    return hidden @ params["c"]


def tied(params, inputs):
    """Encoder and decoder share one matrix, once transposed."""
    return jnp.tanh(inputs.reshape(len(inputs), -1) @ params["a"]) @ params["a"].T[:, :3]


def places(params, inputs):
    """Dense layers with extra axes, and a product with the weights on the left."""
    hidden = jnp.tanh(jnp.einsum("nhwc,cd->nhwd", inputs, params["a"]))
    hidden = jnp.einsum("dk,nhwd->nkh", params["d"], hidden)
    return hidden.reshape(len(inputs), -1) @ params["c"]


def standardised(params, inputs):
    """A matrix that is not a parameter, but made of one."""
    matrix = params["a"] / jnp.linalg.norm(params["a"], axis=0)
    return jnp.tanh(inputs.reshape(len(inputs), -1) @ matrix) @ params["c"]


def looped(params, inputs):
    def body(hidden, _):
        return jnp.tanh(hidden @ params["d"]), None

    return (
        jax.lax.scan(body, inputs.reshape(len(inputs), -1) @ params["a"], length=3)[0] @ params["c"]
    )


CASES: dict[str, Any] = {
    "dense": (dense_layers, {"a": draw(48, 5), "b": draw(5), "c": draw(5, 3)}),
    "native convolution": (
        convolutional(jax.lax.conv_general_dilated),
        {"a": draw(2, 2, 3, 4), "b": draw(4), "d": draw(2, 1, 4, 5), "c": draw(10, 3)},
    ),
    "matmul convolution": (
        convolutional(matmul_convolution),
        {"a": draw(2, 2, 3, 4), "b": draw(4), "d": draw(2, 1, 4, 5), "c": draw(10, 3)},
    ),
    "layer norm": (
        normalised,
        {"a": draw(48, 5), "scale": draw(5), "b": draw(5), "c": draw(5, 3)},
    ),
    "residual": (residual, {"a": draw(48, 5), "d": draw(5, 5), "c": draw(5, 3)}),
    "shared": (shared, {"a": draw(48, 5), "d": draw(5, 5), "c": draw(5, 3)}),
    "tied": (tied, {"a": draw(48, 5)}),
    "places": (places, {"a": draw(3, 6), "d": draw(6, 2), "c": draw(8, 3)}),
    "standardised": (standardised, {"a": draw(48, 5), "c": draw(5, 3)}),
    "looped": (looped, {"a": draw(48, 5), "d": draw(5, 5), "c": draw(5, 3)}),
}
# What is no plain product with data; everything else is found to be one.
GENERIC = {
    "dense": ("b",),
    "native convolution": ("b",),
    "matmul convolution": ("b",),
    "layer norm": ("b", "scale"),
    "tied": ("a",),
    "standardised": ("a",),
    "looped": ("d",),
}
INPUTS, LABELS = draw(EXAMPLES, 4, 4, 3), RNG.integers(0, 3, EXAMPLES)


def problem_of(name, **changes):
    predict, params = CASES[name]
    batch = changes.pop("batch", (INPUTS, LABELS))
    return Problem(predict, changes.pop("loss", cross_entropy), params, batch, **changes)


def rows(problem, inputs=INPUTS, targets=LABELS, outputs=False):
    """Return per-example gradients, (examples, parameters), or (examples, outputs, parameters)."""

    def function(params, x, y):
        found = problem.predict(params, x[None])
        return found[0] if outputs else problem.loss(found, y[None])[0]

    jacobian = jax.jit(jax.vmap(jax.jacrev(function), (None, 0, 0)))
    leaves = jax.tree.leaves(jacobian(problem.params, inputs, targets))
    lead = 2 if outputs else 1
    return np.concatenate(
        [np.asarray(leaf).reshape(*leaf.shape[:lead], -1) for leaf in leaves], axis=-1
    )


def outputs_of(found):
    assert found.outputs is not None
    return found.outputs


def cosines(gram):
    norms = np.sqrt(np.diagonal(gram))
    return gram / np.outer(norms, norms)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_matrix_of_gradients(name):
    problem = problem_of(name)
    found = gradient_gram(problem, cosine=False)
    gradients = rows(problem)
    expected = gradients @ gradients.T
    np.testing.assert_allclose(found.matrix, expected, atol=1e-10 * expected.max())
    np.testing.assert_allclose(found.cosines, cosines(expected), atol=1e-10)
    np.testing.assert_allclose(found.norms, np.linalg.norm(gradients, axis=1), rtol=1e-10)
    of_outputs = rows(problem, outputs=True)
    kernel = np.einsum("icp,jcp->ij", of_outputs, of_outputs)
    np.testing.assert_allclose(outputs_of(found), cosines(kernel), atol=1e-10)
    assert sorted(found.factored + found.explicit + found.generic) == sorted(problem.params)
    assert found.generic == GENERIC.get(name, ())


@pytest.mark.parametrize("name", ["matmul convolution", "places", "shared"])
def test_factors_and_explicit_gradients_agree(name, monkeypatch):
    problem = problem_of(name)
    whole = gradient_gram(problem, outputs=None).matrix
    parts = factors._program
    for choice in ("factored", "explicit"):
        monkeypatch.setattr(factors, "_cheaper_as_rows", lambda *_, c=choice: c == "explicit")
        parts.cache_clear()
        found = gradient_gram(problem, outputs=None)
        assert set(problem.params) - {"b"} == set(getattr(found, choice))
        np.testing.assert_allclose(found.matrix, whole, atol=1e-12)
    monkeypatch.undo()
    parts.cache_clear()


def test_blocks_panels_batches_and_streams_change_nothing(monkeypatch):
    problem = problem_of("matmul convolution")
    whole = gradient_gram(problem)
    cut = [(INPUTS[a:b], LABELS[a:b]) for a, b in ((0, 1), (1, 6), (6, 11))]
    for data in (cut, lambda: iter(cut)):
        found = gradient_gram(problem_of("matmul convolution", batch=data))
        np.testing.assert_allclose(found.matrix, whole.matrix, atol=1e-12)
    monkeypatch.setattr("curvlab.curvature.gram.BLOCK_BYTES", 30_000)
    for panel in (1, 4_000, 2**30):
        monkeypatch.setattr("curvlab.curvature.gram.PANEL_BYTES", panel)
        found = gradient_gram(problem)
        np.testing.assert_allclose(found.matrix, whole.matrix, atol=1e-12)
        np.testing.assert_allclose(outputs_of(found), outputs_of(whole), atol=1e-12)


def test_centring_subtracts_the_weighted_mean_and_leaves_out_weight_zero():
    weights = RNG.uniform(0.5, 2, EXAMPLES)
    weights[3] = 0
    inputs = INPUTS.copy()
    inputs[3] = np.nan
    kept = weights > 0
    problem = problem_of("dense", batch=(inputs, LABELS), weights=weights)
    gradients = rows(problem_of("dense"))
    centre = weights @ gradients / weights.sum()
    for centred, expected in ((False, gradients), (True, gradients - centre)):
        expected = expected[kept] @ expected[kept].T
        found = gradient_gram(problem, centred=centred, cosine=False)
        part = np.ix_(kept, kept)
        np.testing.assert_allclose(found.matrix[part], expected, atol=1e-12)
        np.testing.assert_allclose(found.cosines[part], cosines(expected), atol=1e-10)
        assert np.isnan(found.matrix[3]).all()
        assert np.isnan(found.matrix[:, 3]).all()
        assert found.summary.examples == EXAMPLES - 1
        assert found.zero_gradients == 0


def test_running_statistics_are_no_parameters():
    """As in batch norm on running statistics: a scale meets the state before it meets the data."""

    def predict(params, inputs, state):
        hidden = inputs.reshape(len(inputs), -1) @ params["a"]
        factor = params["scale"] * jax.lax.rsqrt(state["variance"] + 1e-5)
        return jax.nn.relu((hidden - state["mean"]) * factor + params["b"]) @ params["c"]

    params = CASES["layer norm"][1]
    state = {"mean": draw(5), "variance": RNG.uniform(1, 2, 5)}
    found = gradient_gram(
        Problem(predict, cross_entropy, params, (INPUTS, LABELS), state=state), outputs=None
    )
    closed = Problem(lambda p, x: predict(p, x, state), cross_entropy, params, (INPUTS, LABELS))
    gradients = rows(closed)
    np.testing.assert_allclose(found.matrix, cosines(gradients @ gradients.T), atol=1e-10)


def test_half_precision_parameters_are_summed_in_float32():
    predict, params = CASES["dense"]
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    inputs = jnp.asarray(INPUTS, jnp.bfloat16)
    matrix = gradient_gram(Problem(predict, cross_entropy, half, (inputs, LABELS))).matrix
    np.testing.assert_allclose(np.diagonal(matrix), 1, atol=1e-6)
    wide = gradient_gram(problem_of("dense")).matrix
    np.testing.assert_allclose(matrix, wide, atol=0.05)


def test_zero_gradients_are_left_out_and_counted():
    targets = draw(EXAMPLES, 3)
    predict, params = CASES["dense"]
    outputs = predict(params, INPUTS)
    targets[[2, 5]] = outputs[jnp.array([2, 5])]
    problem = problem_of("dense", loss=squared_error, batch=(INPUTS, targets))
    found = gradient_gram(problem)
    assert found.zero_gradients == 2
    kept = np.setdiff1d(np.arange(EXAMPLES), [2, 5])
    assert found.summary.examples == len(kept)
    assert set(found.order[-2:]) == {2, 5}
    alone = gradient_gram(problem.subset(kept))
    assert found.summary.mean_absolute == pytest.approx(alone.summary.mean_absolute, abs=1e-12)
    assert gradient_gram(problem, cosine=False).matrix[2].tolist() == [0] * EXAMPLES
    # The outputs still move: their gradients are not zero.
    assert found.output_summary is not None
    assert found.output_summary.examples == EXAMPLES


def test_a_dead_network_has_no_cosine():
    predict = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["c"]  # noqa: E731
    params = {"a": -np.ones((3, 4)), "c": np.ones((4, 1))}
    problem = Problem(predict, squared_error, params, (np.ones((5, 3)), np.ones((5, 1))))
    found = gradient_gram(problem)
    assert found.zero_gradients == 5
    assert found.summary.examples == 0
    assert np.isnan(found.summary.mean)
    assert np.isnan(found.matrix).all()


def test_tiny_gradients_keep_their_cosines():
    predict, params = CASES["dense"]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
    inputs = INPUTS.astype(np.float32)
    tiny = lambda outputs, targets: 1e-25 * cross_entropy(outputs, targets)  # noqa: E731
    plain = gradient_gram(Problem(predict, cross_entropy, params, (inputs, LABELS)))
    small = gradient_gram(Problem(predict, tiny, params, (inputs, LABELS)))
    assert small.zero_gradients == 0
    np.testing.assert_allclose(small.matrix, plain.matrix, atol=1e-5)


def test_the_sign_of_the_residual_is_not_in_the_output_gradients():
    """For one output the two differ by the signs of the residuals alone."""
    params, targets = {**CASES["residual"][1], "c": draw(5, 1)}, draw(EXAMPLES, 1)
    found = gradient_gram(Problem(residual, squared_error, params, (INPUTS, targets)))
    signs = np.sign(np.asarray(residual(params, INPUTS) - targets))[:, 0]
    np.testing.assert_allclose(found.matrix, np.outer(signs, signs) * outputs_of(found), atol=1e-12)


def test_the_sum_of_outputs_is_one_of_the_reductions():
    problem = problem_of("dense")
    of_sum = rows(problem, outputs=True).sum(axis=1)
    found = gradient_gram(problem, outputs="logit-sum")
    np.testing.assert_allclose(outputs_of(found), cosines(of_sum @ of_sum.T), atol=1e-10)


def test_scalar_losses_have_a_gram_matrix_and_no_outputs():
    predict, params = CASES["dense"]
    loss = lambda p, batch: cross_entropy(predict(p, batch[0]), batch[1]).mean()  # noqa: E731
    found = gradient_gram(Problem.from_loss(loss, params, (INPUTS, LABELS)))
    np.testing.assert_allclose(found.matrix, gradient_gram(problem_of("dense")).matrix, atol=1e-12)
    assert found.outputs is None
    assert found.output_summary is None


@pytest.mark.long
@settings(max_examples=15)
@given(
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    size=st.integers(1, 3),
    stride=st.integers(1, 2),
    norm=st.booleans(),
    skip=st.booleans(),
    native=st.booleans(),
)
def test_any_small_architecture_equals_the_dense_matrix(widths, size, stride, norm, skip, native):
    convolve = jax.lax.conv_general_dilated if native else matmul_convolution
    rng = np.random.default_rng(len(widths))
    params = {"kernel": rng.normal(size=(size, size, 3, 2)), "scale": rng.normal(size=2)}
    ends = [2, *widths, 3]
    for index in range(len(ends) - 1):
        params[f"w{index}"] = rng.normal(size=ends[index : index + 2])

    def predict(params, inputs):
        images = convolve(inputs, params["kernel"], (stride,) * 2, "SAME", dimension_numbers=LAST)
        if norm:
            images = images / jnp.sqrt(jnp.square(images).mean((1, 2, 3), keepdims=True) + 1)
        hidden = (jax.nn.gelu(images) * params["scale"]).sum(axis=(1, 2))
        for index in range(len(ends) - 1):
            new = jnp.tanh(hidden @ params[f"w{index}"])
            hidden = hidden + new if skip and new.shape == hidden.shape else new
        return hidden

    with jax.enable_x64(True):
        problem = Problem(predict, cross_entropy, params, (INPUTS, LABELS))
        gradients = rows(problem)
        found = gradient_gram(problem, cosine=False, outputs=None)
    expected = gradients @ gradients.T
    np.testing.assert_allclose(found.matrix, expected, atol=1e-10 * expected.max())


def test_summaries_and_order_of_gradients_in_two_groups():
    """Gradients along two opposite or orthogonal directions, interleaved."""
    predict = lambda p, x: x * p  # noqa: E731
    params = np.ones(2)
    inputs = np.tile([[1.0, 0.0], [0.0, 1.0]], (6, 1))[:9]
    first = lambda outputs, _: outputs.sum(axis=1)  # noqa: E731
    found = gradient_gram(Problem(predict, first, params, (inputs, np.zeros(9))))
    summary = found.summary
    together = (5 * 4 + 4 * 3) / 72
    assert summary.mean == pytest.approx(together)
    assert summary.negative_fraction == 0
    shares = np.array([5, 4]) / 9
    assert summary.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert summary.stable_rank == pytest.approx(1 + 16 / 25)
    assert summary.largest_share == pytest.approx(5 / 9)
    assert summary.block_contrast == pytest.approx(1)
    assert sorted(found.order[:5] % 2) == [0] * 5
    assert found.clusters.tolist() == [0, 1] * 4 + [0]


def test_equal_functions_share_a_program():
    before = factors._program.cache_info().misses
    for scale in (1, 2):
        params = jax.tree.map(lambda leaf, scale=scale: scale * leaf, CASES["residual"][1])
        gradient_gram(Problem(residual, cross_entropy, params, (INPUTS + scale, LABELS)))
    assert factors._program.cache_info().misses <= before + 2


def test_errors_say_what_to_do():
    with pytest.raises(ProblemError, match="'trace' or 'logit-sum'"):
        gradient_gram(problem_of("dense"), outputs="sum")
    inputs = INPUTS.copy()
    inputs[4] = np.nan
    with pytest.raises(ProblemError, match=r"1 of 11 gradients.*problem\.subset"):
        gradient_gram(problem_of("dense", batch=(inputs, LABELS)))
