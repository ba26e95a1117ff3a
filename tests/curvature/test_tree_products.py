"""Products on trees, for parameters so many that flat copies of them would not fit."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.curvature import GaussNewton, Hessian, Problem, linear_maps, operator
from curvlab.objectives import cross_entropy
from curvlab.spectral import Memory, check, lanczos, slq
from curvlab.spectral.basis import Tier
from tests import problems

KEY = jax.random.key(0)
INPUTS, TARGETS = problems.digits(60)


def penalty(params):
    return sum(jnp.vdot(leaf, leaf) ** 2 for leaf in jax.tree.leaves(params))


def problem(batches=1, seed=0, **further):
    parts = [(INPUTS[i::batches], TARGETS[i::batches]) for i in range(batches)]
    params = problems.init((64, 16, 10), seed)
    return Problem(problems.predict, cross_entropy, params, parts, **further)


@pytest.fixture
def large(monkeypatch):
    """Treat every number of parameters as large."""
    monkeypatch.setattr(operator, "LARGE", 0)


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("matrix", [Hessian, GaussNewton, lambda p: Hessian(p).block(last=1)])
def test_products_of_trees_are_those_of_flat_vectors(large, matrix, batches):
    op = matrix(problem(batches, penalty=penalty))
    total, vector = np.random.default_rng(1).normal(size=(2, op.dim)).astype(np.float32)
    found = op.flatten(op.add_product(op.unflatten(total), op.unflatten(vector)))
    expected = total + np.asarray(op.matvec(vector))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_parameter_may_be_a_single_number():
    params = {"kernel": problems.init((64, 4))[0][0], "scale": np.float32(1.5)}

    def predict(point, inputs):
        return point["scale"] * jnp.tanh(inputs @ point["kernel"])

    op = Hessian(Problem(predict, cross_entropy, params, (INPUTS, TARGETS % 4)))
    found = slq(op, KEY, order=40, memory=Memory(5 * 4 * op.dim), noise_floor=0.0)
    assert found.tier is Tier.NONE
    expected = np.linalg.eigvalsh(op.to_dense())[-1]
    assert found.nodes.max() == pytest.approx(expected, rel=1e-4)


def test_a_density_does_not_depend_on_the_way_of_the_product(monkeypatch):
    found = []
    for limit in (0, operator.LARGE):
        monkeypatch.setattr(operator, "LARGE", limit)
        op = Hessian(problem())
        assert check(op, KEY).rounding < 1e-6
        measure = slq(op, KEY, order=12, memory=Memory(7 * 4 * op.dim), noise_floor=1e-6)
        assert measure.tier is Tier.NONE
        found.append(measure)
    assert found[0].moment(2).value == pytest.approx(found[1].moment(2).value, rel=1e-5)
    np.testing.assert_allclose(found[0].nodes.max(), found[1].nodes.max(), rtol=1e-5)


def test_a_saved_run_without_a_basis_goes_on_bit_for_bit(large, tmp_path):
    op = Hessian(problem())
    call = partial(lanczos, op, KEY, memory=Memory(6 * 4 * op.dim + 1))
    whole = call(order=9)
    for order in (2, 3, 6):
        call(order=order, save=tmp_path)
    resumed = call(order=9, save=tmp_path)
    np.testing.assert_array_equal(whole.diagonal, resumed.diagonal)
    np.testing.assert_array_equal(whole.offdiagonal, resumed.offdiagonal)


def test_a_product_of_trees_makes_no_flat_copy():
    widths = (200, 800, 800, 10)
    params = problems.init(widths, 0)
    inputs = np.ones((4, 200), np.float32)
    op = Hessian(Problem(problems.predict, cross_entropy, params, (inputs, np.arange(4))))
    tree = op.unflatten(np.zeros(op.dim, np.float32))
    with op.precision():
        program = linear_maps.add.lower(op._maps[0], tree, tree, jnp.float32(1), op.layout)
    found: Any = program.compile().memory_analysis()
    size = 4 * op.dim
    assert found.alias_size_in_bytes >= size  # in the memory of the total
    # Two contributions to the largest kernel, which is four fifths of everything.
    assert found.temp_size_in_bytes <= 1.7 * size
    # Far less than flat: those two, a copy cut into leaves, and the result beside its argument.
    with op.precision():
        flat = linear_maps.apply.lower(
            op._maps[0], jnp.zeros(op.dim, jnp.float32), jnp.float32(1), op.layout
        )
    other: Any = flat.compile().memory_analysis()
    assert found.temp_size_in_bytes + size <= other.temp_size_in_bytes + other.output_size_in_bytes
