"""Smoothed spectra on a chosen axis, and the band they inherit from the distribution function."""

import abc
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from typing_extensions import override

from curvlab.core.errors import OperatorError
from curvlab.spectral.estimate import Band


class Axis(abc.ABC):
    """A monotone coordinate ``u(λ)`` in which eigenvalues are smoothed and drawn."""

    unit: str
    """What one unit of the coordinate is, for axis labels."""

    @abc.abstractmethod
    def forward(self, values: Any) -> Float[np.ndarray, "..."]:
        """Return ``u(λ)``."""

    @abc.abstractmethod
    def inverse(self, values: Any) -> Float[np.ndarray, "..."]:
        """Return ``λ(u)``."""


@dataclass(frozen=True)
class LinearAxis(Axis):
    """The eigenvalue itself."""

    unit: str = "unit eigenvalue"

    @override
    def forward(self, values: Any) -> Float[np.ndarray, "..."]:
        return np.asarray(values, np.float64)

    @override
    def inverse(self, values: Any) -> Float[np.ndarray, "..."]:
        return np.asarray(values, np.float64)


@dataclass(frozen=True)
class SignedLogAxis(Axis):
    """``u = sign(λ) log10(1 + |λ| / threshold)``: decades on both sides of zero.

    Far above the threshold one unit is a decade; below it the axis is linear.

    Attributes
    ----------
    threshold
        Eigenvalue at which the axis bends.
    """

    threshold: float
    unit: str = "decade"

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise OperatorError(
                f"SignedLogAxis(threshold={self.threshold}) needs a positive threshold; a small "
                "fraction of the largest eigenvalue is a good choice."
            )

    @override
    def forward(self, values: Any) -> Float[np.ndarray, "..."]:
        return np.asarray(np.sign(values) * np.log10(1 + np.abs(values) / self.threshold))

    @override
    def inverse(self, values: Any) -> Float[np.ndarray, "..."]:
        return np.asarray(np.sign(values) * self.threshold * (10.0 ** np.abs(values) - 1))


@dataclass(frozen=True)
class Density:
    """A smoothed spectrum.

    Attributes
    ----------
    grid
        Eigenvalues.
    value, low, high
        Density per unit of the axis coordinate, with its simultaneous bounds (NaN where none can
        be given).
    level
        Coverage of the bounds.
    bandwidth
        Standard deviation of the Gaussian kernel, in units of the axis coordinate.
    unit
        Unit of ``value``, for axis labels.
    """

    grid: Float[np.ndarray, " points"]
    value: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]
    level: float
    bandwidth: float
    unit: str


def _gaussian(
    at: Float[np.ndarray, " points"], centres: Float[np.ndarray, " centres"], bandwidth: float
) -> Float[np.ndarray, "points centres"]:
    if not bandwidth > 0:
        raise OperatorError(f"A density needs a bandwidth > 0, got {bandwidth}.")
    z = (at[:, None] - centres[None, :]) / bandwidth
    return np.exp(-0.5 * z**2) / (bandwidth * np.sqrt(2 * np.pi))


def smooth(
    at: Float[np.ndarray, " points"],
    centres: Float[np.ndarray, " centres"],
    shares: Float[np.ndarray, " centres"],
    bandwidth: float,
) -> Float[np.ndarray, " points"]:
    """Return ``Σ_j share_j N(at; centre_j, bandwidth²)``."""
    return _gaussian(at, centres, bandwidth) @ shares


def kernel_density(
    grid: Float[np.ndarray, " points"],
    value: Float[np.ndarray, " points"],
    band: Band,
    *,
    axis: Axis,
    bandwidth: float,
) -> Density:
    """Attach to a smoothed density the extremes over all distributions inside ``band``.

    The kernel has bounded variation in ``λ``, so ``∫ K dF = K(end) - ∫ F dK`` is extremal where
    ``F`` is at the edge of its band, cell by cell. Coarse cells make it wider, never wrong.
    """
    at, centres = axis.forward(grid), axis.forward(band.grid)
    kernel = _gaussian(at, centres, bandwidth)
    left, right = kernel[:, :-1], kernel[:, 1:]
    # A cell with the centre of the kernel inside rises to the peak and falls again.
    peak = 1 / (bandwidth * np.sqrt(2 * np.pi))
    inside = (centres[None, :-1] < at[:, None]) & (at[:, None] < centres[None, 1:])
    top = np.where(inside, peak, np.maximum(left, right))
    rise, fall = top - left, top - right
    end = kernel[:, -1]
    low = end - rise @ band.high[1:] + fall @ band.low[:-1]
    high = end - rise @ band.low[:-1] + fall @ band.high[1:]
    return Density(
        grid,
        value,
        np.clip(np.minimum(low, value), 0, None),
        np.maximum(high, value),
        band.level,
        bandwidth,
        f"probability density per {axis.unit}",
    )
