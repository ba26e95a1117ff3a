"""The Hessian spectrum over training: density maps with the extreme eigenvalues, and bands.

Above, each column is the density of one checkpoint on a signed-log axis, with the extreme
eigenvalues and their intervals on top. Below, the density at three checkpoints with the band that
contains the whole curve with 95 % probability. One figure per seed: spectra are not averaged.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from curvlab.plots import (
    SERIES,
    plot_density,
    plot_density_map,
    plot_intervals,
    plot_task_boundaries,
    style,
)
from curvlab.plots.spectra import signed_log_grid
from curvlab.plots.style import FULL_WIDTH, NEUTRAL
from curvlab.spectral import SignedLogAxis, SpectralMeasure
from curvlab.spectral.density import smooth
from figures.study import EIGENVALUE, SeedRun, Study
from figures.style import eigenvalue_axis, hollow_handle, short_step

BANDWIDTH = 0.15
"""Standard deviation of the smoothing kernel in decades."""
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
    # One eigenvalue on its own has this peak; less than a tenth of it is the tail of the kernel.
    single = 1 / (everything[0].dim * BANDWIDTH * np.sqrt(2 * np.pi))
    limits = 0.1 * single, 1 / (BANDWIDTH * np.sqrt(2 * np.pi))
    with style():
        figure = Figure(figsize=(FULL_WIDTH, 5.6), layout="constrained")
        panels = figure.subplots(
            2, len(runs), sharey="row", squeeze=False, gridspec_kw={"height_ratios": [3, 2]}
        )
        mesh = None
        for column, (run, each) in enumerate(zip(runs, measures, strict=True)):
            above, below = panels[:, column]
            mesh = _draw_map(above, run, each, grid, axis, limits)
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


def _draw_map(
    ax: Axes,
    run: SeedRun,
    measures: Measures,
    grid: Float[np.ndarray, " points"],
    axis: SignedLogAxis,
    limits: tuple[float, float],
) -> Any:
    steps = list(measures)
    at = axis.forward(grid)
    values = np.array([_density(measure, at, axis) for measure in measures.values()])
    labels = [short_step(step) for step in steps]
    mesh = plot_density_map(ax, labels, grid, values, axis=axis, limits=limits)
    column = {step: index for index, step in enumerate(steps)}
    for pair in run.pairs:
        found = run.eigenvalue(pair)
        plot_intervals(
            ax,
            np.array([column[int(step)] for step in found.steps], np.float64),
            found.values,
            found.low,
            found.high,
            markersize=2.6,
            series=LARGEST if pair.startswith("largest") else SMALLEST,
            settled=found.settled,
            connect=False,
        )
    task = run.results["task"].sel(step=steps).values
    plot_task_boundaries(ax, (np.flatnonzero(task[1:] != task[:-1]) + 0.5).tolist())
    ax.set_xlabel("checkpoint (training step; equal widths)")
    return mesh


def _density(
    measure: SpectralMeasure, at: Float[np.ndarray, " points"], axis: SignedLogAxis
) -> Float[np.ndarray, " points"]:
    """Smooth without the band, which costs a hundred times as much and cannot be seen on a map."""
    shares = (measure.vector_weights[:, None] * measure.weights).ravel()
    return smooth(at, axis.forward(measure.nodes.ravel()), shares, BANDWIDTH)


def _draw_bands(
    ax: Axes,
    run: SeedRun,
    measures: Measures,
    grid: Float[np.ndarray, " points"],
    axis: SignedLogAxis,
    limits: tuple[float, float],
) -> None:
    for step, series in zip(_telling_steps(run, tuple(measures)), CHOSEN, strict=False):
        density = measures[step].density(grid, bandwidth=BANDWIDTH, axis=axis)
        label = f"step {short_step(step)}"
        plot_density(ax, density, axis=axis, series=series, label=label, floor=limits[0])
    ax.set_ylim(limits[0], 3 * limits[1])
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, borderaxespad=0.2)


def _telling_steps(run: SeedRun, steps: tuple[int, ...]) -> tuple[int, ...]:
    """Return the first checkpoint, the last one of the first task, and the last of all."""
    task = run.results["task"].sel(step=list(steps)).values
    ends = [step for step, number in zip(steps, task, strict=True) if number == task[0]]
    return tuple(dict.fromkeys((steps[0], ends[-1], steps[-1])))
