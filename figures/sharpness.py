"""Largest and smallest Hessian eigenvalue, beside dead units and accuracy, over training.

Eigenvalues come with the interval that their residual certifies; hollow markers are pairs that
have not converged or whose interval contains zero. Every seed of an arm is drawn.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from curvlab.analysis.series import EigenvalueSeries
from curvlab.plots import (
    SeriesStyle,
    label_steps,
    plot_intervals,
    plot_task_boundaries,
    style,
)
from curvlab.plots.evolution import hollow_handle
from curvlab.plots.style import FULL_WIDTH, NEUTRAL
from curvlab.plots.training import set_signed_scale
from figures.study import EIGENVALUE, Study
from figures.style import arm_styles, draw_curve, eigenvalue_axis

_ENDS = {"largest-1": "largest", "smallest-1": "smallest"}


def draw(study: Study) -> dict[str, Figure]:
    """Draw the figure from the training log and the analysis."""
    study.require(
        "sharpness",
        curves=("accuracy", "dead_fraction"),
        results=("hessian_nodes", *EIGENVALUE),
    )
    styles = arm_styles(study)
    with style():
        figure = Figure(figsize=(FULL_WIDTH, 4.2), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True)
        axis = eigenvalue_axis(study.runs)
        for ax, (pair, name) in zip(panels[:, 0], _ENDS.items(), strict=True):
            values: list[float] = []
            for run in study.runs:
                values += _draw_pair(ax, run.eigenvalue(pair), styles[run.arm])
            set_signed_scale(ax, axis, values)
            ax.set_title(f"{name} Hessian eigenvalue")
            ax.set_ylabel("eigenvalue")
        for ax, variable, name, unit in (
            (panels[0, 1], "dead_fraction", "dead units", "fraction of units"),
            (panels[1, 1], "accuracy", "training accuracy", "fraction of examples"),
        ):
            for run in study.runs:
                alone = len(study.arms[run.arm]) == 1
                draw_curve(ax, run, variable, styles[run.arm], alone=alone)
            ax.set_ylim(0, 1.04)
            ax.set_title(name)
            ax.set_ylabel(unit)
        for ax in panels.flat:
            plot_task_boundaries(ax, study.runs[0].boundaries)
        for ax in panels[1]:
            label_steps(ax)
        handles = [
            Line2D(
                [], [], color=s.colour, linestyle=s.line, marker=s.marker, label=study.title(arm)
            )
            for arm, s in styles.items()
        ]
        handles += hollow_handle(figure)
        handles.append(
            Line2D([], [], color=NEUTRAL, linestyle="--", linewidth=0.6, label="new labels")
        )
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles) if len(handles) < 4 else 2,
        )
    return {"": figure}


def _draw_pair(ax: Axes, found: EigenvalueSeries, series: SeriesStyle) -> list[float]:
    plot_intervals(
        ax,
        found.steps,
        found.values,
        found.low,
        found.high,
        series=series,
        settled=found.settled,
    )
    return [*found.low.tolist(), *found.high.tolist()]
