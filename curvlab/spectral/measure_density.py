"""Densities of a spectral measure: smoothed with a kernel, with the band of its distribution."""

from typing import Any

import numpy as np
from jaxtyping import Float

from curvlab.core.errors import OperatorError
from curvlab.spectral.density import Axis, Density, LinearAxis, kernel_density, smooth
from curvlab.spectral.measure import SpectralMeasure

FINEST = 600
"""Most cells on which the band of a density is evaluated; with fewer it is valid but wider."""


def smoothed(
    measure: SpectralMeasure,
    grid: Float[Any, " points"],
    *,
    bandwidth: float,
    axis: Axis | None,
    level: float,
) -> Density:
    """Smooth a measure with a Gaussian kernel; see :meth:`curvlab.SpectralMeasure.density`."""
    axis = axis or LinearAxis()
    grid = np.asarray(grid, np.float64)
    centres = axis.forward(np.append(measure.nodes.ravel(), measure.atoms))
    pooled = measure.rest / measure.dim * measure.vector_weights[:, None] * measure.weights
    shares = np.append(pooled.ravel(), np.full(len(measure.atoms), 1 / measure.dim))
    value = smooth(axis.forward(grid), centres, shares, bandwidth)
    # Resolve the kernel, and the flanks of heavy atoms (the null cluster).
    span = axis.forward(np.array([measure.grid[0], measure.grid[-1]]))
    cells = min(int((span[1] - span[0]) / bandwidth * 5), FINEST)
    fine = np.linspace(span[0], span[1], 2 + cells)
    heavy = centres[shares > 0.01]
    flanks = [heavy + step * bandwidth for step in (-0.03, -0.003, 0.003, 0.03)]
    points = axis.inverse(np.unique(np.concatenate([fine, *flanks])))
    band = measure.cdf_band(points, level=level)
    return kernel_density(grid, value, band, axis=axis, bandwidth=bandwidth)


def ritz_histogram(
    measure: SpectralMeasure, grid: Float[Any, " points"], *, bandwidth: float
) -> Density:
    """Smooth equally weighted Ritz values; see :meth:`curvlab.SpectralMeasure.ritz_histogram`.

    Raises
    ------
    OperatorError
        If the number of Ritz values means nothing.
    """
    if not measure.orthogonal or len(measure.atoms):
        raise OperatorError(
            "Equally weighted Ritz values were asked of a measure "
            + ("with deflated eigenvalues" if measure.orthogonal else "without a stored basis")
            + ", where their number means nothing. Run slq with its basis and without deflate=."
        )
    grid = np.asarray(grid, np.float64)
    shares = np.concatenate([np.full(int(m), 1 / int(m)) for m in measure.orders]) / measure.vectors
    nodes = np.concatenate(
        [row[: int(m)] for row, m in zip(measure.nodes, measure.orders, strict=True)]
    )
    value = smooth(grid, nodes, shares, bandwidth)
    unknown = np.full(grid.shape, np.nan)
    unit = f"Ritz values, order {int(measure.orders.max())}, per unit eigenvalue"
    return Density(grid, value, unknown, unknown, float("nan"), bandwidth, unit)
