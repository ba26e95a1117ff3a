"""Figure 1 of the paper: accuracy and dead units while a network memorises one task after another.

One panel per optimiser. Accuracy stands on the left axis, the fraction of dead units on the right
one; dashed lines mark where labels were drawn anew. Every seed is a line of its own.
"""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from curvlab.plots import SERIES, label_steps, plot_task_boundaries, style
from curvlab.plots.style import FULL_WIDTH, NEUTRAL
from figures.study import Study
from figures.style import draw_curve

ACCURACY, DEAD = SERIES[1], SERIES[0]


def draw(study: Study) -> dict[str, Figure]:
    """Draw the figure: accuracy from the training log, dead units from the analysis."""
    study.require("fig1", curves=("accuracy", "dead_fraction"))
    dead = [run.curve("dead_fraction")[1].max() for runs in study.arms.values() for run in runs]
    ceiling = max(0.8, *dead)  # the paper's axis, unless the data need more
    columns = min(len(study.arms), 2)
    rows = -(-len(study.arms) // columns)
    with style():
        figure = Figure(figsize=(FULL_WIDTH, 0.4 + 2.1 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for number, (ax, runs) in enumerate(zip(panels.flat, study.arms.values(), strict=False)):
            twin = ax.twinx()
            twin.spines["right"].set_visible(True)
            for run in runs:
                draw_curve(ax, run, "accuracy", ACCURACY, alone=len(runs) == 1)
                draw_curve(twin, run, "dead_fraction", DEAD, alone=len(runs) == 1)
            plot_task_boundaries(ax, runs[0].boundaries)
            ax.set_title(study.title(runs[0].arm))
            ax.set_ylim(0, 1.04)
            twin.set_ylim(0, 1.04 * ceiling)
            label_steps(ax)
            # The inner axes would only repeat the outer ones.
            if number % columns == 0:
                ax.set_ylabel("training accuracy", color=ACCURACY.colour)
            if number % columns == columns - 1 or number == len(study.arms) - 1:
                twin.set_ylabel("fraction of dead units", color=DEAD.colour)
        for ax in panels.flat[len(study.arms) :]:
            ax.remove()
        figure.legend(
            handles=[
                *(
                    Line2D([], [], color=series.colour, linestyle=series.line, label=name)
                    for series, name in (
                        (ACCURACY, "accuracy (left)"),
                        (DEAD, "dead units (right)"),
                    )
                ),
                Line2D([], [], color=NEUTRAL, linestyle="--", linewidth=0.6, label="new labels"),
            ],
            loc="outside lower center",
            ncols=3,
        )
    return {"": figure}
