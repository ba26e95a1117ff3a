"""Stochastic Lanczos quadrature: the spectral measure from a few random start vectors."""

from typing import Any

import jax
from jaxtyping import Array, Float

from curvlab.core.errors import OperatorError
from curvlab.spectral.lanczos import Tridiagonal, check_order, lanczos
from curvlab.spectral.measure import SpectralMeasure
from curvlab.spectral.noise import NOISE_PRODUCTS, measured_noise_floor
from curvlab.spectral.operator import SymmetricOperator


def slq(
    op: SymmetricOperator,
    key: Array,
    *,
    order: int,
    vectors: int = 1,
    start: Float[Any, " dim"] | None = None,
    noise_floor: float | None = None,
) -> SpectralMeasure:
    """Estimate the spectral measure of ``op`` by stochastic Lanczos quadrature.

    ``F(x) ≈ Σ_l ω_l Σ_j w_lj 1[θ_lj <= x]`` with Ritz values ``θ_lj`` and ``w_lj`` the squared
    first components of the eigenvectors of ``T_l``.

    Parameters
    ----------
    op
        The matrix.
    key
        Key of the start vectors. The same key gives the same vectors for every operator of the
        same dimension, so differences between checkpoints vary less than levels.
    order
        Lanczos steps for each vector.
    vectors
        Number of random start vectors. For densities of large operators one is enough; the
        intervals account for the number.
    start
        A given start vector (gradient, update): its own measure, with brackets only.
    noise_floor
        ``η`` if known; measured otherwise.

    Returns
    -------
    The measure. Cost: ``order × vectors`` products, plus those of the noise floor if it is measured
    (4 products and 4 of the reference).

    Raises
    ------
    OperatorError
        If the order exceeds the dimension or the number of vectors is below 1.

    References
    ----------
    Ubaru, Chen, Saad 2017, *Fast estimation of tr(f(A)) via stochastic Lanczos quadrature*.
    """
    check_order(op, order, "slq")
    if vectors < 1 or (start is not None and vectors != 1):
        raise OperatorError(
            f"slq(vectors={vectors}) needs at least one random vector, or exactly one with start=."
        )
    runs = [
        lanczos(op, start_key(key, index), order=order, start=start) for index in range(vectors)
    ]
    return measure_from_runs(op, runs, key, noise_floor=noise_floor)


def start_key(key: Array, index: int) -> Array:
    """Return the key of start vector number ``index``."""
    return jax.random.fold_in(key, index)


def measure_from_runs(
    op: SymmetricOperator, runs: list[Tridiagonal], key: Array, *, noise_floor: float | None = None
) -> SpectralMeasure:
    """Make the measure of Lanczos runs on ``op``, measuring the noise floor if it is not given."""
    matvecs = sum(run.order for run in runs)
    if noise_floor is None:
        noise_floor = measured_noise_floor(op, runs[0], key)
        matvecs += NOISE_PRODUCTS
    return SpectralMeasure.from_lanczos(
        runs, dim=op.dim, noise_floor=noise_floor, matvecs=matvecs, estimand=op.estimand
    )
