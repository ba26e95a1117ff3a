"""The Hessian spectrum over training: density maps with the extreme eigenvalues, and bands.

Above, each column is the density of one checkpoint on a signed-log axis, with the extreme
eigenvalues and their intervals on top. Below, the density at three checkpoints with the band that
contains the whole curve with 95 % probability. One figure per seed: spectra are not averaged.
"""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from curvlab.analysis.series import telling_steps
from curvlab.plots import (
    SERIES,
    plot_density,
    plot_spectra_over_training,
    style,
)
from curvlab.plots.evolution import BANDWIDTH, density_limits, hollow_handle
from curvlab.plots.spectra import signed_log_grid
from curvlab.plots.style import FULL_WIDTH, NEUTRAL
from curvlab.plots.training import short_step
from curvlab.spectral import SignedLogAxis, SpectralMeasure
from figures.study import EIGENVALUE, SeedRun, Study
from figures.style import eigenvalue_axis

LARGEST, SMALLEST = SERIES[0], SERIES[1]
"""Styles of the two ends of the spectrum."""
CHOSEN = (SERIES[2], SERIES[4], SERIES[3])
"""Styles of the checkpoints whose bands are drawn."""

Measures = dict[int, SpectralMeasure]


def draw(study: Study) -> dict[str, Figure]:
    """Draw one figure per seed from the analysis."""
    study.require("spectrum", results=("hessian_nodes", *EIGENVALUE))
    several = len(study.seeds) > 1
    return {
        f"-{seed}" if several else "": _draw_seed(study, runs) for seed, runs in study.seeds.items()
    }


def _draw_seed(study: Study, runs: tuple[SeedRun, ...]) -> Figure:
    measures = [run.measures for run in runs]
    everything = [measure for each in measures for measure in each.values()]
    low = min(measure.support[0] for measure in everything)
    high = max(measure.support[1] for measure in everything)
    axis = eigenvalue_axis(runs)
    grid = signed_log_grid(low, high, axis, bandwidth=BANDWIDTH)
    limits = density_limits(everything[0].dim)
    with style():
        figure = Figure(figsize=(FULL_WIDTH, 5.6), layout="constrained")
        panels = figure.subplots(
            2, len(runs), sharey="row", squeeze=False, gridspec_kw={"height_ratios": [3, 2]}
        )
        mesh = None
        for column, (run, each) in enumerate(zip(runs, measures, strict=True)):
            above, below = panels[:, column]
            extremes = [
                (run.eigenvalue(pair), LARGEST if pair.startswith("largest") else SMALLEST)
                for pair in run.pairs
            ]
            tasks = run.results["task"].sel(step=list(each)).values.tolist()
            mesh = plot_spectra_over_training(
                above, each, grid, axis=axis, limits=limits, tasks=tasks, extremes=extremes
            )
            _draw_bands(below, run, each, grid, axis, limits)
            above.set_title(study.title(run.arm))
            below.set_ylabel("" if column else f"{below.get_ylabel()}\n(95 % simultaneous band)")
            if column:
                above.set_ylabel("")
        if mesh is not None:
            bar = figure.colorbar(mesh, ax=panels[0].tolist(), pad=0.01, aspect=30)
            bar.set_label("probability density per decade")
        figure.legend(
            handles=[
                *(
                    Line2D([], [], color=s.colour, marker=s.marker, linestyle="none", label=name)
                    for s, name in (
                        (LARGEST, "largest eigenvalues"),
                        (SMALLEST, "smallest eigenvalues"),
                    )
                ),
                *hollow_handle(figure),
                Line2D([], [], color=NEUTRAL, linestyle="--", linewidth=0.6, label="new labels"),
            ],
            loc="outside upper center",
            columnspacing=1.2,
            ncols=4,
        )
    return figure


def _draw_bands(
    ax: Axes,
    run: SeedRun,
    measures: Measures,
    grid: Float[np.ndarray, " points"],
    axis: SignedLogAxis,
    limits: tuple[float, float],
) -> None:
    for step, series in zip(telling_steps(run.results, tuple(measures)), CHOSEN, strict=False):
        density = measures[step].density(grid, bandwidth=BANDWIDTH, axis=axis)
        label = f"step {short_step(step)}"
        plot_density(ax, density, axis=axis, series=series, label=label, floor=limits[0])
    ax.set_ylim(limits[0], 3 * limits[1])
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, borderaxespad=0.2)
