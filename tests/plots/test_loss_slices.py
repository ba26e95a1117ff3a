"""Pictures of the loss along directions: what is drawn is what was measured, and where."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from curvlab.core.trees import TreeLayout
from curvlab.curvature import LossPlane, LossSlice
from curvlab.plots import (
    loss_plane_figure,
    loss_slice_figure,
    plot_finite_curvature,
    plot_loss_plane,
    plot_loss_slice,
)

RADII = np.geomspace(0.01, 1, 7)
POSITIONS = np.concatenate([-RADII[::-1], [0.0], RADII])


def slice_of(noise: float) -> LossSlice:
    losses = 2 + 0.5 * POSITIONS + 1.5 * POSITIONS**2 + POSITIONS**4
    return LossSlice(RADII, POSITIONS, losses, 0.5, 3.0, noise, "mean loss over 3 examples")


def plane_of(losses: np.ndarray) -> LossPlane:
    layout = TreeLayout.of({"weight": np.zeros(3)})
    return LossPlane(POSITIONS, losses, np.ones(3), np.eye(3)[:2], layout, "mean loss")


@pytest.fixture
def ax() -> Axes:
    return Figure(layout="constrained").subplots()


def line(ax: Axes, label: str) -> np.ndarray:
    (found,) = (line for line in ax.lines if line.get_label() == label)
    return np.asarray(found.get_xydata())


def markers(ax: Axes) -> np.ndarray:
    """Return the points that carry a marker."""
    return np.concatenate(
        [np.asarray(each.get_xydata()) for each in ax.lines if str(each.get_marker()) in "os^Dv"]
    )


def test_loss_and_parabola_lie_where_they_were_measured(ax: Axes) -> None:
    found = slice_of(1e-7)
    plot_loss_slice(ax, found)
    np.testing.assert_array_equal(line(ax, "loss"), np.stack([POSITIONS, found.losses], axis=1))
    x, y = line(ax, "quadratic prediction").T
    np.testing.assert_allclose(y, 2 + 0.5 * x + 1.5 * x**2)
    assert "parameter norm" in ax.get_xlabel()


def test_radii_that_rounding_decides_are_shaded_and_not_drawn(ax: Axes) -> None:
    # 4 × 1e-3 / r² exceeds the curvature 5 at the largest radius for r < 0.0283.
    plot_finite_curvature(ax, slice_of(1e-3))
    shown = np.unique(markers(ax)[:, 0])
    np.testing.assert_allclose(shown, RADII[RADII > 0.0283])
    assert "rounding" in ax.get_legend_handles_labels()[1]
    np.testing.assert_allclose(line(ax, "autodiff")[:, 1], 3)


def test_where_nothing_is_lost_to_rounding_nothing_is_shaded(ax: Axes) -> None:
    for noise in (1e-9, float("nan")):
        ax.clear()
        plot_finite_curvature(ax, slice_of(noise))
        values = markers(ax)
        np.testing.assert_allclose(np.unique(values[:, 0]), RADII)
        np.testing.assert_allclose(np.unique(values[:, 1]), 3 + 2 * RADII**2, rtol=1e-6)
        assert "rounding" not in ax.get_legend_handles_labels()[1]


def test_columns_of_a_plane_are_the_first_direction(ax: Axes) -> None:
    y, x = np.meshgrid(POSITIONS, POSITIONS, indexing="ij")
    filled = plot_loss_plane(ax, plane_of(10 + x + 0.1 * y))
    segments = [piece for level in filled.allsegs[1:-1] for piece in level if len(piece)]
    lowest = np.concatenate(filled.allsegs[0])
    assert segments
    assert lowest[:, 0].max() < 0
    assert ax.get_aspect() == 1


def test_checkpoints_are_marked_and_say_how_far_off_they_lie(ax: Axes) -> None:
    checkpoints = {"on": {"weight": np.array([1.5, 1.0, 1.0])}, "off": np.array([1.0, 0.5, 1.25])}
    plot_loss_plane(ax, plane_of(np.add.outer(POSITIONS, POSITIONS)), checkpoints=checkpoints)
    assert line(ax, "centre").tolist() == [[0, 0]]
    assert line(ax, "on").tolist() == [[0.5, 0]]
    assert line(ax, "off (0.25 off the plane)").tolist() == [[0, -0.5]]


def test_levels_follow_the_span_and_cover_it(ax: Axes) -> None:
    squares = np.add.outer(POSITIONS**2, POSITIONS**2)
    linear = np.asarray(plot_loss_plane(ax, plane_of(1 + squares)).levels)
    np.testing.assert_allclose(np.diff(linear), np.diff(linear)[0])
    wide = np.asarray(plot_loss_plane(ax, plane_of(1e-3 + squares)).levels)
    np.testing.assert_allclose(wide[1:] / wide[:-1], wide[1] / wide[0])
    assert (wide[0], wide[-1]) == ((1e-3 + squares).min(), (1e-3 + squares).max())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_loss_that_overflows_or_does_not_move_is_drawn(bad: float) -> None:
    losses = np.zeros((15, 15)) + (0 if bad == 0 else np.abs(POSITIONS))
    losses[0, 0] = bad
    figure = loss_plane_figure(plane_of(losses), title="step 7")
    figure.canvas.draw()
    assert figure.axes[1].get_ylabel() == "loss (mean over examples)"


def test_slice_figure_is_headed_by_what_was_averaged() -> None:
    figure = loss_slice_figure(slice_of(1e-7))
    figure.canvas.draw()
    assert figure.get_suptitle() == "mean loss over 3 examples"
    assert len(figure.axes) == 2
