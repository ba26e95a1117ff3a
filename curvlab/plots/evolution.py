"""Spectra over training: one density per checkpoint on a map, with the extreme eigenvalues."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from curvlab.analysis.series import EigenvalueSeries
from curvlab.plots.spectra import default_axis, plot_density_map
from curvlab.plots.style import SeriesStyle
from curvlab.plots.training import plot_intervals, plot_task_boundaries, short_step
from curvlab.spectral import SignedLogAxis, SpectralMeasure
from curvlab.spectral.density import smooth

BANDWIDTH = 0.15
"""Standard deviation of the smoothing kernel in decades."""


def common_axis(measures: Iterable[SpectralMeasure]) -> SignedLogAxis:
    """Return one signed-log axis for all checkpoints, which differ by factors of thousands."""
    measures = list(measures)
    reaches = [max(abs(end) for end in measure.support) for measure in measures]
    noise = max(measure.noise_floor for measure in measures)
    return default_axis(float(np.median(reaches)), noise)


def density_limits(dim: int) -> tuple[float, float]:
    """Return the densities between which something can be seen, per decade.

    One eigenvalue on its own has a peak of ``1 / (dim σ √2π)``; less than a tenth of it is the tail
    of the kernel. The upper end is the peak of a spectrum with all eigenvalues in one place.
    """
    peak = 1 / (BANDWIDTH * np.sqrt(2 * np.pi))
    return 0.1 * peak / dim, peak


def plot_spectra_over_training(
    ax: Axes,
    measures: Mapping[int, SpectralMeasure],
    grid: Float[np.ndarray, " points"],
    *,
    axis: SignedLogAxis,
    limits: tuple[float, float],
    tasks: Sequence[int] = (),
    extremes: Iterable[tuple[EigenvalueSeries, SeriesStyle]] = (),
) -> QuadMesh:
    """Draw the densities of several checkpoints side by side, with extreme eigenvalues on top.

    Parameters
    ----------
    ax
        Axes to draw on.
    measures
        Spectra by step, ascending; columns have equal widths.
    grid
        Eigenvalues at which densities are evaluated.
    axis
        Coordinate in which they are smoothed.
    limits
        Densities at the ends of the colour scale.
    tasks
        Task of each checkpoint; a dashed line stands where it changes.
    extremes
        Eigenvalues with their styles.

    Returns
    -------
    The mesh, for a colour bar.
    """
    steps = list(measures)
    at = axis.forward(grid)
    values = np.array([_density(measure, at, axis) for measure in measures.values()])
    labels = [short_step(step) for step in steps]
    mesh = plot_density_map(ax, labels, grid, values, axis=axis, limits=limits)
    column = {step: index for index, step in enumerate(steps)}
    for found, series in extremes:
        plot_intervals(
            ax,
            np.array([column[int(step)] for step in found.steps], np.float64),
            found.values,
            found.low,
            found.high,
            markersize=2.6,
            series=series,
            settled=found.settled,
            connect=False,
        )
    changes = np.flatnonzero(np.diff(np.asarray(tasks))) if len(tasks) else np.zeros(0)
    plot_task_boundaries(ax, (changes + 0.5).tolist())
    ax.set_xlabel("checkpoint (training step; equal widths)")
    return mesh


def hollow_handle(figure: Figure) -> list[Line2D]:
    """Explain hollow markers in the legend, if the figure has any."""
    lines = [line for ax in figure.axes for line in ax.lines]
    if not any(
        line.get_markerfacecolor() == "white" and np.size(line.get_xdata()) for line in lines
    ):
        return []
    label = "not converged, or zero in interval"
    return [Line2D([], [], color="black", marker="o", mfc="white", mew=0.7, ls="none", label=label)]


def _density(
    measure: SpectralMeasure, at: Float[np.ndarray, " points"], axis: SignedLogAxis
) -> Float[np.ndarray, " points"]:
    """Smooth without the band, which costs a hundred times as much and cannot be seen on a map."""
    shares = (measure.vector_weights[:, None] * measure.weights).ravel()
    return smooth(at, axis.forward(measure.nodes.ravel()), shares, BANDWIDTH)
