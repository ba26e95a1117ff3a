"""How far apart two spectra are, beside how far apart they look when nothing has changed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from curvlab.core.errors import OperatorError
from curvlab.spectral.estimate import Estimate
from curvlab.spectral.measure import SpectralMeasure


@dataclass(frozen=True)
class SpectralDistance:
    """The distance of two spectra and its null.

    Attributes
    ----------
    distance
        Between the two matrices.
    null
        The same between two measures of the *first* matrix from different start vectors: an
        estimated distance is biased above zero, and this is by how much without common vectors.
        With common vectors it is less.
    """

    distance: Estimate
    null: Estimate

    @property
    def above_null(self) -> bool:
        """Whether the distance exceeds its null, and is certainly not zero."""
        return self.distance.value > self.null.value and self.distance.low > 0


def wasserstein(
    first: SpectralMeasure,
    second: SpectralMeasure,
    *,
    fresh: SpectralMeasure,
    level: float = 0.95,
) -> SpectralDistance:
    """Estimate the Wasserstein-1 distance of two spectra, ``∫ |F - G| dx``.

    It is in units of an eigenvalue: the mean change of the sorted eigenvalues. Both measures must
    see the same start vectors (the same key), so that what the vectors do is the same on both sides
    and cancels.

    Parameters
    ----------
    first, second
        Measures of two matrices of one dimension, from the same key.
    fresh
        A measure of the first matrix from another key, for the null.
    level
        Coverage of the interval.

    Returns
    -------
    Distance and null. The interval is the least and the greatest distance of any two distribution
    functions in the two simultaneous bands; the bracket is the same for what the start vectors see.
    No products.

    Raises
    ------
    OperatorError
        If the dimensions differ, the two measures have different start vectors, or ``fresh`` has
        the same ones.

    References
    ----------
    Chen, Trogdon, Ubaru 2021, *Analysis of stochastic Lanczos quadrature for spectrum
    approximation*.
    """
    if len({first.dim, second.dim, fresh.dim}) > 1:
        raise OperatorError(
            f"wasserstein compares matrices of one dimension, got {first.dim}, {second.dim} and "
            f"{fresh.dim}. Give each spectrum its own plot instead."
        )
    if not _same_vectors(first, second):
        raise OperatorError(
            "wasserstein was given measures from different start vectors. Run slq with the same "
            "key and the same number of vectors for both."
        )
    if first.random and np.array_equal(first.nodes, fresh.nodes):
        raise OperatorError(
            "wasserstein needs fresh= from other start vectors than the first measure. Run slq "
            "with another key."
        )
    return SpectralDistance(_distance(first, second, level), _distance(first, fresh, level))


def _same_vectors(first: SpectralMeasure, second: SpectralMeasure) -> bool:
    """Whether the vectors can be the same; the norms of two or more tell, that of one does not."""
    if first.random != second.random or first.vectors != second.vectors:
        return False
    return bool(np.allclose(first.vector_weights, second.vector_weights, rtol=1e-5))


def _distance(first: SpectralMeasure, second: SpectralMeasure, level: float) -> Estimate:
    grid = np.unique(np.concatenate([first.grid, second.grid]))
    half = (1 + level) / 2  # two bands that must hold together
    brackets = [measure.bracket(grid) for measure in (first, second)]
    bands = [
        measure.band_from(grid, bracket, level=half)
        for measure, bracket in zip((first, second), brackets, strict=True)
    ]
    seen = [
        measure.overall(share, measure.atoms_upto(grid, side))
        for measure, bracket in zip((first, second), brackets, strict=True)
        for share, side in zip(bracket, (-1, 1), strict=True)
    ]
    # Step functions: between two points each keeps its value at the left one.
    steps = np.diff(grid)
    value = float(np.abs(bands[0].value - bands[1].value)[:-1] @ steps)
    interval = _extremes(grid, (bands[0].low, bands[0].high), (bands[1].low, bands[1].high))
    bracket = _extremes(grid, (seen[0], seen[1]), (seen[2], seen[3]))
    random = first.random or second.random
    return Estimate(
        value,
        float("nan"),
        min(interval[0], value),
        max(interval[1], value),
        level,
        "band" if random else first.certainty,
        first.vectors,
        min(bracket[0], value),
        max(bracket[1], value),
        first.matvecs + second.matvecs,
        f"Wasserstein-1 distance; {first.estimand}; {second.estimand}",
    )


def _extremes(
    grid: Float[np.ndarray, " points"],
    one: tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]],
    two: tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]],
) -> tuple[float, float]:
    """Return the least and the greatest ``∫ |F - G|`` of monotone functions between their bounds.

    On a cell a function lies between its lower bound on the left and its upper one on the right.
    """
    (low, high), (low2, high2) = ((ends[0][:-1], ends[1][1:]) for ends in (one, two))
    steps = np.diff(grid)
    apart = np.maximum(np.maximum(low - high2, low2 - high), 0)
    furthest = np.maximum(np.maximum(high - low2, high2 - low), 0)
    return float(apart @ steps), float(furthest @ steps)
