"""Lanczos tridiagonalisation with full reorthogonalisation.

Products and basis are in the operator's dtype on the device; the recurrence coefficients are
float64 numbers on the host. Every new vector is orthogonalised against all earlier ones, at every
step: switching that off above some order is how ghosts (copies of converged eigenvalues) arise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64
from curvlab.spectral.basis import KrylovBasis, dot, scale
from curvlab.spectral.brackets import tridiagonal_eigh
from curvlab.spectral.operator import SymmetricOperator, random_vector

SECOND_PASS = 0.7
"""A vector that keeps less than this share of its length in a pass is orthogonalised again.

Rounding in a pass is relative to the length before it (Daniel, Gragg, Kaufman, Stewart 1976).
"""

BREAKDOWN = 32
"""A residual below this many unit roundoffs of the operator's scale ends the Krylov space."""


RESTART = 0x2E57A27
"""Tag of the keys of fresh vectors; far from the small numbers by which callers derive keys."""


@dataclass(frozen=True)
class Tridiagonal:
    """Result of Lanczos: ``A Qᵀ = Qᵀ T + residual q e_mᵀ`` with orthonormal rows ``Q``.

    Attributes
    ----------
    diagonal
        Diagonal of ``T``, length ``m``.
    offdiagonal
        Off-diagonal of ``T``, length ``m - 1``.
    residual
        Length of the next Lanczos vector before normalisation. After a breakdown, the coupling that
        was cut: what is known then is exact for a matrix that differs by no more in norm.
    breakdown_step
        Number of steps after which the Krylov space was exhausted to rounding, or ``None``.
    basis
        The rows ``Q``.
    orthogonality
        ``max |Q Qᵀ - I|``.
    start_norm2
        Squared norm of the start vector before normalisation; weighs the vector among others.
    random
        Whether the start vector was drawn from ``N(0, I)``.
    """

    diagonal: Float[np.ndarray, " order"]
    offdiagonal: Float[np.ndarray, " order-1"]
    residual: float
    breakdown_step: int | None
    basis: KrylovBasis
    orthogonality: float
    start_norm2: float
    random: bool

    @property
    def order(self) -> int:
        """Number of steps ``m``."""
        return len(self.diagonal)

    def ritz(self) -> tuple[Float[np.ndarray, " order"], Float[np.ndarray, "order order"]]:
        """Return Ritz values (ascending) and the eigenvectors of ``T`` in columns."""
        return tridiagonal_eigh(self.diagonal, self.offdiagonal)

    def ritz_vectors(self, *, largest: int, smallest: int) -> Float[np.ndarray, "pairs dim"]:
        """Return Ritz vectors of both ends as rows, Ritz values descending."""
        _, small = self.ritz()
        ends = [np.arange(self.order)[::-1][:largest], np.arange(self.order)[:smallest][::-1]]
        with float64():
            return self.basis.combine(small[:, np.concatenate(ends).astype(int)].T)


def check_order(op: SymmetricOperator, order: int, name: str) -> None:
    """Refuse an order that the operator cannot give.

    Raises
    ------
    OperatorError
        If ``order`` is below 1 or above the dimension.
    """
    if order < 1:
        raise OperatorError(f"{name}(order={order}) asks for no step. Use order >= 1.")
    if order > op.dim:
        raise OperatorError(
            f"{name}(order={order}) exceeds the operator's dimension {op.dim}. Use order <= "
            f"{op.dim}, or SymmetricOperator.to_dense() for a matrix this small."
        )


def lanczos(
    op: SymmetricOperator, key: Array, *, order: int, start: Float[Any, " dim"] | None = None
) -> Tridiagonal:
    """Tridiagonalise ``op`` on the Krylov space of one start vector.

    Parameters
    ----------
    op
        The matrix ``A``.
    key
        Key of the start vector ``g ~ N(0, I)``.
    order
        Number of steps ``m``; fewer are taken when the Krylov space is exhausted.
    start
        A given start vector instead of a random one (a gradient, an update).

    Returns
    -------
    The tridiagonal matrix with its basis. Cost: ``m`` products, ``4 m² n`` flops of
    orthogonalisation, ``m n`` numbers of memory.

    Raises
    ------
    OperatorError
        If the order exceeds the dimension, the start vector is zero, or a product is not finite.
    """
    check_order(op, order, "lanczos")
    first = random_vector(key, op.dim) if start is None else start
    return _run(op, first, order=order, random=start is None, fresh=None)


def lanczos_restarting(op: SymmetricOperator, key: Array, *, order: int) -> Tridiagonal:
    """Tridiagonalise like :func:`lanczos`, but go on with a fresh vector after a breakdown.

    The fresh vector is orthogonal to all earlier ones and coupled by a zero in ``T``, so that
    repeated eigenvalues are found as often as they occur. The rows of ``T`` no longer belong to one
    start vector: eigenpairs may be read from it, a spectral measure may not.
    """
    check_order(op, order, "eigenpairs")

    def fresh(count: int) -> Array:
        return random_vector(jax.random.fold_in(jax.random.fold_in(key, RESTART), count), op.dim)

    return _run(op, random_vector(key, op.dim), order=order, random=True, fresh=fresh)


def _run(
    op: SymmetricOperator,
    first: Any,
    *,
    order: int,
    random: bool,
    fresh: Callable[[int], Array] | None,
) -> Tridiagonal:
    basis = KrylovBasis(op.dim, op.dtype)
    tolerance = BREAKDOWN * float(jnp.finfo(op.dtype).eps)
    diagonal: list[float] = []
    offdiagonal: list[float] = []
    breakdown_step = None
    with float64():
        vector = basis.cut(first)
        norm2 = float(dot(vector, vector))
        if not (np.isfinite(norm2) and norm2 > 0):
            raise OperatorError(
                f"The start vector has squared norm {norm2}. Pass a finite, non-zero vector."
            )
        vector = scale(vector, jnp.asarray(norm2**-0.5))
        largest = 0.0  # scale of the operator as seen so far
        previous, residual = jnp.zeros_like(vector), 0.0
        for step in range(order):
            basis.append(vector)
            image = basis.cut(op.matvec(basis.join(vector)))
            alpha = dot(vector, image)
            diagonal.append(float(alpha))
            length = float(dot(image, image)) ** 0.5
            if not np.isfinite(length):
                raise OperatorError(
                    f"The product at Lanczos step {step + 1} is not finite. Check the parameters "
                    "and the data for NaN or overflow (Problem.value() and .gradient())."
                )
            largest = max(largest, length)
            # The three-term recurrence first: it takes away what is large, so that one pass over
            # the basis, which is what costs, nearly always suffices.
            rest = _three_term(image, vector, previous, alpha, jnp.asarray(residual))
            previous = vector
            vector, residual = _orthogonalise(basis, rest, float(dot(rest, rest)) ** 0.5)
            if residual <= tolerance * largest or step + 1 == op.dim:
                if breakdown_step is None:
                    breakdown_step = step + 1
                if fresh is None or step + 1 == min(order, op.dim):
                    break
                residual = 0.0
                candidate = basis.cut(fresh(step + 1))
                size = float(dot(candidate, candidate)) ** 0.5
                vector, length = _orthogonalise(basis, candidate, size)
                vector = scale(vector, jnp.asarray(1 / length))
            elif step + 1 < order:
                vector = scale(vector, jnp.asarray(1 / residual))
            offdiagonal.append(residual)
        orthogonality = basis.orthogonality()
    m = len(diagonal)
    return Tridiagonal(
        np.array(diagonal),
        np.array(offdiagonal[: m - 1]),
        residual,
        breakdown_step,
        basis,
        orthogonality,
        norm2,
        random,
    )


@jax.jit
def _three_term(image: Array, vector: Array, previous: Array, alpha: Array, beta: Array) -> Array:
    exact = image.astype(jnp.float64) - alpha * vector - beta * previous
    return exact.astype(image.dtype)


def _orthogonalise(basis: KrylovBasis, panels: Array, length: float) -> tuple[Array, float]:
    """Remove the basis from a vector; again when cancellation has cost digits."""
    remaining = length
    for _ in range(3):
        panels = basis.remove_from(panels)
        remaining = float(dot(panels, panels)) ** 0.5
        if remaining > SECOND_PASS * length:
            break
        if remaining <= BREAKDOWN * float(jnp.finfo(basis.dtype).eps) * length:
            break
        length = remaining
    return panels, remaining
