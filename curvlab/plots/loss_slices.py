"""The loss along a direction beside its quadratic prediction, and on a plane with checkpoints."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import PyTree
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from curvlab.curvature import LossPlane, LossSlice
from curvlab.plots.style import FULL_WIDTH, NEUTRAL, SERIES, SINGLE_COLUMN, style
from curvlab.plots.training import plot_intervals

LEVELS = 12
"""Filled contours between the lowest and the highest loss."""


def plot_loss_slice(ax: Axes, found: LossSlice) -> None:
    """Draw the loss along a direction and the parabola that derivatives at the point predict.

    Parameters
    ----------
    ax
        Axes to draw on.
    found
        From :func:`curvlab.loss_along`.
    """
    measured, predicted = SERIES[1], SERIES[0]
    ends = found.positions[[0, -1]]
    fine = np.linspace(ends[0], ends[1], 201)
    parabola = found.value + fine * (found.slope + fine * found.curvature / 2)
    ax.plot(fine, parabola, color=predicted.colour, linestyle="-", label="quadratic prediction")
    ax.plot(
        found.positions,
        found.losses,
        color=measured.colour,
        linestyle=measured.line,
        linewidth=0.9,
        marker=measured.marker,
        label="loss",
    )
    ax.axvline(0, color=NEUTRAL, linewidth=0.5)
    ax.set_xlabel("distance along the direction (parameter norm)")
    ax.set_ylabel("loss (mean over examples)")


def plot_finite_curvature(ax: Axes, found: LossSlice) -> None:
    """Draw the curvature seen at each radius, with bars for rounding, beside autodiff's.

    Where rounding is larger than the curvature itself, the radii are shaded and nothing is drawn.

    Parameters
    ----------
    ax
        Axes to draw on.
    found
        From :func:`curvlab.loss_along`.
    """
    value, error = found.finite_curvature, found.finite_curvature_error
    clear = ~(error > max(abs(found.curvature), abs(float(value[-1]))))  # so is an unknown error
    error = np.nan_to_num(error)
    radii, low, high = found.radii[clear], (value - error)[clear], (value + error)[clear]
    ax.axhline(0, color=NEUTRAL, linewidth=0.5)
    ax.axhline(found.curvature, color=SERIES[0].colour, label="autodiff")
    plot_intervals(ax, radii, value[clear], low, high, series=SERIES[1], label="at this radius")
    if not clear.all():  # rounding falls with the radius: these are the smallest ones
        ends = found.radii[0], found.radii[~clear][-1]
        ax.axvspan(*ends, color=NEUTRAL, alpha=0.15, linewidth=0, label="rounding")
    decades = np.log10(found.radii[-1] / found.radii[0])
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda radius, _: f"{radius:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("radius (parameter norm)")
    ax.set_ylabel("curvature (loss / norm²)")


def plot_loss_plane(
    ax: Axes, found: LossPlane, *, checkpoints: Mapping[str, PyTree] | None = None
) -> QuadContourSet:
    """Draw the contours of the loss on a plane, with checkpoints where they project to.

    Levels are spaced by equal factors if the losses span more than a factor of ten.

    Parameters
    ----------
    ax
        Axes to draw on; their aspect becomes equal.
    found
        From :func:`curvlab.loss_plane`.
    checkpoints
        Parameters by name. The legend says how far from the plane each one lies: there its loss is
        not the one drawn.

    Returns
    -------
    The filled contours, for a colour bar.
    """
    losses = np.ma.masked_invalid(found.losses)
    levels = _levels(float(losses.min()), float(losses.max()))
    x = y = found.positions
    # One step of colour for each level, however unevenly they are spaced.
    norm = BoundaryNorm(levels, 256)
    filled = ax.contourf(x, y, losses, levels=levels, cmap="cividis", norm=norm)
    ax.contour(x, y, losses, levels=levels, colors="white", linewidths=0.3, alpha=0.6)
    marks = {"centre": (0.0, 0.0, 0.0)}
    marks |= {name: found.project(params) for name, params in (checkpoints or {}).items()}
    for index, (name, (x_at, y_at, off)) in enumerate(marks.items()):
        series = SERIES[index % len(SERIES)]
        far = off > 1e-3 * float(found.positions[-1])
        ax.plot(
            x_at,
            y_at,
            color=series.colour,
            linestyle="none",
            marker=series.marker,
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.8,
            label=f"{name} ({off:.2g} off the plane)" if far else name,
        )
    ax.set_aspect("equal")
    ax.set_xlabel("first direction (parameter norm)")
    ax.set_ylabel("second direction (parameter norm)")
    return filled


def loss_slice_figure(found: LossSlice, *, title: str = "") -> Figure:
    """Draw a slice: the loss with its prediction, and the curvature at each radius.

    Parameters
    ----------
    found
        From :func:`curvlab.loss_along`.
    title
        Heading; by default what was averaged.
    """
    with style():
        figure = Figure(figsize=(FULL_WIDTH, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        plot_loss_slice(left, found)
        plot_finite_curvature(right, found)
        for ax in (left, right):
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1)
        figure.suptitle(title or found.estimand, fontsize=9)
    return figure


def loss_plane_figure(
    found: LossPlane, *, checkpoints: Mapping[str, PyTree] | None = None, title: str = ""
) -> Figure:
    """Draw the contours of the loss on a plane with its colour bar.

    Parameters
    ----------
    found
        From :func:`curvlab.loss_plane`.
    checkpoints
        Parameters by name, marked where they project to.
    title
        Heading.
    """
    with style():
        figure = Figure(figsize=(SINGLE_COLUMN * 1.3, SINGLE_COLUMN * 1.2), layout="constrained")
        ax = figure.subplots()
        filled = plot_loss_plane(ax, found, checkpoints=checkpoints)
        bar = figure.colorbar(filled, ax=ax, label="loss (mean over examples)")
        bar.ax.yaxis.set_major_locator(FixedLocator(list(filled.levels)[::2]))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda level, _: f"{level:.2g}"))
        bar.ax.minorticks_off()
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        figure.suptitle(title, fontsize=9)
    return figure


def _levels(low: float, high: float) -> list[float]:
    """Return the borders of the contours."""
    if not high > low:
        return [low - 0.5, low + 0.5]
    spaced = np.geomspace if 0 < 10 * low < high else np.linspace
    levels = spaced(low, high, LEVELS + 1)
    levels[[0, -1]] = low, high  # rounding would leave the extremes unfilled
    return levels.tolist()
