"""Whether an operator is what the estimators assume: finite, linear, symmetric, repeatable.

A user's product that is asymmetric or not linear gives numbers all the same, and wrong ones. Three
products with random vectors show it before any work is spent. What a matrix knows of its own origin
(a network's gradient, say) it checks in :meth:`SymmetricOperator.cross_check`.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64, not_finite
from curvlab.core.sketch import sketch
from curvlab.core.trees import inner, zeros_like
from curvlab.spectral.operator import SymmetricOperator, random_vector

SEPARATION = 30
"""An asymmetry this many times the rounding of the products is no rounding."""

BROKEN = 0.05
"""Products that differ from linear ones by this share are no products with a matrix."""


@dataclass(frozen=True)
class Soundness:
    """What :func:`verify` or :func:`check` found; everything relative to the length of a product.

    Attributes
    ----------
    estimand
        The operator.
    rounding
        ``‖A(au + bv) - aAu - bAv‖ / √(‖Au‖² + ‖Av‖²)``: how far the products are from linear.
    asymmetry
        ``|uᵀAv - vᵀAu| / √(‖Au‖² + ‖Av‖²)``, for random ``u``, ``v`` of the order of
        ``‖A - Aᵀ‖_F / ‖A‖_F``.
    notes
        What does not forbid a spectrum, but belongs beside it.
    products
        Products spent; none by :func:`verify` on what passed before.
    references
        Products of the reference spent.
    noise_floor
        Error of the products in units of an eigenvalue: that of linearity by :func:`verify`, and by
        :func:`check` at least ``η`` over random directions.
    """

    estimand: str
    rounding: float
    asymmetry: float
    notes: tuple[str, ...]
    products: int
    noise_floor: float
    references: int = 0

    def __str__(self) -> str:
        lines = [
            self.estimand,
            f"  finite, linear to {self.rounding:.1e}, symmetric to {self.asymmetry:.1e}"
            f" ({self.products} products, {self.references} of the reference)",
            f"  noise floor {self.noise_floor:.1e} over random directions",
        ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


_instances: WeakKeyDictionary[SymmetricOperator, Soundness] = WeakKeyDictionary()
_programs: dict[Hashable, Soundness] = {}


def verify(op: SymmetricOperator, key: Array) -> Soundness:
    """Refuse an operator whose products are not those of a symmetric matrix.

    Parameters
    ----------
    op
        The operator.
    key
        Key of the two random vectors.

    Returns
    -------
    What was measured. Cost: three products, and what the operator's own cross-check costs; nothing
    for an operator verified before, or one that shares its program with such a one
    (:meth:`SymmetricOperator.program`).

    Raises
    ------
    OperatorError
        If a product is not finite, of the wrong shape, not repeatable, not linear or not symmetric,
        or an operator declared positive semidefinite has a negative quadratic form.
    """
    if op in _instances:
        return _instances[op]
    program = op.program()
    if program is not None and program in _programs:
        return replace(_programs[program], estimand=op.estimand)
    found = _verify(op, key)
    known = _instances[op] = replace(found, products=0)
    if program is not None:
        _programs[program] = known
    return found


def check(op: SymmetricOperator, key: Array) -> Soundness:
    """Report on an operator: what :func:`verify` measures, and the noise floor of its products.

    Parameters
    ----------
    op
        The operator.
    key
        Key of the random vectors.

    Returns
    -------
    A report for people (``print`` it) and programs. Cost: that of :func:`verify`, two products and
    two of the reference.

    Raises
    ------
    OperatorError
        As :func:`verify`.
    """
    found = _verify(op, key)  # of this operator, whatever is known of its program
    floor = max(found.noise_floor, op.noise_floor(jax.random.fold_in(key, 2)))
    notes, reference = found.notes, op.reference()
    if reference is None:
        notes = (
            *notes,
            "the operator has no reference in higher precision; the noise floor assumes products "
            "exact to rounding",
        )
    return replace(
        found,
        estimand=op.estimand,
        noise_floor=floor,
        notes=notes,
        products=found.products + 2,
        references=0 if reference is None else 2,
    )


def _verify(op: SymmetricOperator, key: Array) -> Soundness:
    # A vector may fill a large part of the memory: beside a product only its vector is held, and
    # vectors are drawn again rather than kept.
    def drawn(index: int) -> PyTree:
        return op.unflatten(random_vector(jax.random.fold_in(key, index), op.dim))

    a, b = np.sqrt(np.array([0.7, 0.3])).astype(op.dtype)
    with op.precision():
        mixed = _mixed(drawn(0), drawn(1), a, b)
    length_mixed = _inner(mixed, mixed) ** 0.5
    image_mixed = sketch(_image(op, mixed))
    del mixed

    right = drawn(1)
    image = _image(op, right)
    del right
    length_right, across = _inner(image, image) ** 0.5, _inner(drawn(0), image)
    image_right = sketch(image)
    del image

    left = drawn(0)
    image = _image(op, left)
    form, length_left = _inner(left, image), _inner(left, left) ** 0.5
    del left
    length, back = _inner(image, image) ** 0.5, _inner(drawn(1), image)
    image_left = sketch(image)
    del image

    size = float(np.hypot(length, length_right))
    if size == 0:
        return Soundness(op.estimand, 0.0, 0.0, ("every product is zero",), 3, 0.0)
    error = float(np.linalg.norm(image_mixed - a * image_left - b * image_right))
    rounding = error / size
    if rounding > BROKEN:
        again = float(np.linalg.norm(sketch(_image(op, drawn(0))) - image_left)) / size
        if again > float(jnp.finfo(op.dtype).eps) ** 0.5:
            raise OperatorError(
                f"Two products of {op.estimand} with one vector differ by {again:.2g} of their "
                "length. Switch randomness off (dropout, sampling) and fix the data."
            )
        raise OperatorError(
            f"{op.estimand} is not linear: A(u + v) differs from Au + Av by {rounding:.2g} of "
            "their length. Pass the product with a matrix, at fixed parameters and data."
        )
    asymmetry = abs(across - back) / size
    tolerance = max(float(jnp.finfo(op.dtype).eps) ** 0.5, SEPARATION * rounding)
    if asymmetry > tolerance:
        raise OperatorError(
            f"{op.estimand} is not symmetric: |u'Av - v'Au| is {asymmetry:.2g} of ‖Au‖ for random "
            f"u, v, and rounding explains {tolerance:.1g}. The Jacobian of an update that is no "
            "gradient (the semi-gradient of temporal differences) is such a matrix: compute its "
            "targets once and pass them as data, or pass (A + A') / 2 if that is what you mean."
        )
    if op.positive_semidefinite and form < -tolerance * length * length_left:
        raise OperatorError(
            f"{op.estimand} is declared positive semidefinite, but u'Au is {form:.3g} for a "
            "random u. Drop the declaration, or check the product."
        )
    notes = op.cross_check(drawn(0), image_left)
    if rounding > 100 * float(jnp.finfo(op.dtype).eps):
        notes = (
            f"products are linear only to {rounding:.1e}: something inside computes in less than "
            f"{op.dtype}, or cancels",
            *notes,
        )
    return Soundness(op.estimand, rounding, asymmetry, notes, 3, error / length_mixed)


def _inner(left: PyTree, right: PyTree) -> float:
    with float64():
        return float(inner(left, right))


@jax.jit
def _mixed(left: PyTree, right: PyTree, a: Array, b: Array) -> PyTree:
    return jax.tree.map(lambda x, y: a * x + b * y, left, right)


def _image(op: SymmetricOperator, vector: PyTree) -> PyTree:
    with op.precision():
        image = op.add_product(zeros_like(vector), vector)
        bad = sum(map(int, jax.tree.leaves(not_finite(image))))
    if bad:
        raise OperatorError(
            f"A product of {op.estimand} with a random vector holds {bad} of {op.dim} entries "
            "that are NaN or infinite. Check parameters and data for overflow (Problem.value() and "
            ".gradient())."
        )
    return image
