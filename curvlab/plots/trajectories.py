"""How a spectrum moved: followed eigenvalues, angles of subspaces, distances beside their null."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from curvlab.plots.style import FULL_WIDTH, NEUTRAL, SERIES, style
from curvlab.plots.training import label_steps, plot_intervals


def trajectory_figure(table: xr.Dataset, *, title: str = "") -> Figure:
    """Draw the dataset of :func:`curvlab.trajectory`.

    Left the eigenvalues, a line for each pair that could be followed; in the middle the angles
    between the dominant subspaces of neighbouring checkpoints, with bars for the error of the
    eigenvectors; right the distance to the checkpoint before, beside its null.

    Parameters
    ----------
    table
        From :func:`curvlab.trajectory`.
    title
        Heading, such as the run.
    """
    steps = np.asarray(table["step"], np.float64)
    with style():
        figure = Figure(figsize=(FULL_WIDTH, 2.8), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        tracks = table["track"].values
        for track in np.unique(tracks):
            rows, columns = np.nonzero(tracks == track)
            value, low, high = (
                table[f"eigenvalue{end}"].values[rows, columns] for end in ("", "_low", "_high")
            )
            series = SERIES[int(track) % len(SERIES)]
            plot_intervals(left, steps[rows], value, low, high, series=series)
        left.axhline(0, color=NEUTRAL, linewidth=0.5)
        left.set_ylabel("eigenvalue")
        error = np.asarray(table["angle_error"], np.float64)
        for number in range(table.sizes["direction"]):
            angle = np.asarray(table["angle"].isel(direction=number), np.float64)
            low, high = np.clip(angle - error, 0, None), np.clip(angle + error, None, np.pi / 2)
            plot_intervals(middle, steps, angle, low, high, series=SERIES[number % len(SERIES)])
        middle.set_ylim(-0.05, np.pi / 2 + 0.05)
        middle.set_ylabel("angle to the step before (radians)")
        for name, series in (("distance", SERIES[0]), ("null", SERIES[1])):
            value, low, high = (
                np.asarray(table[f"{name}{end}"], np.float64) for end in ("", "_low", "_high")
            )
            plot_intervals(right, steps, value, low, high, series=series, label=name)
        right.set_ylim(bottom=0)
        right.set_ylabel("Wasserstein distance (eigenvalue)")
        right.legend()
        for ax in (left, middle, right):
            label_steps(ax)
        figure.suptitle(title, fontsize=9)
    return figure
