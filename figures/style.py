"""What the figures share beyond the common style: step axes, series of arms, legends."""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from curvlab.plots import SERIES, SeriesStyle, plot_curve
from curvlab.plots.spectra import default_axis
from curvlab.spectral import SignedLogAxis
from figures.study import SeedRun, Study


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


def draw_curve(ax: Axes, run: SeedRun, name: str, series: SeriesStyle, *, alone: bool) -> None:
    """Draw a quantity of one run; thin where other seeds share the panel, marked where sparse."""
    steps, values = run.curve(name)
    width = 1.2 if alone else 0.6
    plot_curve(ax, steps, values, series=series, width=width, markers=len(steps) < 100)


def arm_styles(study: Study) -> dict[str, SeriesStyle]:
    """Give every arm of a study its colour, line and marker."""
    return {arm: SERIES[i % len(SERIES)] for i, arm in enumerate(study.arms)}


def eigenvalue_axis(runs: Iterable[SeedRun]) -> SignedLogAxis:
    """Return one signed-log axis for all checkpoints, which differ by factors of thousands."""
    measures = [measure for run in runs for measure in run.measures.values()]
    reaches = [max(abs(end) for end in measure.support) for measure in measures]
    noise = max(measure.noise_floor for measure in measures)
    return default_axis(float(np.median(reaches)), noise)


def hollow_handle(figure: Figure) -> list[Line2D]:
    """Explain hollow markers in the legend, if the figure has any."""
    lines = [line for ax in figure.axes for line in ax.lines]
    if not any(
        line.get_markerfacecolor() == "white" and np.size(line.get_xdata()) for line in lines
    ):
        return []
    label = "not converged, or zero in interval"
    return [Line2D([], [], color="black", marker="o", mfc="white", mew=0.7, ls="none", label=label)]
