"""The noise floor of an operator's products, measured where it matters."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from curvlab.spectral.lanczos import Tridiagonal
from curvlab.spectral.operator import SymmetricOperator, random_vector

NOISE_PRODUCTS = 4
"""Products (and as many of the reference) that a measurement of the noise floor spends."""

POWER_STEPS = 3
"""Products that turn a random vector towards the outliers where no Ritz vector is at hand."""


def measured_noise_floor(op: SymmetricOperator, run: Tridiagonal, key: Array) -> float:
    """Measure ``η`` over two random directions and the extreme Ritz vectors of a Lanczos run.

    Random directions hardly touch the outliers, whose rounding error is the largest: the extreme
    Ritz vectors do. Where the run has no stored basis, a few steps of power iteration take their
    place.
    """
    if run.basis is not None:
        extremes = run.ritz_vectors(largest=1, smallest=min(1, run.order - 1))
        return noise_floor_at(op, extremes, key)
    vector = np.asarray(random_vector(jax.random.fold_in(key, 0x90E4), op.dim))
    for _ in range(POWER_STEPS):
        vector = np.asarray(op.matvec(vector))
        length = float(np.linalg.norm(vector))
        if not length:
            break
        vector = vector / length
    return noise_floor_at(op, vector[None] if np.linalg.norm(vector) else vector[None][:0], key)


def noise_floor_at(op: SymmetricOperator, vectors: Any, key: Array) -> float:
    """Measure ``η`` over two random directions and the given ones."""
    return op.noise_floor(
        jax.random.fold_in(key, 0x5EED), vectors=vectors, directions=NOISE_PRODUCTS - 2
    )
