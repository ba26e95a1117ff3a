"""Blocks are chosen by path or by their place in the network, for any parameter tree."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.errors import OperatorError, UnknownNameError
from curvlab.curvature import GaussNewton, Hessian, Problem
from curvlab.curvature.data import Batch
from curvlab.objectives import cross_entropy
from curvlab.spectral import eigenpairs
from tests import problems
from tests.oracles import dense_curvature as dense

BATCH = (dense.INPUTS.astype(np.float32), dense.LABELS)
PARAMS = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dense.PARAMS)


def make(predict=dense.predict, params=PARAMS):
    return Hessian(Problem(predict, cross_entropy, params, BATCH))


def test_layers_are_in_the_order_of_the_network_not_of_the_alphabet():
    assert make().layers == ("hidden_0", "hidden_1", "head")
    assert make().block(["head", "hidden_1"]).layers == ("hidden_1", "head")


@jax.jit
def jitted(params, inputs):
    return dense.predict(params, inputs)


def cast_first(params, inputs):
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), params)
    return dense.predict(low, inputs)


def transposed(params, inputs):
    turned = jax.jit(lambda tree: jax.tree.map(jnp.transpose, tree))(params)
    return dense.predict(jax.tree.map(jnp.transpose, turned), inputs)


@pytest.mark.parametrize("predict", [jitted, cast_first, transposed, jax.checkpoint(dense.predict)])
def test_order_is_found_through_calls_and_casts(predict):
    assert make(predict).layers == ("hidden_0", "hidden_1", "head")


def test_layers_without_use_come_first_and_lists_are_layers_by_number():
    unused = {**PARAMS, "spare": {"kernel": jnp.ones((2, 2))}}
    assert make(params=unused).layers == ("spare", "hidden_0", "hidden_1", "head")
    listed = Problem(problems.predict, cross_entropy, problems.init((3, 4, 3)), BATCH)
    assert Hessian(listed).layers == ("0", "1")
    flat = {"a": jnp.ones((3, 3)), "b": jnp.ones((3, 3))}

    def reverse(params, inputs):
        return jnp.tanh(inputs @ params["b"]) @ params["a"]

    assert make(reverse, flat).layers == ("b", "a")


def test_last_layers_and_paths_name_the_same_block():
    op = make()
    assert op.block(last=1).layout.names == ("head/bias", "head/kernel")
    vector = np.ones(op.block(last=2).dim, np.float32)
    np.testing.assert_array_equal(
        op.block(last=2).matvec(vector), op.block(["hidden_1", "head"]).matvec(vector)
    )
    assert op.block("hidden_0/kernel").dim == 12
    assert op.block(["head/kernel"]).block("head").layout.names == ("head/kernel",)


def test_paths_that_do_not_exist():
    with pytest.raises(
        UnknownNameError, match=r"parameter path 'hiden_0'\. Did you mean 'hidden_0"
    ):
        make().block("hiden_0")
    with pytest.raises(UnknownNameError, match="'hidden'"):  # half a name is no path
        make().block("hidden")
    with pytest.raises(UnknownNameError, match="'hidden_0'"):
        make().block("head").block("hidden_0")
    wrong: list[dict[str, Any]] = [{}, {"paths": "head", "last": 1}]
    for arguments in wrong:
        with pytest.raises(OperatorError, match=r"either paths or a number.*block\('head'\)"):
            make().block(**arguments)
    bare = Problem(lambda w, x: x @ w, cross_entropy, jnp.ones((3, 3)), BATCH)
    with pytest.raises(OperatorError, match=r"block\(\['w'\]\).*one bare array.*name the array"):
        Hessian(bare).block("w")
    with pytest.raises(OperatorError, match=r"last=4\).*3 layers: hidden_0, hidden_1, head"):
        make().block(last=4)
    with pytest.raises(OperatorError, match="overlap"):
        make().block_diagonal(["head", "head/bias"])


def test_eigenvectors_of_a_block_are_trees_with_none_for_constants(x64):
    op = make(params=jax.tree.map(lambda leaf: leaf.astype(jnp.float64), PARAMS)).block("head")
    pairs = eigenpairs(op, jax.random.key(0), order=op.dim, largest=1, smallest=1)
    tree = op.layout.unravel(jnp.asarray(pairs.vectors[-1]))
    assert tree["hidden_0"] == {"bias": None, "kernel": None}
    assert tree["head"]["kernel"].shape == (3, 3)
    assert op.estimand.startswith("Hessian of mean cross_entropy over 11 examples, 12 of 43 param")
    assert "(head/bias, head/kernel)" in op.estimand


def test_a_block_of_late_layers_computes_less_than_the_whole():
    sizes = (64, 128, 128, 10)
    inputs, targets = problems.digits(200)
    op = GaussNewton(
        Problem(problems.predict, cross_entropy, problems.init(sizes), (inputs, targets))
    )

    def work(which):
        problem, how = which.problem, which.linearisation()

        def product(params, batch, vector):
            return how(params, Batch(*batch), None)(which.layout.unravel(vector))

        batch = (inputs, targets, np.ones(200, np.float32))
        arguments = (problem.params, batch, np.ones(which.dim, np.float32))
        cost = jax.jit(product).lower(*arguments).compile().cost_analysis()
        assert cost is not None
        return cost["flops"]

    # The forward pass to the outputs is the same; the tangents stop at the head.
    assert work(op.block(last=1)) < 0.6 * work(op)


def test_all_layers_share_one_linearisation():
    op = make()
    diagonal = op.block_diagonal()
    assert diagonal.paths == op.layers
    assert diagonal.whole is op
    for path, block in diagonal.blocks.items():
        assert block.whole is op
        assert block.layout == op.block(path).layout
    only = op.block_diagonal(["head"])
    product = np.asarray(only.matvec(np.ones(op.dim, np.float32)))
    assert not product[dense.rows("hidden_0", "hidden_1")].any()
