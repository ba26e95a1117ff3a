"""What every estimator returns: a number that says how it arose and how far it can be trusted."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from curvlab.spectral.cost import Cost


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes
    ----------
    value
        Point estimate.
    stderr
        Standard error over start vectors; NaN with a single one.
    low, high
        Ends of the confidence interval at ``level``, numerical noise included.
    level
        Nominal coverage of ``[low, high]``.
    method
        How the interval arose: ``beta`` (share of eigenvalues), ``band`` (of the distribution
        function), ``normal`` (quadratic forms with their own variances), ``two-stage``,
        ``leave-one-out``, ``student-t``, ``bracket`` (nothing random is claimed), ``residual``,
        ``exact``; or ``not resolved``: the value is NaN and the ends are bounds.
    vectors
        Independent random start vectors behind the value.
    bracket_low, bracket_high
        Deterministic part of the uncertainty: what the quadrature alone cannot exclude for the
        start vectors that were drawn.
    matvecs
        Operator products spent.
    estimand
        What was estimated: matrix, loss, data and functional.
    cost
        What was spent, from estimators that make products of their own; not part of comparisons.
    """

    value: float
    stderr: float
    low: float
    high: float
    level: float
    method: str
    vectors: int
    bracket_low: float
    bracket_high: float
    matvecs: int
    estimand: str
    cost: Cost | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Band:
    """A function of one variable with bounds that hold for all points of the grid at once.

    Attributes
    ----------
    grid
        Points of evaluation.
    value, low, high
        Point estimate and simultaneous bounds at each grid point.
    level
        Probability that the truth lies inside everywhere.
    method
        How the band arose.
    """

    grid: Float[np.ndarray, " points"]
    value: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]
    level: float
    method: str
