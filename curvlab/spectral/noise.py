"""The noise floor of an operator's products, measured where it matters."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from curvlab.spectral.lanczos import Tridiagonal
from curvlab.spectral.operator import SymmetricOperator, random_vector

DIRECTIONS = 2
"""Random directions over which the noise floor is measured, beside the extreme vectors."""

NOISE_PRODUCTS = DIRECTIONS + 2
"""Products (and as many of the reference) of a measurement with one vector of either end."""

POWER_STEPS = 3
"""Products that turn a random vector towards the outliers where no Ritz vector is at hand."""


def of_reference(op: SymmetricOperator, products: int) -> int:
    """Return how many products of its reference go with some of an operator's: as many, or none."""
    return 0 if op.reference() is None else products


def measured_noise_floor(
    op: SymmetricOperator, run: Tridiagonal, key: Array
) -> tuple[float, int, int]:
    """Measure ``η`` over two random directions and the extreme Ritz vectors of a Lanczos run.

    Returns the noise floor, the products spent and those of the reference.

    Random directions hardly touch the outliers, whose rounding error is the largest: the extreme
    Ritz vectors do. Where the run has no stored basis, a few steps of power iteration take their
    place.
    """
    if run.basis is not None:
        extremes = run.ritz_vectors(largest=1, smallest=min(1, run.order - 1))
        return noise_floor_at(op, extremes, key)
    vector = np.asarray(random_vector(jax.random.fold_in(key, 0x90E4), op.dim))
    steps = 0
    for _ in range(POWER_STEPS):
        vector = np.asarray(op.matvec(vector))
        steps += 1
        length = float(np.linalg.norm(vector))
        if not length:
            break
        vector = vector / length
    found = vector[None] if np.linalg.norm(vector) else vector[None][:0]
    floor, spent, references = noise_floor_at(op, found, key)
    return floor, spent + steps, references


def noise_floor_at(
    op: SymmetricOperator, vectors: Float[Any, "vectors dim"], key: Array
) -> tuple[float, int, int]:
    """Measure ``η`` over two random directions and the given ones; also return the products."""
    floor = op.noise_floor(jax.random.fold_in(key, 0x5EED), vectors=vectors, directions=DIRECTIONS)
    products = DIRECTIONS + len(vectors)
    return floor, products, of_reference(op, products)
