"""Gauss-Newton products through the Jacobian of the outputs, wherever it is kept and is not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.precision import float64
from curvlab.curvature import Batches, Fisher, GaussNewton, MonteCarloFisher, Problem
from curvlab.curvature import output_jacobian as kept
from curvlab.networks import matmul_convolution
from curvlab.objectives import cross_entropy
from tests import problems

RNG = np.random.default_rng(3)
EXAMPLES, CLASSES = 11, 3
INPUTS, LABELS = RNG.normal(size=(EXAMPLES, 4, 4, 2)), RNG.integers(0, CLASSES, EXAMPLES)
WEIGHTS = np.array([1.0, 0.3, 2.0, 0.0, *np.linspace(0.5, 1.5, EXAMPLES - 4)])
STATE = {"mean": RNG.normal(size=6), "deviation": 1 + RNG.random(6)}


def draw(*shape):
    return RNG.normal(size=shape) / np.sqrt(shape[0])


def flat(inputs):
    return inputs.reshape(len(inputs), -1)


def dense(params, inputs):
    hidden = jnp.tanh(flat(inputs) @ params["a"] + params["b"])
    return jax.nn.relu(hidden @ params["d"]) @ params["c"] + params["e"]


def convolutional(convolve):
    def predict(params, inputs):
        layout = ("NHWC", "HWIO", "NHWC")
        hidden = convolve(inputs, params["a"], (2, 2), "SAME", dimension_numbers=layout)
        hidden = jax.nn.relu(hidden + params["b"])
        hidden = convolve(hidden, params["d"], (1, 1), "VALID", dimension_numbers=layout)
        return flat(jax.nn.relu(hidden)) @ params["c"]

    return predict


def shared(params, inputs):
    hidden = flat(inputs) @ params["a"]
    for _ in range(2):
        hidden = jnp.tanh(hidden @ params["d"])
    return hidden @ params["c"]


def tied(params, inputs):
    return jnp.tanh(flat(inputs) @ params["a"]) @ params["a"].T[:, :CLASSES]


def layer_normalised(params, inputs):
    hidden = flat(inputs) @ params["a"]
    hidden = hidden - hidden.mean(axis=1, keepdims=True)
    hidden = hidden / jnp.sqrt(jnp.square(hidden).mean(axis=1, keepdims=True) + 1e-5)
    return jnp.tanh(hidden * params["scale"] + params["b"]) @ params["c"]


def by_statistics(params, inputs, state):
    hidden = (flat(inputs) @ params["a"] - state["mean"]) / state["deviation"]
    return jnp.tanh(hidden * params["scale"] + params["b"]) @ params["c"]


def standardised(params, inputs):
    """Matrices that are made of parameters, by a function that is not linear."""
    matrix = params["a"] / jnp.linalg.norm(params["a"], axis=0)
    return jnp.tanh(flat(inputs) @ matrix) @ jnp.sinh(params["c"])


def residual(params, inputs):
    hidden = flat(inputs) @ params["a"]
    return (hidden + jax.nn.silu(hidden @ params["d"] + params["b"])) @ params["c"]


def examples_last(params, inputs):
    """Examples on other axes than the first, and a product with the weights on the left."""
    hidden = jnp.tanh(jnp.einsum("dk,nhwd->khwn", params["d"], inputs))
    return flat(jnp.moveaxis(hidden * params["b"], -1, 0)) @ params["c"]


def looped(params, inputs):
    def body(hidden, _):
        return jnp.tanh(hidden @ params["d"]), None

    return jax.lax.scan(body, flat(inputs) @ params["a"], length=2)[0] @ params["c"]


def gated(params, inputs):
    """Two layers that meet in a product, the first of them used twice."""
    hidden = flat(inputs) @ params["a"] + params["b"]
    return (hidden * jnp.tanh(hidden @ params["d"])) @ params["c"]


def folded(params, inputs):
    """Places of all examples on one axis: no axis of the examples is left."""
    pixels = jnp.tanh(inputs.reshape(-1, 2) @ params["a"])
    return pixels.reshape(len(inputs), -1) @ params["c"]


def one_by_one(params, inputs):
    return jnp.concatenate([tied(params, inputs[i : i + 1]) for i in range(len(inputs))])


KERNELS = {"a": draw(2, 2, 2, 4), "b": draw(4), "d": draw(2, 1, 4, 5), "c": draw(10, 3)}
LAYERS = {"a": draw(32, 6), "d": draw(6, 6), "b": draw(6), "c": draw(6, 3)}


def some(names: str, **others: Any) -> dict[str, Any]:
    return {**{name: LAYERS[name] for name in names}, **others}


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "dense": (dense, some("abcd", e=draw(3))),
    "rematerialised": (jax.checkpoint(dense), some("abcd", e=draw(3))),
    "native convolution": (convolutional(jax.lax.conv_general_dilated), KERNELS),
    "matmul convolution": (convolutional(matmul_convolution), KERNELS),
    "shared": (shared, some("adc")),
    "tied": (tied, some("a")),
    "as many units as examples": (tied, {"a": draw(32, EXAMPLES)}),
    "layer norm": (layer_normalised, some("abc", scale=1 + draw(6))),
    "running statistics": (by_statistics, some("abc", scale=1 + draw(6))),
    "standardised": (standardised, some("ac")),
    "residual": (residual, some("abcd")),
    "examples last": (
        examples_last,
        {"d": draw(2, 5), "b": draw(5, 4, 4, 1), "c": draw(80, 3)},
    ),
    "looped": (looped, some("adc")),
    "gated": (gated, some("abcd")),
    "unused": (tied, some("ab")),
}


@pytest.fixture
def always(monkeypatch):
    """Keep the Jacobian however little it saves."""
    monkeypatch.setattr(kept, "LEAST_SAVING", 0)


def is_kept(op):
    """Whether products go through the Jacobian of the outputs."""
    with op.precision():
        (forward, _), *_ = (linear.args for linear in op._maps)
    return forward.func is kept._derivative


def make(name, **changes):
    predict, params = CASES[name]
    state = STATE if name == "running statistics" else None
    batch = (INPUTS, LABELS, WEIGHTS)
    with float64():
        return Problem(predict, cross_entropy, params, batch, state=state, **changes)


def explicit(problem):
    """Return ``(1/Σw) Σ_i w_i J_iᵀ B_i J_i`` from dense Jacobians, and where each leaf lies."""
    predict, params = problem.predict, problem.params
    rest = () if problem.state is None else (problem.state,)

    def outputs(point):
        return predict(point, jnp.asarray(INPUTS), *rest)

    def loss(output, label):
        return jax.nn.logsumexp(output) - output[label]

    with float64():
        jacobian = jnp.concatenate(
            [
                leaf.reshape(EXAMPLES, CLASSES, -1)
                for leaf in jax.tree.leaves(jax.jit(jax.jacfwd(outputs))(params))
            ],
            axis=-1,
        )
        middle = jax.vmap(jax.hessian(loss))(outputs(params), jnp.asarray(LABELS))
        weighted = WEIGHTS[:, None, None] / WEIGHTS.sum() * middle
        return np.asarray(jnp.einsum("icp,icd,idq->pq", jacobian, weighted, jacobian))


@pytest.mark.parametrize("name", CASES)
def test_equals_the_explicit_matrix(name, always):
    problem = make(name)
    op = GaussNewton(problem)
    expected = explicit(problem)
    np.testing.assert_allclose(op.to_dense(), expected, atol=1e-13 * np.abs(expected).max())
    assert is_kept(op)


def sorted_by_size(params, inputs):
    order = jnp.argsort(inputs.sum((1, 2, 3)))
    return dense(params, inputs[order])[jnp.argsort(order)]


@pytest.mark.parametrize(
    "predict",
    [
        sorted_by_size,
        pytest.param(lambda p, x: dense(p, x[::-1])[::-1], id="reversed inside"),
    ],
)
def test_examples_in_another_order_inside_are_linearised_as_ever(predict, always):
    with float64():
        problem = Problem(predict, cross_entropy, CASES["dense"][1], (INPUTS, LABELS, WEIGHTS))
    op = GaussNewton(problem)
    expected = explicit(problem)
    np.testing.assert_allclose(op.to_dense(), expected, atol=1e-13 * np.abs(expected).max())
    assert not is_kept(op)
    assert op.program() == (type(op), op.linearisation(), problem.layout, None)


def test_derivatives_that_couple_examples_are_linearised_as_ever(always):
    def centred_by_its_slope(params, inputs):
        outputs = dense(params, inputs)
        mean = outputs.mean(0)
        return outputs - mean + jax.lax.stop_gradient(mean)  # no value depends on the others

    with float64():
        batch = INPUTS, LABELS
        op = GaussNewton(Problem(centred_by_its_slope, cross_entropy, CASES["dense"][1], batch))
        assert not is_kept(op)
        assert np.linalg.norm(op.matvec(np.ones(op.dim))) > 0.1


def test_noise_that_belongs_to_rows_may_be_part_of_the_state(always):
    noise = RNG.normal(size=(EXAMPLES, CLASSES))

    def predict(params, inputs, state):
        return dense(params, inputs) * (1 + state[: len(inputs)])

    params, batch = CASES["dense"][1], (INPUTS, LABELS, WEIGHTS)
    with float64():
        problem = Problem(predict, cross_entropy, params, batch, state=noise)
    expected = explicit(problem)
    found = GaussNewton(problem).to_dense()
    np.testing.assert_allclose(found, expected, atol=1e-13 * np.abs(expected).max())


def test_outputs_with_examples_along_their_second_axis_are_linearised_as_ever(always):
    params = some("abd", c=draw(6, EXAMPLES), e=draw(EXAMPLES))
    with float64():
        for predict, way in ((dense, True), (lambda p, x: dense(p, x).T, False)):
            forward: Any = kept.linearise_outputs(predict, params, jnp.asarray(INPUTS))[1]
            assert (forward.func is kept._derivative) is way


def test_blocks_and_the_fisher_matrix_equal_the_explicit_ones(always):
    problem = make("dense")
    expected = explicit(problem)
    tolerance = 1e-13 * np.abs(expected).max()
    places = problem.layout.slices()
    for paths in (["a"], ["b", "d"], ["c", "e"]):
        block = GaussNewton(problem).block(paths)
        rows = np.concatenate([np.arange(expected.shape[0])[places[path]] for path in paths])
        np.testing.assert_allclose(block.to_dense(), expected[np.ix_(rows, rows)], atol=tolerance)
        assert is_kept(block)
    fisher = Fisher(problem)
    np.testing.assert_allclose(fisher.to_dense(), expected, atol=tolerance)
    assert is_kept(fisher)
    sampled = MonteCarloFisher(problem, jax.random.key(0))
    once = MonteCarloFisher(problem, jax.random.key(0))
    once._is_reference = True
    np.testing.assert_allclose(sampled.to_dense(), once.to_dense(), atol=tolerance)
    assert is_kept(sampled)
    assert not is_kept(once)


def half(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def test_only_whole_batches_in_memory_keep_it(always):
    params, batch = CASES["dense"][1], (INPUTS, LABELS, WEIGHTS)
    with float64():
        whole = GaussNewton(Problem(dense, cross_entropy, params, batch))
        assert is_kept(whole)
        several = GaussNewton(Problem(dense, cross_entropy, params, [batch, batch]))
        assert not is_kept(several)
        data = Batches(INPUTS, LABELS, size=EXAMPLES, weights=WEIGHTS)
        streamed = GaussNewton(Problem(dense, cross_entropy, params, data))
        vector = np.ones(whole.dim)
        for other in (several, streamed):
            np.testing.assert_allclose(other.matvec(vector), whole.matvec(vector), atol=1e-13)
        assert whole.program() != streamed.program()  # each is verified by itself


@pytest.mark.parametrize(
    "predict",
    [
        pytest.param(folded, id="examples and places on one axis"),
        pytest.param(one_by_one, id="a program that grows with the examples"),
        pytest.param(lambda p, x: {"logits": tied(p, x)}, id="a tree of outputs"),
        pytest.param(
            lambda p, x: tied(*half((p, x))).astype(jnp.float64),
            id="narrower inside",
        ),
    ],
)
def test_other_forms_are_linearised_as_ever(predict, always):
    params = some("a") if predict is not folded else {"a": draw(2, 3), "c": draw(48, 3)}

    def loss(outputs, labels):
        return cross_entropy(outputs["logits"] if isinstance(outputs, dict) else outputs, labels)

    with float64():
        assert not is_kept(GaussNewton(Problem(predict, loss, params, (INPUTS, LABELS))))


def test_a_batch_as_small_as_the_sentinels_is_linearised_as_ever(always):
    with float64():
        problem = Problem(dense, cross_entropy, CASES["dense"][1], (INPUTS[:8], LABELS[:8]))
        assert not is_kept(GaussNewton(problem))


def wide(seed=0, sizes=(64, 256, 256, 3), examples=40):
    inputs, targets = problems.digits(examples)
    return Problem(
        problems.predict, cross_entropy, problems.init(sizes, seed), (inputs, targets % sizes[-1])
    )


def test_it_is_kept_where_it_saves_enough(monkeypatch):
    op = GaussNewton(wide())
    assert is_kept(op)
    linear: Any = op._maps[0]
    matrices = linear.args[0].args[1]
    assert [matrix.shape for matrix in matrices] == [(40, 3, n) for n in (256, 256, 3)]  # no biases
    reference = op.reference()
    assert reference is not None
    assert not is_kept(reference)  # another way, whose difference is the noise
    assert op.noise_floor(jax.random.key(0)) < 1e-5 * float(
        np.linalg.norm(op.matvec(np.ones(op.dim, np.float32))) / np.sqrt(op.dim)
    )
    counted = op.gradients_per_product() / reference.gradients_per_product()
    assert 0.5 < counted < 0.7  # 2 products of layer 1, 2 instead of 4 of the others
    assert not is_kept(GaussNewton(wide(sizes=(64, 256, 256, 10))))
    assert not is_kept(GaussNewton(wide(sizes=(64, 32, 32, 3))))
    # What is counted, and what is taken for verified, belongs to one way of the product only.
    narrow = GaussNewton(wide(sizes=(64, 32, 32, 3)))
    assert op.gradients_per_product() < 0.8 < 1 < narrow.gradients_per_product()
    few = GaussNewton(wide(examples=8))
    assert not is_kept(few)
    assert few.program() != op.program()
    assert is_kept(op.block("0"))
    assert not is_kept(op.block("2"))
    monkeypatch.setattr(kept, "LARGEST", 40 * 3 * (256 + 256 + 3) * 4 - 1)
    assert not is_kept(GaussNewton(wide(sizes=(64, 256, 257, 3))))


def test_another_checkpoint_compiles_nothing(compilations):
    def analyse(seed):
        op = GaussNewton(wide(seed))
        image = np.asarray(op.matvec(np.ones(op.dim, np.float32)))
        assert is_kept(op)
        return image

    first = analyse(1)
    before = len(compilations)
    assert not np.allclose(analyse(2), first)
    assert len(compilations) == before


def test_the_map_shares_inputs_and_holds_no_weights():
    problem = wide()
    leaves = jax.tree.leaves(GaussNewton(problem)._maps)
    inputs = next(problem.placed()).inputs
    assert any(leaf is inputs for leaf in leaves)
    weights = {leaf.shape for leaf in jax.tree.leaves(problem.params) if leaf.ndim == 2}
    assert not weights & {leaf.shape for leaf in leaves}
