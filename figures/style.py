"""What the figures share beyond the common style: series of arms, curves, one axis for all."""

from collections.abc import Iterable

from matplotlib.axes import Axes

from curvlab.plots import SERIES, SeriesStyle, plot_curve
from curvlab.plots.evolution import common_axis
from curvlab.spectral import SignedLogAxis
from figures.study import SeedRun, Study


def draw_curve(ax: Axes, run: SeedRun, name: str, series: SeriesStyle, *, alone: bool) -> None:
    """Draw a quantity of one run; thin where other seeds share the panel, marked where sparse."""
    steps, values = run.curve(name)
    width = 1.2 if alone else 0.6
    plot_curve(ax, steps, values, series=series, width=width, markers=len(steps) < 100)


def arm_styles(study: Study) -> dict[str, SeriesStyle]:
    """Give every arm of a study its colour, line and marker."""
    return {arm: SERIES[i % len(SERIES)] for i, arm in enumerate(study.arms)}


def eigenvalue_axis(runs: Iterable[SeedRun]) -> SignedLogAxis:
    """Return one signed-log axis for all checkpoints of all runs."""
    return common_axis(measure for run in runs for measure in run.measures.values())
