"""Operators made of others answer for their parts: checks, devices, cost."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64
from curvlab.spectral import Dense, SymmetricOperator
from curvlab.spectral.deflated import Deflated
from curvlab.spectral.soundness import verify

KEY = jax.random.key(0)
DIM = 12


def symmetric(seed: int, dtype: Any = np.float64) -> np.ndarray:
    matrix = np.random.default_rng(seed).normal(size=(DIM, DIM))
    return (matrix + matrix.T).astype(dtype)


class Known(SymmetricOperator):
    """A matrix that knows what a curvature matrix knows: its program, devices and cost."""

    def __init__(
        self,
        seed: int = 0,
        *,
        program: str | None = "known",
        mesh: Mesh | None = None,
        cost: float = 1.0,
        remark: str = "",
        refuse: bool = False,
    ):
        super().__init__(DIM, np.float32, f"matrix {seed}")
        self.matrix = symmetric(seed, np.float32)
        self.known, self.mesh, self.cost = program, mesh, cost
        self.remark, self.refuse = remark, refuse
        self.products, self.checked, self.seen_x64 = 0, [], set()

    def product(self, vector):
        self.products += 1
        self.seen_x64.add(jnp.zeros(1).dtype == np.float64)
        return jnp.asarray(self.matrix) @ vector

    def program(self):
        return self.known

    def sharding(self):
        return self.mesh and NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))

    def gradients_per_product(self):
        return self.cost

    def cross_check(self, vector, image):
        self.checked.append((vector, image))
        if self.refuse:
            raise OperatorError("the gradient behind it is none")
        return (self.remark,) if self.remark else ()


ROW = np.eye(1, DIM)
DERIVATIONS = {
    "multiple": lambda op: 2 * op,
    "quotient": lambda op: op / 2,
    "negative": lambda op: -op,
    "shifted": lambda op: op.shift(3.0),
    "sum": lambda op: Dense(symmetric(9, np.float32)) + op,
    "deflated": lambda op: Deflated(op, ROW),
    "twice derived": lambda op: Deflated(0.5 * op.shift(1.0), ROW),
}


@pytest.fixture(params=DERIVATIONS)
def derive(request):
    return DERIVATIONS[request.param]


@given(
    a=st.floats(-1e3, 1e3),
    b=st.floats(-1e3, 1e3),
    divisor=st.floats(1e-3, 1e3),
    shift=st.floats(-1e3, 1e3),
    seed=st.integers(0, 99),
)
def test_algebra_is_that_of_matrices(a, b, divisor, shift, seed):
    left, right = symmetric(seed), symmetric(seed + 1)
    with float64():
        op = a * Dense(left) - (Dense(right) * b).shift(shift) / divisor + -Dense(left)
        found = op.to_dense()
    expected = a * left - (b * right + shift * np.eye(DIM)) / divisor - left
    size = np.abs([a, b / divisor, shift / divisor, 1]).max() * 10
    np.testing.assert_allclose(found, expected, atol=1e-14 * size)


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2), np.float64(2), jnp.float32(2)])
def test_factors_of_any_numeric_type(number):
    op = Dense(symmetric(0))
    for derived in (op * number, number * op):
        np.testing.assert_array_equal(derived.to_dense(), 2 * op.to_dense())
    np.testing.assert_array_equal((op / number).to_dense(), op.to_dense() / 2)


def test_refuses_what_its_part_refuses(derive):
    with pytest.raises(OperatorError, match="the gradient behind it is none"):
        verify(derive(Known(program=None, refuse=True)), KEY)


def test_parts_are_checked_on_products_of_their_own(derive):
    part = Known(program=None, remark="kinks")
    assert verify(derive(part), KEY).notes == ("kinks",)
    ((vector, image),) = part.checked
    np.testing.assert_allclose(image, part.matrix @ vector, rtol=1e-4, atol=1e-5)


def test_remarks_that_parts_share_are_made_once():
    both = Known(1, remark="low precision") - Known(2, remark="low precision")
    assert both.cross_check(jnp.ones(DIM, jnp.float32), np.ones(DIM)) == ("low precision",)


def test_second_checkpoint_is_verified_without_products():
    def spent(number, factor):
        part = Known(number, program="of a run")
        verify(Deflated((factor * part).shift(number), np.eye(number + 1, DIM)), KEY)
        return part.products

    assert spent(0, 2.0) > 0
    assert spent(1, 3.0) == 0


def test_another_program_or_construction_is_verified_anew():
    part = Known(program="shared")
    assert (2 * part).program() == (3 * part).program()
    assert (2 * part).program() != Deflated(part, ROW).program()
    assert (2 * part).program() != (2 * Known(program="other")).program()
    assert (part + part).program() != (2 * part).program()
    assert (part + Dense(symmetric(0))).program() is None


def test_a_promise_of_semidefiniteness_is_verified_though_the_negative_was():
    class Lying(Known):
        def __init__(self):
            super().__init__(program="lying")
            self.positive_semidefinite, self.matrix = True, -np.eye(DIM, dtype=np.float32)

    verify(-Lying(), KEY)
    with pytest.raises(OperatorError, match="declared positive semidefinite"):
        verify(2 * Lying(), KEY)


def test_devices_are_those_of_the_part(derive):
    mesh = Mesh(np.array(jax.devices()[:1]), "all")
    part = Known(mesh=mesh)
    derived = derive(part)
    assert derived.sharding() == part.sharding()
    product = derived.matvec(np.ones(DIM))
    assert isinstance(product.sharding, NamedSharding)
    assert derive(Known()).sharding() is None


def test_terms_on_different_devices_are_refused():
    meshes = [Mesh(np.array(jax.devices()[:1]), name) for name in ("these", "those")]
    with pytest.raises(OperatorError, match="one mesh of devices, got several"):
        _ = Known(mesh=meshes[0]) + Known(mesh=meshes[1])


def test_cost_is_the_sum_over_parts():
    assert (2 * Known(cost=1.5)).gradients_per_product() == 1.5
    assert (Known(cost=1.5) - Known(cost=2.0)).gradients_per_product() == 3.5
    assert Deflated(Known(cost=1.5), ROW).gradients_per_product() == 1.5
    assert np.isnan((Known() + Dense(symmetric(0))).gradients_per_product())


def test_each_part_computes_in_its_own_precision():
    single, double = Known(), Dense(symmetric(1))
    both = single + double
    assert both.dtype == np.float64
    vector = np.random.default_rng(0).normal(size=DIM)
    product = both.matvec(vector)
    assert product.dtype == np.float64
    assert single.seen_x64 == {False}
    expected = single.matrix @ vector.astype(np.float32) + symmetric(1) @ vector
    np.testing.assert_allclose(product, expected, atol=1e-5)


def test_reference_is_made_of_references():
    class Referenced(Known):
        def reference(self):
            return Dense(self.matrix.astype(np.float64))

    op = Referenced(3)
    reference = Deflated((op - 2 * op).shift(0.5), ROW).reference()
    assert reference is not None
    assert reference.dtype == np.float64
    projector = np.eye(DIM) - ROW.T @ ROW
    expected = projector @ (0.5 * np.eye(DIM) - op.matrix) @ projector
    np.testing.assert_allclose(reference.to_dense(), expected, atol=1e-14)
    # A part without one takes part as it is: the noise of the others still counts.
    mixed = (op + Known()).reference()
    assert mixed is not None
    np.testing.assert_allclose(
        mixed.to_dense(), op.matrix + Known().to_dense(), rtol=1e-6, atol=1e-6
    )
    assert (Known() + Known()).reference() is None
