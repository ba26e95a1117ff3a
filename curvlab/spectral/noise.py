"""The noise floor of an operator's products, measured where it matters."""

import jax
from jaxtyping import Array

from curvlab.spectral.lanczos import Tridiagonal
from curvlab.spectral.operator import SymmetricOperator

NOISE_PRODUCTS = 4
"""Products (and as many of the reference) that :func:`measured_noise_floor` spends."""


def measured_noise_floor(op: SymmetricOperator, run: Tridiagonal, key: Array) -> float:
    """Measure ``η`` over two random directions and the extreme Ritz vectors of a Lanczos run.

    Random directions hardly touch the outliers, whose rounding error is the largest: the extreme
    Ritz vectors do.
    """
    extremes = run.ritz_vectors(largest=1, smallest=min(1, run.order - 1))
    return op.noise_floor(
        jax.random.fold_in(key, 0x5EED), vectors=extremes, directions=NOISE_PRODUCTS - 2
    )
