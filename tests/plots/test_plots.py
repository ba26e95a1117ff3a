"""Plot functions on spectra that are known: data, bands, units, scales, files."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from curvlab.core.errors import StorageError
from curvlab.plots import (
    SERIES,
    plot_cdf,
    plot_curve,
    plot_density,
    plot_density_map,
    plot_intervals,
    plot_task_boundaries,
    save,
    set_eigenvalue_scale,
    spectrum_figure,
    style,
)
from curvlab.plots.spectra import default_axis, signed_log_grid
from curvlab.spectral import Band, Density, Diagonal, LinearAxis, SignedLogAxis, slq
from curvlab.spectral.measure import SpectralMeasure

DIM = 200


@pytest.fixture(scope="module")
def measure() -> SpectralMeasure:
    import jax

    values = np.concatenate([-np.geomspace(1e-3, 1, 20), np.zeros(160), np.geomspace(1e-2, 30, 20)])
    operator = Diagonal(values.astype(np.float32))
    return slq(operator, jax.random.key(0), order=25, vectors=2, noise_floor=1e-5)


@pytest.fixture
def ax() -> Axes:
    return Figure(layout="constrained").subplots()


def polygon(ax: Axes) -> np.ndarray:
    (band,) = (c for c in ax.collections if isinstance(c, PolyCollection))
    return np.asarray(band.get_paths()[0].vertices)


def tick_labels(ax: Axes, which: str = "x") -> list[str]:
    axis = ax.xaxis if which == "x" else ax.yaxis
    return [tick.get_text() for tick in axis.get_ticklabels() if tick.get_text()]


def area(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.trapezoid(y, x))


def test_the_drawn_density_has_unit_area_on_its_own_axis(
    measure: SpectralMeasure, ax: Axes
) -> None:
    # The Jacobian: seen in the coordinate of the axis, the area is the share of the eigenvalues.
    axis = SignedLogAxis(1e-2)
    grid = signed_log_grid(*measure.support, axis, bandwidth=0.15)
    plot_density(ax, measure.density(grid, bandwidth=0.15, axis=axis), axis=axis, label="drawn")
    (line,) = (line for line in ax.lines if line.get_label() == "drawn")
    x, y = np.array(line.get_xydata()).T
    shown = ax.transData.transform(np.stack([x, y], axis=1))
    width, _ = ax.transData.transform((x[-1], 0)) - ax.transData.transform((x[0], 0))
    coordinate = (shown[:, 0] - shown[0, 0]) / width * float(np.ptp(axis.forward(grid)))
    assert area(coordinate, y) == pytest.approx(1, abs=0.01)
    assert ax.get_ylabel() == "probability density per decade"
    assert ax.get_xlabel() == r"eigenvalue (linear below $\pm10^{-2}$)"


def test_a_density_on_a_linear_axis_says_so(measure: SpectralMeasure, ax: Axes) -> None:
    grid = np.linspace(-3, 32, 200)
    plot_density(ax, measure.density(grid, bandwidth=0.5))
    assert ax.get_ylabel() == "probability density per unit eigenvalue"
    assert ax.get_xlabel() == "eigenvalue"
    assert ax.get_ylim()[0] == 0


def test_the_floor_of_a_logarithmic_density_is_its_lower_end(ax: Axes) -> None:
    grid = np.linspace(0, 1, 50)
    value = np.where(grid < 0.5, 1.0, 0.0)
    plot_density(ax, Density(grid, value, 0 * value, 2 * value, 0.95, 0.1, "unit"), floor=1e-3)
    assert ax.get_yscale() == "log"
    assert ax.get_ylim()[0] == pytest.approx(1e-3)
    assert all(np.min(line.get_ydata()) > 0 for line in ax.lines)


def test_uniformly_weighted_ritz_values_are_labelled_as_such(
    measure: SpectralMeasure, ax: Axes
) -> None:
    plot_density(ax, measure.ritz_histogram(np.linspace(-2, 32, 100), bandwidth=0.5))
    assert ax.get_ylabel().startswith("Ritz values, order 25")


def test_the_band_of_a_distribution_function_contains_it(
    measure: SpectralMeasure, ax: Axes
) -> None:
    grid = np.linspace(-2, 31, 60)
    band = measure.cdf_band(grid)
    plot_cdf(ax, band)
    outline = polygon(ax)
    for x, value in zip(band.grid, band.value, strict=True):
        there = outline[outline[:, 0] == x, 1]
        assert there.min() <= value <= there.max()
    assert outline[:, 1].min() >= 0
    assert outline[:, 1].max() <= 1
    assert ax.get_ylabel() == "share of eigenvalues below"


def test_a_point_mass_is_a_step(ax: Axes) -> None:
    grid = np.array([-1.0, 0.0, 1.0])
    plot_cdf(ax, Band(grid, np.array([0.0, 1.0, 1.0]), grid * 0, grid * 0 + 1, 0.95, "beta"))
    assert ax.lines[0].get_drawstyle() == "steps-post"


@pytest.mark.parametrize(
    ("threshold", "limits", "expected"),
    [
        (1e-2, (-1.5, 150.0), ["0", "$-10^{0}$", "$10^{0}$", "$10^{2}$"]),
        (1e-3, (0.0, 2.0), ["0", "$10^{-2}$", "$10^{-1}$", "$10^{0}$"]),
    ],
)
def test_ticks_stand_at_decades(
    ax: Axes, threshold: float, limits: tuple[float, float], expected: list[str]
) -> None:
    set_eigenvalue_scale(ax, SignedLogAxis(threshold), limits=limits, ticks=5)
    assert set(tick_labels(ax)) == set(expected)
    assert ax.get_xlim() == pytest.approx(limits)


@pytest.mark.parametrize("limits", [(-1e3, 1e5), (-1e-6, 1e5), (-1e-3, 3e-3), (-1e5, 1e-2)])
def test_labels_of_ticks_do_not_overlap(limits: tuple[float, float]) -> None:
    with style():
        figure = Figure(figsize=(3, 2), layout="constrained")
        ax = figure.subplots()
        set_eigenvalue_scale(ax, SignedLogAxis(1e-6), limits=limits)
        figure.canvas.draw()
        boxes = sorted(
            (tick.get_window_extent() for tick in ax.get_xticklabels()), key=lambda box: box.x0
        )
    assert len(boxes) >= 3
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_the_axis_never_reaches_below_the_noise() -> None:
    assert default_axis(100.0, 0.0).threshold == pytest.approx(0.1)
    assert default_axis(100.0, 2.0).threshold == pytest.approx(1.0)
    assert default_axis(0.0, 0.0).threshold > 0


def test_a_grid_covers_the_kernel_at_both_ends() -> None:
    axis = SignedLogAxis(1e-3)
    grid = signed_log_grid(-1.0, 10.0, axis, bandwidth=0.2)
    at = axis.forward(grid)
    assert at[:1] < axis.forward(np.array([-1.0])) - 0.9
    assert at[-1:] > axis.forward(np.array([10.0])) + 0.9
    assert np.diff(at).max() < 0.2 / 3


def test_columns_of_a_map_are_equally_wide(ax: Axes) -> None:
    grid = np.linspace(-1, 1, 9)
    values = np.tile(np.linspace(0, 1, 9), (3, 1))
    axis = LinearAxis()
    mesh = plot_density_map(ax, ["0", "1", "8k"], grid, values, axis=axis, limits=(1e-3, 1.0))
    assert tick_labels(ax) == ["0", "1", "8k"]
    assert ax.get_xlim() == (-0.5, 2.5)
    shown = np.asarray(mesh.get_array()).reshape(9, 3)
    np.testing.assert_allclose(shown, np.maximum(values, 1e-3).T)


def test_intervals_reach_to_their_ends_and_skip_what_was_not_measured(ax: Axes) -> None:
    steps = np.arange(4.0)
    values = np.array([1.0, np.nan, 3.0, 4.0])
    plot_intervals(
        ax,
        steps,
        values,
        values - 0.5,
        values + 0.25,
        settled=np.array([True, True, False, True]),
    )
    containers: Any = ax.containers
    bars = containers[0].lines[2][0]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [[0.5, 1.25], [2.5, 3.25], [3.5, 4.25]]
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert [np.asarray(line.get_xdata()).tolist() for line in hollow] == [[2.0]]


def test_a_value_outside_its_interval_is_still_drawn(ax: Axes) -> None:
    plot_intervals(ax, np.zeros(1), np.ones(1), np.full(1, 1.5), np.full(1, 2.0))
    assert len(ax.containers) == 1


def test_curves_leave_out_gaps(ax: Axes) -> None:
    plot_curve(ax, np.arange(3.0), np.array([0.0, np.nan, 1.0]))
    assert np.asarray(ax.lines[0].get_xdata()).tolist() == [0.0, 2.0]


def test_task_boundaries_are_dashed(ax: Axes) -> None:
    plot_task_boundaries(ax, [10.0, 20.0])
    assert [line.get_linestyle() for line in ax.lines] == ["--", "--"]


def test_series_differ_in_colour_line_and_marker() -> None:
    assert len({series.colour for series in SERIES}) == len(SERIES)
    assert len({series.marker for series in SERIES}) == len(SERIES)
    # In grey, what is solid must differ in brightness.
    solid = [series.colour for series in SERIES if series.line == "-"]
    assert solid == ["#D55E00", "#000000"]
    assert len({str(series.line) for series in SERIES}) == len(SERIES) - 1


def test_style_leaves_the_settings_of_the_caller_alone() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with style():
        assert mpl.rcParams["pdf.fonttype"] == 42
        assert mpl.rcParams["savefig.dpi"] == 300
    assert dict(mpl.rcParams) == before


def test_one_spectrum_is_drawn_with_both_bands(measure: SpectralMeasure) -> None:
    figure = spectrum_figure(measure, title="step 7")
    left, right = figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == (
        "probability density per decade",
        "share of eigenvalues below",
    )
    assert all(any(isinstance(c, PolyCollection) for c in ax.collections) for ax in (left, right))
    assert "step 7" in [text.get_text() for text in figure.findobj(Text)]


def test_saving_twice_gives_equal_files_without_dates(ax: Axes, tmp_path: Path) -> None:
    figure = ax.figure
    assert isinstance(figure, Figure)
    ax.set_title("λ")
    first = save(figure, tmp_path / "deep" / "lr-0.1")
    content = [path.read_bytes() for path in first]
    assert [path.name for path in first] == ["lr-0.1.png", "lr-0.1.pdf"]
    assert content == [path.read_bytes() for path in save(figure, tmp_path / "deep" / "lr-0.1")]
    assert not any(b"CreationDate" in data or b"Software" in data for data in content)


def test_a_disk_that_refuses_is_a_storage_error(ax: Axes) -> None:
    figure = ax.figure
    assert isinstance(figure, Figure)
    with pytest.raises(StorageError, match="Cannot write /dev/full"):
        save(figure, Path("/dev/full/picture"))
