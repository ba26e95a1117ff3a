"""Axes on which eigenvalues of both signs and many decades are drawn.

The coordinate is that of the axis objects of :mod:`curvlab.spectral` in which the density was
smoothed, so that the area under a drawn curve is a share of the eigenvalues.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from curvlab.spectral import LinearAxis, SignedLogAxis

EigenvalueAxis = LinearAxis | SignedLogAxis


def _power(value: float) -> str:
    """Return ``1e-3`` as ``10^{-3}``, and other values with two digits, in mathtext."""
    exponent = math.floor(math.log10(value) + 1e-9)
    mantissa = value / 10.0**exponent
    power = f"10^{{{exponent}}}"
    return power if abs(mantissa - 1) < 1e-6 else rf"{mantissa:.2g}\times{power}"


def _function(
    coordinate: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]],
) -> Callable[[Any], Any]:
    """Accept what matplotlib passes: scalars, masked arrays, arrays without axes."""

    def apply(values: Any) -> Any:
        plain = np.asarray(values, np.float64)
        return coordinate(np.atleast_1d(plain)).reshape(plain.shape)

    return apply


def set_eigenvalue_scale(
    ax: Axes,
    axis: EigenvalueAxis,
    *,
    limits: tuple[float, float],
    which: Literal["x", "y"] = "x",
    ticks: int = 6,
) -> None:
    """Put eigenvalues on the coordinate of ``axis``, with ticks at whole decades.

    Parameters
    ----------
    ax
        Axes to change; data stay in units of an eigenvalue.
    axis
        The coordinate.
    limits
        Eigenvalues at the ends.
    which
        The direction of the axes.
    ticks
        Roughly how many labelled ticks fit.
    """
    low, high = limits
    set_limits = ax.set_xlim if which == "x" else ax.set_ylim
    if isinstance(axis, SignedLogAxis):
        set_scale = ax.set_xscale if which == "x" else ax.set_yscale
        forward = _function(axis.forward)
        set_scale("function", functions=(forward, _function(axis.inverse)))
        reach = max(abs(low), abs(high))
        gap = (forward(high) - forward(low)) / ticks
        decades = np.arange(
            math.ceil(math.log10(axis.threshold) - 1e-9), math.floor(math.log10(reach) + 1e-9) + 1
        )
        positions, labels = [0.0], ["0"]
        for exponent in decades[:: -max(1, math.ceil(gap))]:
            for sign in (-1, 1):
                value = sign * 10.0**exponent
                # Beside zero decades are narrow, and their labels would touch the zero.
                if low <= value <= high and abs(forward(value)) > 0.8 * gap:
                    positions.append(value)
                    labels.append(f"${'-' if sign < 0 else ''}{_power(10.0**exponent)}$")
        target = ax.xaxis if which == "x" else ax.yaxis
        target.set_major_locator(FixedLocator(positions))
        target.set_major_formatter(FixedFormatter(labels))
        target.set_minor_locator(NullLocator())
    set_limits(low, high)


def label_eigenvalue_axis(
    ax: Axes, axis: EigenvalueAxis, *, which: Literal["x", "y"] = "x"
) -> None:
    """Name the eigenvalue axis and say where it is linear."""
    text = "eigenvalue"
    if isinstance(axis, SignedLogAxis):
        text = rf"eigenvalue (linear below $\pm{_power(axis.threshold)}$)"
    (ax.set_xlabel if which == "x" else ax.set_ylabel)(text)
