"""A subspace treated exactly and random unit vectors of its complement, for trace-like estimators.

``tr M = tr(Q M Qᵀ) + (n - k) E[uᵀ M u]`` with ``k`` orthonormal rows ``Q`` and ``u`` uniform on the
unit sphere of the complement. Vectors are drawn, projected and multiplied in blocks, so that memory
does not grow with their number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from curvlab.core.errors import OperatorError
from curvlab.spectral import soundness
from curvlab.spectral.eigenpairs import Eigenpairs
from curvlab.spectral.operator import SymmetricOperator

BLOCK_BYTES = 2**26
"""Most memory of one block of vectors in float64."""

SKETCH, SAMPLE, NOISE = 0x5E7C4, 0x5A317, 0x5A318
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


def blocks(first: int, last: int, dim: int) -> Iterator[tuple[int, int]]:
    """Cut ``range(first, last)`` into ``(first, count)`` that fit the memory of a block."""
    size = max(1, min(BLOCK_BYTES // (8 * dim), 16))
    for start in range(first, last, size):
        yield start, min(size, last - start)


def product_rows(
    op: SymmetricOperator, rows: Float[np.ndarray, "vectors dim"]
) -> Float[np.ndarray, "vectors dim"]:
    """Return ``A v`` in float64 for each row, refusing what is not finite.

    Raises
    ------
    OperatorError
        If a product is not finite.
    """
    images = np.asarray(op.matmat(rows.astype(op.dtype)), np.float64)
    if not np.isfinite(images).all():
        raise OperatorError(
            f"A product of {op.estimand} is not finite. Check the parameters and the data for NaN "
            "or overflow."
        )
    return images


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
    matvecs
        Products spent.
    """

    basis: Float[np.ndarray, "rank dim"]
    trace: float
    square: float
    images: Float[np.ndarray, "rank dim"] | None
    matvecs: int

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


def deflation(
    op: SymmetricOperator, key: Array, *, sketch: int, deflate: Eigenpairs | None
) -> Deflation:
    """Take the span of given eigenvectors, or of ``A S`` for ``sketch`` Gaussian columns ``S``.

    Cost: ``2 sketch`` products, none for given pairs.

    Raises
    ------
    OperatorError
        If ``deflate`` belongs to another dimension, or a product is not finite.
    """
    if deflate is not None:
        deflate.check_dimension(op)
        square = float((deflate.values**2).sum() + (deflate.residuals**2).sum())
        return Deflation(deflate.vectors, float(deflate.values.sum()), square, None, 0)
    if not sketch:
        nothing = np.zeros((0, op.dim))
        return Deflation(nothing, 0.0, 0.0, nothing, 0)
    images = product_rows(op, gaussian_rows(jax.random.fold_in(key, SKETCH), 0, sketch, op.dim))
    basis = np.linalg.qr(images.T)[0].T
    images = product_rows(op, basis)
    trace, square = float((basis * images).sum()), float((images**2).sum())
    return Deflation(basis, trace, square, images, 2 * sketch)


def known_noise(
    op: SymmetricOperator,
    key: Array,
    noise_floor: float | None,
    deflate: Eigenpairs | None = None,
) -> tuple[float, int]:
    """Return the noise floor and its cost: given, that of given pairs, or measured.

    It is measured over two random directions. Every trace-like estimator begins here, so this is
    where the operator is verified.
    """
    soundness.verify(op, key)
    if noise_floor is None and deflate is not None:
        noise_floor = deflate.noise_floor
    if noise_floor is not None:
        return noise_floor, 0
    return op.noise_floor(jax.random.fold_in(key, NOISE)), 2


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


def unit_products(op: SymmetricOperator) -> Iterator[tuple[int, Float[np.ndarray, "count dim"]]]:
    """Yield all columns of the matrix in blocks, with the number of the first; ``dim`` products."""
    for first, count in blocks(0, op.dim, op.dim):
        units = np.zeros((count, op.dim))
        units[np.arange(count), first + np.arange(count)] = 1
        yield first, product_rows(op, units)


def exact_diagonal(op: SymmetricOperator) -> Float[np.ndarray, " dim"]:
    """Return all diagonal entries; ``dim`` products."""
    return np.concatenate(
        [np.diagonal(columns, first).copy() for first, columns in unit_products(op)]
    )
