"""The pictures of a report: SVG that takes its colours from the page, each with a text for it.

Small panels instead of wide figures, so that letters stay readable on a phone.
"""

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure

from curvlab.analysis.series import (
    EigenvalueSeries,
    eigenvalue_series,
    measures_over_training,
    telling_steps,
)
from curvlab.plots import SERIES, label_steps, plot_curve, plot_density, plot_intervals, style
from curvlab.plots.evolution import (
    BANDWIDTH,
    common_axis,
    density_limits,
    hollow_handle,
    plot_spectra_over_training,
)
from curvlab.plots.spectra import plot_cdf, signed_log_grid
from curvlab.plots.style import NEUTRAL
from curvlab.plots.training import plot_task_boundaries, set_signed_scale, short_step
from curvlab.report.tables import title
from curvlab.spectral import SignedLogAxis, SpectralMeasure

WIDTH, HEIGHT = 4.6, 3.2
"""Size of a panel in inches."""

# Print colours, and what they become where the page may be dark.
_INK = {"#000000": "currentColor"}
_COLOURS = {**_INK, NEUTRAL: "var(--muted)", "#ffffff": "var(--page)"}


@dataclass(frozen=True)
class Picture:
    """A drawn picture.

    Attributes
    ----------
    svg
        The drawing, to be placed in the page as it is.
    alt
        What somebody who cannot see it should know.
    caption
        What it shows.
    """

    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Panel:
    """Quantities that share one picture: their names, the caption and the unit of the axis."""

    names: tuple[str, ...]
    caption: str
    unit: str
    logarithmic: bool = False


LOGGED = (
    Panel(("accuracy",), "Accuracy on the task being learnt", "fraction of examples"),
    Panel(("loss",), "Loss on the task being learnt", "mean loss per example", logarithmic=True),
)
DIAGNOSED = (
    Panel(("accuracy",), "Accuracy on the probe sets", "fraction of examples"),
    Panel(("loss",), "Loss on the probe sets", "mean loss per example", logarithmic=True),
    Panel(
        ("dead_fraction", "dormant_fraction", "linearised_fraction"),
        "Hidden units that are dead, dormant or always on",
        "fraction of units",
    ),
    Panel(
        ("feature_rank", "feature_srank", "feature_effective_rank", "feature_stable_rank"),
        "Ranks of the last hidden features",
        "rank",
    ),
    Panel(("weight_norm",), "2-norm of all parameters", "norm"),
    Panel(
        ("stability_ratio",),
        "Sharpness in units of the optimiser's limit (full-batch heuristic)",
        "ratio",
    ),
    Panel(("scale_invariant_sharpness",), "Scale-invariant sharpness", "eigenvalue"),
)


def drawn(
    figure: Figure,
    alt: str,
    caption: str,
    number: int,
    colours: Mapping[str, str] = _COLOURS,
) -> Picture:
    """Turn a figure into a picture; ``number`` keeps the names inside apart on one page."""
    buffer = io.StringIO()
    with style({"svg.hashsalt": "curvlab"}):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for print_colour, page_colour in colours.items():
        svg = re.sub(print_colour, page_colour, svg, flags=re.IGNORECASE)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>p{number}-", svg)
    # Metadata name vocabularies by web addresses, which nobody needs here.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return Picture(svg.strip(), alt, caption)


def log_pictures(metrics: xr.Dataset, boundaries: Iterable[float], first: int) -> list[Picture]:
    """Draw the training log: accuracy and loss at every logged step."""
    dataset = metrics.expand_dims(probe_set=["current"])
    return _panels(LOGGED, dataset, ("current",), boundaries, first, markers=False)


def diagnostic_pictures(
    dataset: xr.Dataset, boundaries: Iterable[float], first: int
) -> list[Picture]:
    """Draw the diagnostics over training: a panel's only quantity on every probe set."""
    names = tuple(map(str, dataset["probe_set"].values))
    return _panels(DIAGNOSED, dataset, names, boundaries, first, markers=True)


def _panels(
    panels: Iterable[Panel],
    dataset: xr.Dataset,
    probe_sets: tuple[str, ...],
    boundaries: Iterable[float],
    first: int,
    *,
    markers: bool,
) -> list[Picture]:
    made: list[Picture] = []
    for panel in panels:
        curves = _curves(dataset, panel, probe_sets)
        if curves:
            made.append(_curve_picture(panel, curves, boundaries, first + len(made), markers))
    return made


def _curves(
    dataset: xr.Dataset, panel: Panel, probe_sets: tuple[str, ...]
) -> dict[str, xr.DataArray]:
    """Return the measured curves of a panel by label."""
    found: dict[str, xr.DataArray] = {}
    for name in panel.names:
        if name not in dataset:
            continue
        values = dataset[name]
        if f"{name}_low" in dataset:
            ends = {end: dataset[f"{name}_{end}"] for end in ("low", "high")}
            values = values.assign_coords(ends)
        if "probe_set" not in values.dims:
            found[title(name)] = values
        elif len(panel.names) == 1:
            found |= {place: values.sel(probe_set=place) for place in probe_sets}
        else:
            found[title(name)] = values.sel(probe_set=probe_sets[0])
    return {label: known for label, v in found.items() if (known := v.dropna("step")).size}


def _curve_picture(
    panel: Panel,
    curves: Mapping[str, xr.DataArray],
    boundaries: Iterable[float],
    number: int,
    markers: bool,
) -> Picture:
    with style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        ax = figure.subplots()
        for series, (label, values) in zip(SERIES, curves.items(), strict=False):
            steps = np.asarray(values["step"], np.float64)
            known = np.asarray(values, np.float64)
            if "low" in values.coords:
                ends = (np.asarray(values[end], np.float64) for end in ("low", "high"))
                plot_intervals(ax, steps, known, *ends, series=series, label=label)
            else:
                plot_curve(ax, steps, known, series=series, label=label, markers=markers)
        plot_task_boundaries(ax, list(boundaries))
        label_steps(ax)
        ax.set_ylabel(panel.unit)
        if panel.logarithmic:
            ax.set_yscale("log")
        elif "fraction" in panel.unit:
            ax.set_ylim(-0.02, 1.04)
        if len(curves) > 1:
            figure.legend(loc="outside upper center", ncols=2)
    parts = [f"{label} goes from {_ends(values)}" for label, values in curves.items()]
    return drawn(figure, f"{panel.caption}: {'; '.join(parts)}.", panel.caption, number)


def _ends(values: xr.DataArray) -> str:
    first, last = (f"{float(values[at]):.3g}" for at in (0, -1))
    steps = (f"{int(values['step'][at]):,}" for at in (0, -1))
    return f"{first} at step {next(steps)} to {last} at step {next(steps)}"


def spectrum_pictures(
    dataset: xr.Dataset, probe_set: str, operator: str, first: int
) -> list[Picture]:
    """Draw a matrix over training: map of densities, bands, distribution, extreme eigenvalues."""
    measures = measures_over_training(dataset, probe_set, operator)
    axis = common_axis(measures.values())
    low = min(measure.support[0] for measure in measures.values())
    high = max(measure.support[1] for measure in measures.values())
    grid = signed_log_grid(low, high, axis, bandwidth=BANDWIDTH)
    limits = density_limits(next(iter(measures.values())).dim)
    ends = {
        end: eigenvalue_series(dataset, f"{end}-1", probe_set, operator)
        for end in ("largest", "smallest")
    }
    steps = telling_steps(dataset, tuple(measures))
    chosen = {step: measures[step] for step in steps}
    return [
        _map_picture(dataset, probe_set, operator, measures, grid, axis, limits, first),
        _band_picture(operator, chosen, grid, axis, limits, first + 1),
        _cdf_picture(operator, chosen, grid, axis, first + 2),
        _extremes_picture(operator, ends, axis, first + 3),
    ]


def _map_picture(
    dataset: xr.Dataset,
    probe_set: str,
    operator: str,
    measures: Mapping[int, SpectralMeasure],
    grid: Float[np.ndarray, " points"],
    axis: SignedLogAxis,
    limits: tuple[float, float],
    number: int,
) -> Picture:
    pairs = [
        (str(pair), eigenvalue_series(dataset, str(pair), probe_set, operator))
        for pair in dataset["pair"].values
    ]
    extremes = [(found, SERIES[0 if name.startswith("largest") else 1]) for name, found in pairs]
    tasks = [int(task) for task in dataset["task"].sel(step=list(measures)).values]
    with style():
        figure = Figure(figsize=(WIDTH, 1.25 * HEIGHT), layout="constrained")
        ax = figure.subplots()
        mesh = plot_spectra_over_training(
            ax, measures, grid, axis=axis, limits=limits, tasks=tasks, extremes=extremes
        )
        bar = figure.colorbar(mesh, ax=ax, pad=0.01, aspect=30)
        bar.set_label("probability density per decade")
        figure.legend(handles=hollow_handle(figure), loc="outside upper center")
    caption = (
        f"Density of the eigenvalues of the {title(operator)} at each measured checkpoint (dark is "
        "dense), with the largest (orange) and smallest (blue) eigenvalues and their intervals."
    )
    steps = tuple(measures)
    alt = (
        f"Map of the {title(operator)} spectrum at {len(steps)} checkpoints from step "
        f"{steps[0]:,} to {steps[-1]:,}; the eigenvalues are in the tables below."
    )
    # The map itself is a bitmap on white, so what lies on it keeps its colours.
    return drawn(figure, alt, caption, number, _INK)


def _band_picture(
    operator: str,
    measures: Mapping[int, SpectralMeasure],
    grid: Float[np.ndarray, " points"],
    axis: SignedLogAxis,
    limits: tuple[float, float],
    number: int,
) -> Picture:
    with style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        ax = figure.subplots()
        for (step, measure), series in zip(measures.items(), SERIES, strict=False):
            density = measure.density(grid, bandwidth=BANDWIDTH, axis=axis)
            label = f"step {short_step(step)}"
            plot_density(ax, density, axis=axis, series=series, label=label, floor=limits[0])
        ax.set_ylim(limits[0], 3 * limits[1])
        figure.legend(loc="outside upper center", ncols=3)
    caption = (
        f"Density of the eigenvalues of the {title(operator)}, with bands that contain the whole "
        f"curve with 95 % probability; smoothed by {BANDWIDTH} decades."
    )
    alt = f"Densities at steps {_listed(measures)}, on an axis that is logarithmic to both sides."
    return drawn(figure, alt, caption, number)


def _cdf_picture(
    operator: str,
    measures: Mapping[int, SpectralMeasure],
    grid: Float[np.ndarray, " points"],
    axis: SignedLogAxis,
    number: int,
) -> Picture:
    with style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        ax = figure.subplots()
        for (step, measure), series in zip(measures.items(), SERIES, strict=False):
            label = f"step {short_step(step)}"
            plot_cdf(ax, measure.cdf_band(grid), axis=axis, series=series, label=label)
        figure.legend(loc="outside upper center", ncols=3)
    caption = (
        f"Share of the eigenvalues of the {title(operator)} below each value, with 95 % bands."
    )
    shares = ", ".join(
        f"{measure.cdf(0.0).value:.0%} at step {step:,}" for step, measure in measures.items()
    )
    alt = f"Distribution functions; share of eigenvalues at or below zero: {shares}."
    return drawn(figure, alt, caption, number)


def _extremes_picture(
    operator: str, ends: Mapping[str, EigenvalueSeries], axis: SignedLogAxis, number: int
) -> Picture:
    with style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        ax = figure.subplots()
        for (name, found), series in zip(ends.items(), SERIES, strict=False):
            plot_intervals(
                ax,
                found.steps,
                found.values,
                found.low,
                found.high,
                series=series,
                label=name,
                settled=found.settled,
            )
        set_signed_scale(
            ax, axis, [float(v) for found in ends.values() for v in (*found.low, *found.high)]
        )
        label_steps(ax)
        ax.set_ylabel("eigenvalue")
        handles, _ = ax.get_legend_handles_labels()
        figure.legend(
            handles=[*handles, *hollow_handle(figure)], loc="outside upper center", ncols=3
        )
    caption = f"Largest and smallest eigenvalue of the {title(operator)} with their intervals."
    parts = [
        f"the {name} goes from {found.values[0]:.3g} to {found.values[-1]:.3g}"
        for name, found in ends.items()
    ]
    return drawn(figure, f"Over training, {' and '.join(parts)}.", caption, number)


def _listed(steps: Iterable[int]) -> str:
    return ", ".join(f"{step:,}" for step in steps)
