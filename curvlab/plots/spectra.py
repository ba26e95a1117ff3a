"""Spectra: densities and distribution functions with their bands, and densities over training."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from curvlab.plots.eigenvalue_axis import (
    EigenvalueAxis,
    label_eigenvalue_axis,
    set_eigenvalue_scale,
)
from curvlab.plots.style import FULL_WIDTH, NEUTRAL, SERIES, SeriesStyle, style
from curvlab.spectral import Band, Density, LinearAxis, SignedLogAxis, SpectralMeasure


def plot_density(
    ax: Axes,
    density: Density,
    *,
    axis: EigenvalueAxis | None = None,
    series: SeriesStyle = SERIES[1],
    label: str | None = None,
    floor: float | None = None,
) -> None:
    """Draw a density with its band.

    Parameters
    ----------
    ax
        Axes to draw on.
    density
        From :meth:`curvlab.spectral.SpectralMeasure.density`.
    axis
        The coordinate in which the density was smoothed; linear by default.
    series
        Colour, line and marker.
    label
        Entry of the legend.
    floor
        Lowest density shown, on a logarithmic scale; a linear scale from zero by default. Outliers
        hold a tiny share of the eigenvalues: only a logarithmic scale shows them beside the bulk.
    """
    axis = axis or LinearAxis()
    limits = float(density.grid[0]), float(density.grid[-1])
    set_eigenvalue_scale(ax, axis, limits=limits, ticks=7)
    bottom = floor or 0.0
    ax.fill_between(
        density.grid,
        np.maximum(density.low, bottom),
        np.maximum(density.high, bottom),
        color=series.colour,
        alpha=0.2,
        linewidth=0,
    )
    for edge in (density.low, density.high):
        ax.plot(
            density.grid, np.maximum(edge, bottom), color=series.colour, linewidth=0.4, alpha=0.7
        )
    ax.plot(
        density.grid,
        np.maximum(density.value, bottom),
        color=series.colour,
        linestyle=series.line,
        label=label,
    )
    if floor is not None:
        ax.set_yscale("log")
    ax.set_ylim(bottom=bottom)
    label_eigenvalue_axis(ax, axis)
    ax.set_ylabel(density.unit)


def plot_cdf(
    ax: Axes,
    band: Band,
    *,
    axis: EigenvalueAxis | None = None,
    series: SeriesStyle = SERIES[1],
    label: str | None = None,
) -> None:
    """Draw a distribution function with its simultaneous band.

    Parameters
    ----------
    ax
        Axes to draw on.
    band
        From :meth:`curvlab.spectral.SpectralMeasure.cdf_band`.
    axis
        Coordinate of the eigenvalues; linear by default.
    series
        Colour, line and marker.
    label
        Entry of the legend.
    """
    axis = axis or LinearAxis()
    set_eigenvalue_scale(ax, axis, limits=(float(band.grid[0]), float(band.grid[-1])))
    ax.fill_between(
        band.grid, band.low, band.high, step="post", color=series.colour, alpha=0.25, linewidth=0
    )
    ax.step(
        band.grid,
        band.value,
        where="post",
        color=series.colour,
        linestyle=series.line,
        label=label,
    )
    ax.set_ylim(-0.02, 1.02)
    label_eigenvalue_axis(ax, axis)
    ax.set_ylabel("share of eigenvalues below")


def plot_density_map(
    ax: Axes,
    columns: Sequence[str],
    grid: Float[np.ndarray, " points"],
    values: Float[np.ndarray, "columns points"],
    *,
    axis: EigenvalueAxis,
    limits: tuple[float, float],
) -> QuadMesh:
    """Draw one density per column of a map; dark is dense.

    Columns have equal widths whatever lies between them, because checkpoints are taken at steps 1,
    10 and 100 of a task as well as thousands of steps later. Column ``i`` is centred on ``x = i``.

    Parameters
    ----------
    ax
        Axes to draw on.
    columns
        Label of each column.
    grid
        Eigenvalues.
    values
        Densities per unit of the coordinate.
    axis
        Coordinate in which the densities were smoothed.
    limits
        Densities at the ends of the logarithmic colour scale.

    Returns
    -------
    The mesh, for a colour bar.
    """
    edges = axis.forward(grid)
    middle = (edges[1:] + edges[:-1]) / 2
    edges = axis.inverse(np.concatenate([edges[:1], middle, edges[-1:]]))
    mesh = ax.pcolormesh(
        np.arange(len(columns) + 1) - 0.5,
        edges,
        np.maximum(values, limits[0]).T,
        norm=LogNorm(*limits),
        cmap="Greys",
        rasterized=True,
    )
    ends = float(grid[0]), float(grid[-1])
    set_eigenvalue_scale(ax, axis, limits=ends, which="y", ticks=9)
    label_eigenvalue_axis(ax, axis, which="y")
    ax.set_xticks(np.arange(len(columns)), columns, rotation=90)
    ax.set_xlim(-0.5, len(columns) - 0.5)
    return mesh


def default_axis(reach: float, noise_floor: float, *, decades: int = 3) -> SignedLogAxis:
    """Return a signed-log axis that shows ``decades`` decades below ``reach``, none in the noise.

    A few dozen Lanczos steps tell nothing of how eigenvalues are spread closer to zero than that.
    The threshold is a power of ten, so that the axes of neighbouring pictures agree.
    """
    threshold = max(reach * 10.0**-decades, noise_floor, np.finfo(np.float64).tiny)
    return SignedLogAxis(float(10.0 ** np.ceil(np.log10(threshold) - 0.5)))


def signed_log_grid(
    low: float, high: float, axis: SignedLogAxis, *, bandwidth: float
) -> Float[np.ndarray, " points"]:
    """Return eigenvalues that resolve the kernel from ``low`` to ``high``, and some room beyond."""
    ends = axis.forward(np.array([min(low, 0.0), max(high, 0.0)]))
    start, stop = ends[0] - 5 * bandwidth, ends[1] + 5 * bandwidth
    return axis.inverse(np.linspace(start, stop, 2 + int((stop - start) * 4 / bandwidth)))


def spectrum_figure(
    measure: SpectralMeasure, *, title: str = "", bandwidth: float = 0.15, level: float = 0.95
) -> Figure:
    """Draw one spectrum: its density on a signed-log axis and its distribution function.

    Parameters
    ----------
    measure
        The spectrum.
    title
        Heading, such as the run and the step.
    bandwidth
        Standard deviation of the kernel in decades.
    level
        Simultaneous coverage of both bands.
    """
    low, high = measure.support
    axis = default_axis(max(abs(low), abs(high)), measure.noise_floor)
    grid = signed_log_grid(low, high, axis, bandwidth=bandwidth)
    density = measure.density(grid, bandwidth=bandwidth, axis=axis, level=level)
    floor = 0.1 / measure.dim
    with style():
        figure = Figure(figsize=(FULL_WIDTH, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        plot_density(left, density, axis=axis, floor=floor)
        plot_cdf(right, measure.cdf_band(grid, level=level), axis=axis)
        for ax in (left, right):
            ax.axvline(0, color=NEUTRAL, linewidth=0.5)
        figure.suptitle(title or measure.estimand, fontsize=9)
    return figure
