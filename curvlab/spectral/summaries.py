"""Scalars that sum up a spectrum, each with an interval, or with the statement that there is none.

A summary that the measure does not resolve is data: an :class:`curvlab.Estimate` with the value
NaN, the method ``not resolved`` and the widest bounds that are still certain. More steps, or
eigenpairs deflated from the measure, resolve more; a small matrix resolves everything
(:meth:`curvlab.SpectralMeasure.from_eigenvalues`). Ranks are in :mod:`curvlab.spectral.ranks`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from curvlab.core.errors import OperatorError
from curvlab.spectral.eigenpairs import Eigenpairs
from curvlab.spectral.estimate import Estimate
from curvlab.spectral.functions import check_not_negative
from curvlab.spectral.measure import SpectralMeasure

NOT_RESOLVED = "not resolved"
"""Method of a summary that the measure does not determine."""

RESOLVED = 2.0
"""An interval whose ends differ by more than this factor resolves no magnitude."""


def summary(
    measure: SpectralMeasure,
    value: float,
    interval: tuple[float, float],
    bracket: tuple[float, float],
    level: float,
    what: str,
    *,
    method: str | None = None,
) -> Estimate:
    """Make the estimate of a summary, with the value NaN where it is not resolved."""
    if method is None:
        method = "band" if measure.random else measure.certainty
    return Estimate(
        float("nan") if method == NOT_RESOLVED else value,
        float("nan"),
        min(interval[0], value),
        max(interval[1], value),
        level,
        method,
        measure.vectors,
        min(bracket[0], value),
        max(bracket[1], value),
        measure.matvecs,
        f"{what}; {measure.estimand}",
    )


def within_factor(low: float, high: float) -> bool:
    """Whether an interval of a non-negative number spans at most the factor :data:`RESOLVED`."""
    return high <= RESOLVED * low


def negative_mass(measure: SpectralMeasure, *, level: float = 0.95) -> Estimate:
    """Estimate ``Σ |λ₋| / Σ |λ|``, the share of the curvature that is negative.

    Where most eigenvalues are near zero the sums depend on how near, which few steps do not tell:
    the interval says how much of the share that leaves open. It counts as resolved when it is
    narrower than 0.2.

    Parameters
    ----------
    measure
        The measure.
    level
        Coverage of the interval.

    Returns
    -------
    The share, from the simultaneous band of the distribution function. No products.
    """
    parts = [
        measure.expectation(f, level=(1 + level) / 2)  # two intervals that must hold together
        for f in (lambda x: np.maximum(-x, 0), lambda x: np.maximum(x, 0))
    ]

    def share(negative: float, positive: float) -> float:
        negative, positive = max(negative, 0.0), max(positive, 0.0)
        return negative / (negative + positive) if negative + positive else 0.0

    minus, plus = parts
    interval = share(minus.low, plus.high), share(minus.high, plus.low)
    bracket = (
        share(minus.bracket_low, plus.bracket_high),
        share(minus.bracket_high, plus.bracket_low),
    )
    value = share(minus.value, plus.value)
    method = parts[0].method if interval[1] - interval[0] < 0.2 else NOT_RESOLVED
    return summary(measure, value, interval, bracket, level, "negative mass", method=method)


def effective_dimension(measure: SpectralMeasure, *, shift: float, level: float = 0.95) -> Estimate:
    """Estimate ``Σ λ_i / (λ_i + shift)`` of a positive semidefinite matrix.

    Parameters
    ----------
    measure
        The measure.
    shift
        Positive number against which an eigenvalue counts (a prior precision, a damping).
    level
        Coverage of the interval.

    Returns
    -------
    A number between 0 and the dimension. No products.

    Raises
    ------
    OperatorError
        If the shift is not positive, or the matrix has a negative eigenvalue for certain.
    """
    if not shift > 0:
        raise OperatorError(
            f"effective_dimension(shift={shift}) needs a shift > 0. Use the size against which an "
            "eigenvalue counts: a damping or the precision of a prior."
        )
    check_not_negative(measure, "effective_dimension")

    def count(x: Any) -> Any:
        return np.maximum(x, 0) / (np.maximum(x, 0) + shift)

    found = measure.expectation(count, level=level)
    value, low, high, *bracket = (
        measure.dim * end
        for end in (found.value, found.low, found.high, found.bracket_low, found.bracket_high)
    )
    return Estimate(
        value,
        measure.dim * found.stderr,
        max(low, 0.0),
        min(high, float(measure.dim)),
        level,
        found.method,
        found.vectors,
        max(bracket[0], 0.0),
        min(bracket[1], float(measure.dim)),
        found.matvecs,
        f"effective dimension, shift {shift:g}; {measure.estimand}",
    )


def condition_number(pairs: Eigenpairs, *, shift: float) -> Estimate:
    """Bound ``(λ_max + shift) / (λ_min + shift)`` of a positive semidefinite matrix.

    A Rayleigh quotient never lies outside the spectrum, so the lower end is certain. For the upper
    one nobody certifies that nothing lies further out: an eigenvalue may, by
    ``gap × (λ_max - λ_min)`` except with the probabilities in :attr:`Eigenpairs.miss`, and down to
    zero. Without a shift the condition number of a network's curvature is that of its null space:
    infinite or noise.

    Parameters
    ----------
    pairs
        Eigenpairs of both ends, from a cold start or verified (a warm start knows no ``miss``).
    shift
        Positive number added to every eigenvalue, in their units.

    Returns
    -------
    The ratio, with method ``residual`` and a level of one minus both probabilities; its bracket is
    what follows if these are the outermost pairs. Without ``miss`` it is not resolved, and the
    upper end infinite. No products.

    Raises
    ------
    OperatorError
        If the shift is not positive, an end is missing, or an eigenvalue is certainly negative.
    """
    if not shift > 0:
        raise OperatorError(
            f"condition_number(shift={shift}) needs a shift > 0. Use the number that is added to "
            "every eigenvalue: a damping or a weight decay."
        )
    if not 0 < pairs.largest < len(pairs.values):
        raise OperatorError(
            f"condition_number needs eigenpairs of both ends, got {pairs.largest} largest and "
            f"{len(pairs.values) - pairs.largest} smallest. Run eigenpairs(largest=1, smallest=1)."
        )
    top, bottom, noise = float(pairs.values[0]), float(pairs.values[-1]), pairs.noise_floor
    if bottom < -2 * noise - 1e-13 * np.abs(pairs.values).max():
        raise OperatorError(
            f"condition_number needs a positive semidefinite matrix; this one has a Rayleigh "
            f"quotient of {bottom:.3g}: {pairs.estimand}. Use a Gauss-Newton matrix."
        )

    def ratio(largest: float, smallest: float) -> float:
        return max((max(largest, 0.0) + shift) / (max(smallest, 0.0) + shift), 1.0)

    # Both ends may be short by that share of the true width, which is then the wider.
    further = pairs.gap * (pairs.high[0] - pairs.low[-1]) / (1 - 2 * pairs.gap)
    low, value = ratio(top - noise, bottom + noise), ratio(top, bottom)
    high = ratio(float(pairs.high[0]) + further, float(pairs.low[-1]) - further)
    level = 1 - float(pairs.miss[0] + pairs.miss[-1])
    unknown = not level > 0  # NaN too
    return Estimate(
        float("nan") if unknown else value,
        float("nan"),
        low,
        float("inf") if unknown else high,
        1.0 if unknown else level,
        NOT_RESOLVED if unknown else "residual",
        0,
        ratio(float(pairs.low[0]), float(pairs.high[-1])),
        ratio(float(pairs.high[0]), float(pairs.low[-1])),
        pairs.matvecs,
        f"condition number, shift {shift:g}; {pairs.estimand}",
    )


@dataclass(frozen=True)
class Outliers:
    """Eigenvalues of one sign that stand apart from the bulk.

    Attributes
    ----------
    values
        The outliers, by falling magnitude.
    low, high
        Ends of their intervals.
    edge
        The next eigenvalue: the edge of the bulk among the computed pairs.
    edge_low, edge_high
        Ends of its interval.
    ratio
        Smallest outlier over edge, as computed.
    ratio_low, ratio_high
        The same from the ends of the intervals.
    resolved
        Whether the intervals beside the gap are disjoint. If not, or with fewer than two
        eigenvalues above the noise, there is no gap to speak of: ``values`` is then empty.
    """

    values: Float[np.ndarray, " outliers"]
    low: Float[np.ndarray, " outliers"]
    high: Float[np.ndarray, " outliers"]
    edge: float
    edge_low: float
    edge_high: float
    ratio: float
    ratio_low: float
    ratio_high: float
    resolved: bool


def outliers(pairs: Eigenpairs, *, sign: int = 1) -> Outliers:
    """Separate outliers from the bulk by the largest *ratio* gap among resolved eigenvalues.

    Differences would always find the first gap of a decaying spectrum, and rules by the median
    absolute deviation fail because more than half of a network's spectrum is zero. Only gaps
    between the given pairs are seen, so compute a few pairs more than there are outliers.

    Parameters
    ----------
    pairs
        Eigenpairs; those of the chosen sign whose interval excludes zero are looked at.
    sign
        1 for positive eigenvalues, -1 for negative ones.

    Returns
    -------
    The outliers and the edge of the bulk. No products.

    Raises
    ------
    OperatorError
        If the sign is neither 1 nor -1.
    """
    if sign not in (1, -1):
        raise OperatorError(
            f"outliers(sign={sign}) was asked for; outliers of one sign stand apart. Use 1 for "
            "positive eigenvalues or -1 for negative ones."
        )
    ends = np.stack([pairs.low, pairs.values, pairs.high])
    low, value, high = ends if sign == 1 else -ends[::-1]
    end = np.arange(len(value)) < pairs.largest
    chosen = np.flatnonzero((low > 0) & (end if sign == 1 else ~end))
    chosen = chosen[np.argsort(-value[chosen])]
    low, value, high = low[chosen], value[chosen], high[chosen]
    count, resolved = 0, False
    ratio = least = most = float("nan")
    if len(chosen) >= 2:
        gap = int(np.argmax(value[:-1] / value[1:]))
        least = float(low[: gap + 1].min() / high[gap + 1 :].max())
        ratio, most = float(value[gap] / value[gap + 1]), float(high[gap] / low[gap + 1])
        resolved = least > 1
        count = gap + 1 if resolved else 0
    signed = [sign * end for end in ((low, value, high) if sign == 1 else (high, value, low))]
    edge = [float(end[count]) if len(end) else float("nan") for end in signed]
    return Outliers(
        signed[1][:count],
        signed[0][:count],
        signed[2][:count],
        edge[1],
        edge[0],
        edge[2],
        ratio,
        least,
        most,
        resolved,
    )
