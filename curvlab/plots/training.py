"""Quantities over training: curves, values with interval bars, task boundaries."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from curvlab.plots.eigenvalue_axis import set_eigenvalue_scale
from curvlab.plots.style import NEUTRAL, SERIES, SeriesStyle
from curvlab.spectral import SignedLogAxis


def short_step(step: float) -> str:
    """Return 8000 as ``8k``, 2500 as ``2.5k`` and 8010 as ``8,010``."""
    if step and step % 100 == 0 and abs(step) >= 1000:
        return f"{step / 1000:g}k"
    return f"{step:,g}"


def label_steps(ax: Axes) -> None:
    """Name the axis of training steps and write its ticks in thousands."""
    ax.set_xlabel("training step")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: short_step(step)))
    # Room for the marker of step 0.
    ax.set_xlim(left=-0.02 * ax.get_xlim()[1])


def plot_curve(
    ax: Axes,
    steps: Float[np.ndarray, " steps"],
    values: Float[np.ndarray, " steps"],
    *,
    series: SeriesStyle = SERIES[0],
    label: str | None = None,
    width: float = 1.0,
    markers: bool = False,
) -> None:
    """Draw one seed's curve; points that were not measured (NaN) are left out.

    Parameters
    ----------
    ax
        Axes to draw on.
    steps, values
        The curve.
    series
        Colour, line and marker.
    label
        Entry of the legend; give it to one seed of each arm.
    width
        Line width in points.
    markers
        Whether to mark the points, for curves of few.
    """
    known = np.isfinite(values)
    ax.plot(
        steps[known],
        values[known],
        color=series.colour,
        linestyle=series.line,
        linewidth=width,
        marker=series.marker if markers else "none",
        markersize=2.2,
        label=label,
    )


def plot_intervals(
    ax: Axes,
    steps: Float[np.ndarray, " steps"],
    values: Float[np.ndarray, " steps"],
    low: Float[np.ndarray, " steps"],
    high: Float[np.ndarray, " steps"],
    *,
    series: SeriesStyle = SERIES[0],
    label: str | None = None,
    settled: Bool[np.ndarray, " steps"] | None = None,
    connect: bool = True,
    markersize: float = 3.5,
) -> None:
    """Draw estimates with interval bars.

    Parameters
    ----------
    ax
        Axes to draw on.
    steps, values, low, high
        Estimates and their intervals; NaN where not measured.
    series
        Colour, line and marker.
    label
        Entry of the legend.
    settled
        Where false the marker is hollow: an eigenpair that has not converged, or a value that is
        indistinguishable from zero.
    connect
        Whether a line joins the estimates.
    markersize
        Size of the markers in points.
    """
    known = np.isfinite(values)
    steps, values, low, high = (array[known] for array in (steps, values, low, high))
    solid = np.ones(len(values), bool) if settled is None else settled[known]
    bars = np.clip([values - low, high - values], 0, None)
    ax.errorbar(
        steps,
        values,
        bars,
        color=series.colour,
        linestyle=series.line if connect else "none",
        linewidth=0.8,
        elinewidth=0.9,
        capsize=1.6,
        capthick=0.7,
        label=label,
    )
    for chosen, face in ((solid, series.colour), (~solid, "white")):
        ax.plot(
            steps[chosen],
            values[chosen],
            linestyle="none",
            marker=series.marker,
            markerfacecolor=face,
            markeredgecolor=series.colour,
            markeredgewidth=0.7,
            markersize=markersize,
            zorder=3,
        )


def plot_task_boundaries(ax: Axes, boundaries: Sequence[float]) -> None:
    """Draw a dashed line at each step at which the task changed."""
    for boundary in boundaries:
        ax.axvline(boundary, color=NEUTRAL, linestyle="--", linewidth=0.6, zorder=1.5)


def set_signed_scale(ax: Axes, axis: SignedLogAxis, values: Sequence[float]) -> None:
    """Put eigenvalues on the vertical axis so that zero and all of ``values`` are shown."""
    ends = axis.forward(np.array([min([*values, 0.0]), max([*values, 0.0])]))
    room = 0.06 * (ends[1] - ends[0])
    low, high = axis.inverse(ends + np.array([-room, room]))
    set_eigenvalue_scale(ax, axis, limits=(float(low), float(high)), which="y", ticks=7)
    ax.axhline(0, color=NEUTRAL, linewidth=0.5)
