"""A subspace treated exactly and random unit vectors of its complement, for trace-like estimators.

``tr M = tr(Q M Qᵀ) + (n - k) E[uᵀ M u]`` with ``k`` orthonormal rows ``Q`` and ``u`` uniform on the
unit sphere of the complement. Those are drawn, projected and multiplied in blocks, so that memory
does not grow with their number; the subspace holds a row and its image for each dimension.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from curvlab.core.errors import OperatorError
from curvlab.spectral.eigenpairs import Eigenpairs
from curvlab.spectral.krylov import BREAKDOWN
from curvlab.spectral.work import Work

SKETCH, SAMPLE = 0x5E7C4, 0x5A317
"""Tags of keys; far from the small numbers by which callers derive keys."""

FEWEST = 8
"""Fewest vectors: with fewer, an interval would have to be wide beyond use."""


@partial(jax.jit, static_argnames=("count", "dim"))
def _rows(key: Array, first: Array, count: int, dim: int) -> Float[Array, "count dim"]:
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(first + jnp.arange(count))
    return jax.vmap(lambda one: jax.random.normal(one, (dim,), jnp.float32))(keys)


def gaussian_rows(key: Array, first: int, count: int, dim: int) -> Float[np.ndarray, "count dim"]:
    """Draw vectors ``first`` to ``first + count - 1`` of a key; each has its own number."""
    drawn = 1 << (count - 1).bit_length()  # few shapes, so few compilations
    return np.asarray(_rows(key, jnp.int32(first), drawn, dim), np.float64)[:count]


@dataclass(frozen=True)
class Deflation:
    """Orthonormal rows ``Q`` that an estimator treats exactly.

    Attributes
    ----------
    basis
        The rows ``Q``.
    trace
        ``tr(Q A Qᵀ)``.
    square
        ``‖A Qᵀ‖²_F``.
    images
        ``A q`` in rows, where they were computed.
    """

    basis: Float[np.ndarray, "rank dim"]
    trace: float
    square: float
    images: Float[np.ndarray, "rank dim"] | None

    @property
    def rest(self) -> int:
        """Dimension of the complement."""
        return self.basis.shape[1] - len(self.basis)

    def remove(self, rows: Float[np.ndarray, "vectors dim"]) -> Float[np.ndarray, "vectors dim"]:
        """Return the rows without their part in the subspace."""
        return rows - (rows @ self.basis.T) @ self.basis

    def unit_rows(self, key: Array, first: int, count: int) -> Float[np.ndarray, "count dim"]:
        """Draw unit vectors of the complement."""
        rows = self.remove(gaussian_rows(key, first, count, self.basis.shape[1]))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def deflation(work: Work, key: Array, *, sketch: int, deflate: Eigenpairs | None) -> Deflation:
    """Take the span of given eigenvectors, or the Krylov space of a Gaussian vector.

    The Krylov space has ``sketch`` dimensions; where it ends before, another Gaussian vector goes
    on. It holds outliers better than the span of ``A S`` for as many Gaussian columns ``S``, and
    the products that build it are those that its exact part needs: ``sketch`` of them in all, none
    for given pairs.

    Raises
    ------
    OperatorError
        If ``deflate`` belongs to another dimension, or a product is not finite.
    """
    if deflate is not None:
        deflate.check_dimension(work.op)
        square = float((deflate.values**2).sum() + (deflate.residuals**2).sum())
        return Deflation(deflate.vectors, float(deflate.values.sum()), square, None)
    if not sketch:
        nothing = np.zeros((0, work.op.dim))
        return Deflation(nothing, 0.0, 0.0, nothing)
    # Not a `Krylov`: in float64 on the host the complement is orthogonal to all digits, and images
    # are products, not what a recurrence says of them.
    basis, images = np.zeros((2, sketch, work.op.dim))
    largest = 0.0
    for step in range(sketch):
        row = images[step - 1]  # zero at first
        largest, row = max(largest, float(np.linalg.norm(row))), _without(row, basis[:step])
        if np.linalg.norm(row) <= BREAKDOWN * work.op.roundoff() * largest:
            row = gaussian_rows(jax.random.fold_in(key, SKETCH), step, 1, work.op.dim)[0]
            row = _without(row, basis[:step])
        basis[step] = row / np.linalg.norm(row)
        images[step] = work.rows(basis[step : step + 1])[0]
    trace, square = float((basis * images).sum()), float((images**2).sum())
    return Deflation(basis, trace, square, images)


def _without(
    row: Float[np.ndarray, " dim"], basis: Float[np.ndarray, "rank dim"]
) -> Float[np.ndarray, " dim"]:
    for _ in range(2):  # the second time takes what rounding left
        row = row - (basis @ row) @ basis
    return row


def check_vectors(vectors: int, name: str) -> None:
    """Refuse too few vectors.

    Raises
    ------
    OperatorError
        If there are fewer than 8.
    """
    if vectors < FEWEST:
        raise OperatorError(
            f"{name}(vectors={vectors}) cannot give an honest interval. Use vectors >= {FEWEST}."
        )
