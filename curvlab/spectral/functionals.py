"""Means of functions of the eigenvalues from a spectral measure, with their two uncertainties.

The quadrature leaves a bracket, the start vectors an interval. Both are bounds on a distribution
function integrated by parts: ``∫ f dF = f(end) - ∫ F df``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from curvlab.core.errors import OperatorError
from curvlab.spectral.complement import FEWEST
from curvlab.spectral.estimate import Estimate
from curvlab.spectral.intervals import form_margin
from curvlab.spectral.measure import SpectralMeasure

SUBDIVISIONS = 16
"""Samples of a function inside each cell of a grid."""


@dataclass(frozen=True)
class Variation:
    """Rise and fall of a function in each cell of a grid, and its last value."""

    rise: Float[np.ndarray, " cells"]
    fall: Float[np.ndarray, " cells"]
    last: float

    @classmethod
    def of(cls, f: Callable[[Any], Any], grid: Float[np.ndarray, " points"]) -> "Variation":
        """Sample a function inside the cells of a grid.

        Raises
        ------
        OperatorError
            If the function is not finite there.
        """
        inner = np.linspace(0, 1, SUBDIVISIONS + 1)
        with np.errstate(all="ignore"):  # what is not finite is refused below
            samples = np.asarray(f(grid[:-1, None] + np.diff(grid)[:, None] * inner), np.float64)
        if not np.isfinite(samples).all():
            raise OperatorError(
                f"The function is not finite everywhere on [{grid[0]:.3g}, {grid[-1]:.3g}], where "
                "eigenvalues may lie. Clip it there, or shift the operator."
            )
        steps = np.diff(samples, axis=1)
        return cls(
            np.maximum(steps, 0).sum(1), np.maximum(-steps, 0).sum(1), float(samples[-1, -1])
        )

    def ends(
        self, low: Float[np.ndarray, " points"], high: Float[np.ndarray, " points"]
    ) -> tuple[float, float]:
        """Return the extremes of ``∫ f dF`` over all monotone ``F`` between two bounds."""
        # On each cell F lies between its left and its right value.
        return (
            self.last - float((self.rise * high[1:] - self.fall * low[:-1]).sum()),
            self.last - float((self.rise * low[:-1] - self.fall * high[1:]).sum()),
        )


def moment(measure: SpectralMeasure, k: int, *, level: float) -> Estimate:
    """Estimate ``(1/n) Σ λ_i^k`` where the quadrature is exact."""
    running = measure.orders[~measure.exact]
    reach = int(2 * running.min(initial=np.iinfo(np.int32).max) - 1)
    if k < 0 or k > reach:
        raise OperatorError(
            f"moment({k}) needs a quadrature exact to degree {k}; this one reaches {reach}. "
            f"Run slq with order >= {k // 2 + 1}."
        )
    # Beyond that degree an exhausted space is right but for the coupling that was cut.
    cut = [
        measure.offdiagonal[row, m - 1]
        for row, m in enumerate(measure.orders)
        if k > 2 * m - 1 and measure.exact[row]
    ]
    slope = k * float(np.abs(measure.support).max()) ** max(k - 1, 0)
    blur = slope * (measure.blur + max(cut, default=0.0))
    # The variance of a vector's value is a moment too, of twice the degree: short of it the
    # quadrature has it too small.
    return _estimate(
        measure,
        lambda x: x**k,
        level,
        f"mean of eigenvalue^{k}",
        exact=True,
        blur=blur,
        spread_known=2 * k <= reach,
    )


def expectation(
    measure: SpectralMeasure, f: Callable[[Any], Any], *, level: float, name: str
) -> Estimate:
    """Estimate ``(1/n) Σ f(λ_i)``; see :meth:`curvlab.SpectralMeasure.expectation`."""
    what = f"mean of {name}(eigenvalue)"
    return _estimate(measure, f, level, what, exact=False, blur=0.0, spread_known=True)


def _estimate(
    measure: SpectralMeasure,
    f: Callable[[Any], Any],
    level: float,
    what: str,
    *,
    exact: bool,
    blur: float,
    spread_known: bool,
) -> Estimate:
    variation = Variation.of(f, measure.grid)
    found = samples(measure, f)
    value, stderr = found.moments
    bracket = (value - blur, value + blur) if exact else variation.ends(*measure.grid_bracket)
    bracket = min(bracket[0], value), max(bracket[1], value)
    interval, method = bracket, measure.certainty
    if measure.random:
        several = spread_known and measure.vectors >= FEWEST
        share = (1 + level) / 2 if several else level
        band = measure.grid_band(level=share)
        interval, method = variation.ends(band.low, band.high), "band"
        if several:
            # Each misses with half the probability, so both hold together.
            margin = found.pooling * form_margin(found.variances, share)
            both = max(interval[0], bracket[0] - margin), min(interval[1], bracket[1] + margin)
            if both[0] < both[1] and both != interval:
                interval, method = both, "normal"
    return Estimate(
        value,
        stderr if spread_known else float("nan"),
        min(interval[0], value),
        max(interval[1], value),
        level,
        method,
        measure.vectors,
        *bracket,
        measure.matvecs,
        f"{what}; {measure.estimand}",
    )


@dataclass(frozen=True)
class Samples:
    """What each start vector says of the mean of a function over all eigenvalues.

    ``Var(vᵀ f(A) v) = 2 E‖f(A) v - (vᵀ f(A) v) v‖² / n``, and the squared length is the variance of
    ``f`` under the measure of ``v``: each vector estimates the variance of its own value.

    Attributes
    ----------
    values
        Mean of ``f`` as each vector sees it, deflated eigenvalues included.
    variances
        Estimated variance of each value.
    vector_weights
        Share of each vector.
    """

    values: Float[np.ndarray, " vectors"]
    variances: Float[np.ndarray, " vectors"]
    vector_weights: Float[np.ndarray, " vectors"]

    @property
    def pooling(self) -> float:
        """Standard error of the pooled mean over that of the plain one, ``√(s Σ ω²)``."""
        return float(np.sqrt(len(self.values) * (self.vector_weights**2).sum()))

    @property
    def moments(self) -> tuple[float, float]:
        """Pooled mean and its standard error (NaN with one vector)."""
        value = float(self.vector_weights @ self.values)
        if len(self.values) < 2:
            return value, float("nan")
        return value, float(np.sqrt(self.variances.mean() * (self.vector_weights**2).sum()))


def samples(measure: SpectralMeasure, f: Callable[[Any], Any]) -> Samples:
    """Evaluate a function at the nodes of each vector and at the atoms."""
    images = np.asarray(f(measure.nodes), np.float64)
    inner = (measure.weights * images).sum(1)
    spread = (measure.weights * (images - inner[:, None]) ** 2).sum(1)
    known = float(np.sum(f(measure.atoms))) if len(measure.atoms) else 0.0
    share = measure.rest / measure.dim
    values = share * inner + known / measure.dim
    return Samples(values, share**2 * 2 * spread / measure.rest, measure.vector_weights)
