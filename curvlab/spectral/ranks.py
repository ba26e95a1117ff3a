"""How many directions have curvature: moment ranks, ranks of the magnitudes, rank over a floor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from curvlab.core.errors import OperatorError
from curvlab.spectral.eigenpairs import Eigenpairs
from curvlab.spectral.estimate import Band, Estimate
from curvlab.spectral.functionals import Variation
from curvlab.spectral.functions import check_not_negative
from curvlab.spectral.measure import SpectralMeasure
from curvlab.spectral.summaries import NOT_RESOLVED, summary, within_factor

DENSE_COUNTS = 4096
"""Numbers of eigenvalues at which partial sums are compared, besides those of the grid."""


@dataclass(frozen=True)
class SpectralRanks:
    """Effective ranks of one matrix.

    Attributes
    ----------
    participation
        ``(tr A²)² / tr A⁴``: the number of equal squares with the same second and fourth moment.
    stable
        ``tr A² / max |λ|²``.
    trace
        ``(tr A)² / ‖A‖²_F``; only for positive semidefinite matrices, otherwise ``None``.
    entropy
        ``exp(-Σ p_i log p_i)`` with ``p_i = |λ_i| / Σ |λ|``.
    srank
        Least number of eigenvalues that hold the share ``1 - delta`` of ``Σ |λ|``.
    delta
        The ``δ`` of ``srank``.
    """

    participation: Estimate
    stable: Estimate
    trace: Estimate | None
    entropy: Estimate
    srank: Estimate
    delta: float


def spectral_ranks(
    measure: SpectralMeasure,
    *,
    pairs: Eigenpairs | None = None,
    delta: float = 0.01,
    positive_semidefinite: bool = False,
    level: float = 0.95,
) -> SpectralRanks:
    """Estimate the effective ranks of a matrix from its spectral measure.

    The ranks by moments are the ones to quote: their quadrature is exact. Those by magnitudes
    (entropy, srank) depend on ``Σ |λ|``, to which millions of tiny eigenvalues contribute that few
    Lanczos steps cannot tell from zero; where the band of the distribution function does not
    confine them to a factor of two they are *not resolved*, and only bounds are given. They are
    exact for :meth:`curvlab.SpectralMeasure.from_eigenvalues`, and resolved by more steps with
    deflated pairs.

    Parameters
    ----------
    measure
        The measure, of order 3 or more.
    pairs
        Eigenpairs, whose intervals replace those of the outermost Ritz values in ``max |λ|``
        (provided that they are the outermost); an end of which they have none keeps its own.
    delta
        Share of ``Σ |λ|`` that ``srank`` leaves out.
    positive_semidefinite
        Whether the matrix is: only then is ``(tr A)² / ‖A‖²_F`` a rank.
    level
        Coverage of each interval.

    Returns
    -------
    The ranks. No products.

    Raises
    ------
    OperatorError
        If ``delta`` is not between 0 and 1, or the measure has too few steps for fourth moments.

    References
    ----------
    Roy and Vetterli 2007, *The effective rank* (entropy); Kumar, Agarwal, Ghosh, Levine 2021,
    *Implicit under-parameterization* (srank).
    """
    if not 0 < delta < 1:
        raise OperatorError(f"spectral_ranks(delta={delta}) needs a share between 0 and 1.")
    half = (1 + level) / 2  # two intervals that must hold together
    second, fourth = (measure.moment(k, level=half) for k in (2, 4))
    top = _largest_magnitude(measure, pairs)
    trace = None
    if positive_semidefinite:
        check_not_negative(measure, "spectral_ranks(positive_semidefinite=True)")
        first = measure.moment(1, level=half)
        trace = _ratio(measure, first, second, "trace rank", level)
    return SpectralRanks(
        _ratio(measure, second, fourth, "participation rank", level),
        _stable(measure, measure.moment(2, level=level), top, level),
        trace,
        entropy_rank(measure, level=level),
        srank(measure, delta=delta, level=level),
        delta,
    )


def rank_curve(
    measure: SpectralMeasure, floors: Float[Any, " floors"], *, level: float = 0.95
) -> Band:
    """Count the eigenvalues with ``|λ| > floor``, for all floors at once.

    Parameters
    ----------
    measure
        The measure.
    floors
        Magnitudes, positive and ascending.
    level
        Simultaneous coverage.

    Returns
    -------
    Numbers of eigenvalues, between 0 and the dimension. No products.

    Raises
    ------
    OperatorError
        If a floor is negative or they do not ascend.
    """
    grid = np.atleast_1d(np.asarray(floors, np.float64))
    if (grid < 0).any() or (np.diff(grid) <= 0).any():
        raise OperatorError("rank_curve needs floors >= 0 that ascend. Sort them.")
    # -floor itself does not count as beyond the floor; the next number below does.
    both = measure.cdf_band(np.concatenate([np.nextafter(-grid[::-1], -np.inf), grid]), level=level)
    counts = [
        measure.dim * (below[: len(grid)][::-1] + 1 - upto[len(grid) :])
        for below, upto in ((both.low, both.high), (both.value, both.value), (both.high, both.low))
    ]
    low, value, high = (np.clip(count, 0, measure.dim) for count in counts)
    return Band(grid, value, np.minimum(low, value), np.maximum(high, value), level, both.method)


def entropy_rank(measure: SpectralMeasure, *, level: float = 0.95) -> Estimate:
    """Estimate ``exp(-Σ p_i log p_i)`` with ``p_i = |λ_i| / Σ |λ|``; see :func:`spectral_ranks`."""
    unit = float(np.abs(measure.support).max()) or 1.0

    def magnitude(x: Any) -> Any:
        return np.abs(x) / unit

    def weighted(x: Any) -> Any:
        size = np.abs(x) / unit
        return size * np.log(np.where(size > 0, size, 1.0))

    what = "entropy rank"
    bounds = [_both_bounds(measure, f, level) for f in (magnitude, weighted)]
    total, mixed = (measure.dim * np.asarray(bound) for bound in bounds)
    value = _entropy(total[2], mixed[2])
    interval = _entropy_ends(total[:2], mixed[:2])
    bracket = _entropy_ends(total[3:], mixed[3:])
    # Whatever the magnitudes are, a rank is a number between 1 and the dimension.
    interval, bracket = (
        (max(ends[0], 1.0), min(ends[1], float(measure.dim))) for ends in (interval, bracket)
    )
    value = float(np.clip(value, *interval))
    method = NOT_RESOLVED if not within_factor(*interval) else None
    return summary(measure, value, interval, bracket, level, what, method=method)


def srank(measure: SpectralMeasure, *, delta: float = 0.01, level: float = 0.95) -> Estimate:
    """Estimate the least ``k`` with ``Σ_{i<=k} |λ_i| >= (1 - delta) Σ |λ_i|``.

    Every distribution of magnitudes inside the band lies between two extreme ones. A partial sum is
    largest, and the rest smallest, where the first ``k`` are as large and the others as small as
    they can be. See :func:`spectral_ranks`.
    """
    band = measure.grid_band(level=level)
    bracket_low, bracket_high = measure.grid_bracket
    magnitudes, value, *ends = _magnitudes(
        measure.grid, [band.value, band.low, band.high, bracket_low, bracket_high]
    )
    low, high = _srank_ends(magnitudes, ends[0], ends[1], measure.dim, delta)
    bracket = _srank_ends(magnitudes, ends[2], ends[3], measure.dim, delta)
    middle = float(
        np.clip(np.mean(_srank_ends(magnitudes, value, value, measure.dim, delta)), low, high)
    )
    return summary(
        measure,
        middle,
        (low, high),
        bracket,
        level,
        f"srank {delta:g}",
        method=None if within_factor(low, high) else NOT_RESOLVED,
    )


def _largest_magnitude(measure: SpectralMeasure, pairs: Eigenpairs | None) -> tuple[float, ...]:
    """Return bounds and value of ``max |λ|``: a Ritz value is never larger, but for the noise.

    An end of which there are no pairs is taken from the measure.
    """
    known = np.append(measure.nodes.ravel(), measure.atoms)
    upper = known.max() - measure.blur, known.max(), measure.grid[-1]
    lower = -known.min() - measure.blur, -known.min(), -measure.grid[0]
    if pairs is not None and pairs.largest > 0:
        upper = pairs.low[0], pairs.values[0], pairs.high[0]
    if pairs is not None and pairs.largest < len(pairs.values):
        lower = -pairs.high[-1], -pairs.values[-1], -pairs.low[-1]
    return tuple(max(float(a), float(b), 0.0) for a, b in zip(upper, lower, strict=True))


def _ratio(
    measure: SpectralMeasure, upper: Estimate, lower: Estimate, what: str, level: float
) -> Estimate:
    """Return ``n upper² / lower`` with the extremes of both intervals."""

    def rank(numerator: float, denominator: float) -> float:
        if denominator <= 0:
            return 1.0 if numerator <= 0 else float(measure.dim)
        return float(np.clip(measure.dim * max(numerator, 0.0) ** 2 / denominator, 1, measure.dim))

    interval = rank(upper.low, lower.high), rank(upper.high, lower.low)
    bracket = (
        rank(upper.bracket_low, lower.bracket_high),
        rank(upper.bracket_high, lower.bracket_low),
    )
    value = rank(upper.value, lower.value)
    return summary(measure, value, interval, bracket, level, what, method=upper.method)


def _stable(
    measure: SpectralMeasure, second: Estimate, top: tuple[float, ...], level: float
) -> Estimate:
    def rank(numerator: float, largest: float) -> float:
        if largest <= 0:
            return float(measure.dim)
        return float(np.clip(measure.dim * max(numerator, 0.0) / largest**2, 1, measure.dim))

    value = rank(second.value, top[1])
    interval = rank(second.low, top[2]), rank(second.high, top[0])
    bracket = rank(second.bracket_low, top[2]), rank(second.bracket_high, top[0])
    return summary(measure, value, interval, bracket, level, "stable rank", method=second.method)


def _both_bounds(
    measure: SpectralMeasure, f: Callable[[Any], Any], level: float
) -> tuple[float, ...]:
    """Return the ends of the interval, the value, and the ends of the bracket of ``mean f``.

    From the simultaneous band, so that intervals of several functions hold together.
    """
    variation = Variation.of(f, measure.grid)
    band = measure.grid_band(level=level)
    value = float((measure.vector_weights @ (measure.weights * f(measure.nodes))).sum())
    known = float(np.sum(f(measure.atoms))) if len(measure.atoms) else 0.0
    return (
        *variation.ends(band.low, band.high),
        float(measure.overall(value, known)),
        *variation.ends(*measure.grid_bracket),
    )


def effective_number(sizes: Float[np.ndarray, " values"]) -> float:
    """Return ``exp(-Σ p log p)`` with ``p = σ / Σ σ``, of numbers ``σ >= 0`` that are all known."""
    shares = sizes[sizes > 0] / sizes.sum()
    return _entropy(1.0, float((shares * np.log(shares)).sum()))


def _entropy(total: float, mixed: float) -> float:
    """Return ``exp(log S - M / S)`` with ``S = Σ σ`` and ``M = Σ σ log σ``."""
    return float(np.exp(np.log(total) - mixed / total)) if total > 0 else 1.0


def _entropy_ends(total: Any, mixed: Any) -> tuple[float, float]:
    """Return the extremes of the entropy rank over ``S`` and ``M`` in their intervals."""
    least, most = max(float(total[0]), 0.0), float(total[1])
    if least <= 0:
        return 1.0, np.inf
    # As a function of S it falls to S = -M and rises again.
    inner = float(np.clip(-mixed[1], least, most))
    return (
        min(_entropy(size, float(mixed[1])) for size in (least, most, inner)),
        max(_entropy(size, float(mixed[0])) for size in (least, most)),
    )


def _magnitudes(
    grid: Float[np.ndarray, " points"], bounds: Sequence[Float[np.ndarray, " points"]]
) -> list[Float[np.ndarray, " magnitudes"]]:
    """Return magnitudes ``t`` and, from each distribution of ``λ``, the share with ``|λ| > t``.

    ``bounds`` are a value and pairs of a lower and an upper bound. ``#{|λ| > t} = 1 - F(t) +
    F(-t)``, least with the upper bound at ``t`` and the lower one at ``-t``. Between grid points a
    bound is that of the neighbour on its safe side.
    """
    sizes = np.unique(np.abs(grid))

    def below(values: Any, points: Any) -> Any:  # the value at the grid point at or left of x
        return np.concatenate([[0.0], values])[np.searchsorted(grid, points, side="right")]

    def above(values: Any, points: Any) -> Any:  # and at or right of x
        return np.append(values, 1.0)[np.searchsorted(grid, points, side="left")]

    value, *pairs = bounds
    found = [sizes, 1 - below(value, sizes) + below(value, np.nextafter(-sizes, -np.inf))]
    for low, high in zip(pairs[::2], pairs[1::2], strict=True):
        strictly = np.nextafter(-sizes, -np.inf)
        found.append(1 - above(high, sizes) + below(low, strictly))
        found.append(1 - below(low, sizes) + above(high, strictly))
    return [found[0], *(np.clip(share, 0, 1) for share in found[1:])]


def _srank_ends(
    sizes: Float[np.ndarray, " magnitudes"], low: Any, high: Any, dim: int, delta: float
) -> tuple[float, float]:
    """Return the least and the greatest srank with between ``n low`` and ``n high`` above each."""
    low, high = np.minimum.accumulate(low), np.minimum.accumulate(high)

    def partial_sums(shares: Any, heights: Any) -> tuple[Any, Any]:
        """Return breakpoints ``k`` and sums of the ``k`` largest, of a falling step function."""
        counts = np.concatenate([[0.0], dim * shares[::-1], [float(dim)]])
        return counts, np.concatenate([[0.0], np.cumsum(np.diff(counts) * heights)])

    # The i-th largest is at most any t with n high(t) < i, and at least any t with n low(t) >= i.
    falling = sizes[::-1]
    most = partial_sums(high, np.append(falling[0], falling))
    least = partial_sums(low, np.append(falling, 0.0))
    counts = [most[0], least[0], np.arange(min(dim, DENSE_COUNTS) + 1.0)]
    k = np.unique(np.concatenate([*counts, np.geomspace(1, dim, DENSE_COUNTS)]))
    upper, lower = np.interp(k, *most), np.interp(k, *least)
    total_high, total_low = upper[-1], lower[-1]
    # Of the largest k as much as can be, of the others as little; and the other way round.
    best = upper / np.maximum(upper + total_low - lower, 1e-300)
    worst = lower / np.maximum(lower + total_high - upper, 1e-300)
    too_few = np.flatnonzero(best < 1 - delta - 1e-12)
    enough = np.flatnonzero(worst >= 1 - delta - 1e-12)
    smallest = np.floor(k[too_few[-1]] + 1e-6) + 1 if len(too_few) else 1.0
    greatest = np.ceil(k[enough[0]] - 1e-6) if len(enough) else float(dim)
    return float(np.clip(smallest, 1, dim)), float(np.clip(greatest, smallest, dim))
