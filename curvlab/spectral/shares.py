"""Shares of eigenvalues in an interval, by Beta inversion on top of the quadrature bracket."""

import numpy as np

from curvlab.spectral.estimate import Estimate
from curvlab.spectral.functionals import samples
from curvlab.spectral.intervals import count_bounds
from curvlab.spectral.measure import SpectralMeasure


def share_between(
    measure: SpectralMeasure, a: float, b: float, level: float, what: str
) -> Estimate:
    """Estimate the share of eigenvalues in ``(a, b]``; see :meth:`curvlab.SpectralMeasure.mass`.

    ``a`` may be minus infinity: the share up to ``b``.
    """
    points = np.array([a, b])
    lows, highs = np.zeros(2), np.zeros(2)
    asked = points != -np.inf  # nothing is below minus infinity
    lows[asked], highs[asked] = measure.bracket(points[asked])
    below, at_most = measure.gauss_cdf(points).tolist()
    low, high = max(0.0, float(lows[1] - highs[0])), float(highs[1] - lows[0])
    value = float(np.clip(at_most - below, low, high))
    ends = low, high
    if measure.random:
        shares = count_bounds(
            np.array([low]),
            np.array([high]),
            dim=measure.rest,
            vectors=measure.vectors,
            tail=(1 - level) / 2,
        )
        ends = float(shares[0][0]), float(shares[1][0])
    least, middle, most = (measure.atoms_upto(points, side).tolist() for side in (-1, 0, 1))
    fewest, known, greatest = (
        max(0, least[1] - most[0]),
        middle[1] - middle[0],
        most[1] - least[0],
    )
    value = measure.overall(value, known)
    _, stderr = samples(measure, lambda x: ((a < x) & (x <= b)).astype(float)).moments
    return Estimate(
        value,
        stderr,
        min(measure.overall(ends[0], fewest), value),
        max(measure.overall(ends[1], greatest), value),
        level,
        "beta" if measure.random else measure.certainty,
        measure.vectors,
        measure.overall(low, fewest),
        measure.overall(high, greatest),
        measure.matvecs,
        f"{what}; {measure.estimand}",
    )
