"""Each figure, drawn from results on disk: what stands on its axes."""

import itertools
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.figure import Figure

from curvlab.plots import style
from figures.catalogue import CATALOGUE, SCALES
from figures.study import Study
from tests.figures.synthetic import CHECKPOINTS, TASK_STEPS, dead_fraction, eigenvalues

Drawn = dict[str, dict[str, Figure]]


@pytest.fixture(scope="module")
def drawn(study: Study) -> Drawn:
    """Every figure, drawn once; the tests only look."""
    return {name: entry.draw(study) for name, entry in CATALOGUE.items()}


def titled(figure: Figure, title: str) -> Axes:
    (ax,) = (ax for ax in figure.axes if ax.get_title() == title)
    return ax


def curves(ax: Axes) -> list[np.ndarray]:
    """The points of the lines with data: neither boundaries nor zero lines nor bare markers."""
    lines = [line for line in ax.lines if line.get_linestyle() != "None"]
    points = [np.array(line.get_xydata()) for line in lines]
    return [xy for xy in points if len(xy) > 2]


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_fig1_has_a_panel_per_optimiser_and_a_line_per_seed(drawn: Drawn) -> None:
    (figure,) = drawn["fig1"].values()
    left, right, left_twin, right_twin = figure.axes
    assert left.get_title() == "default: adam(b2=0.999)"
    assert right.get_title() == "tuned: adam(b2=0.9, eps_root=0.001)"
    assert left.get_ylabel() == "training accuracy"
    assert right_twin.get_ylabel() == "fraction of dead units"
    assert {ax.get_xlabel() for ax in (left, right)} == {"training step"}
    assert len(curves(left)) == len(curves(right)) == 2
    broken, sound = curves(left)[0], curves(right)[0]
    assert broken[-1, 1] < 0.4 < 0.9 < sound[-1, 1]
    for xy, is_broken in ((curves(left_twin)[0], True), (curves(right_twin)[0], False)):
        assert xy[:, 0].tolist() == list(CHECKPOINTS)
        expected = [dead_fraction(step, broken=is_broken) for step in CHECKPOINTS]
        np.testing.assert_allclose(xy[:, 1], expected)


def test_fig1_marks_the_task_boundaries(drawn: Drawn) -> None:
    (figure,) = drawn["fig1"].values()
    places = [np.asarray(line.get_xdata()) for line in figure.axes[0].lines]
    assert [place[0] for place in places if len(place) == 2] == [TASK_STEPS, 2 * TASK_STEPS]
    assert "new labels" in legend_texts(figure)


def test_spectrum_is_drawn_for_each_seed(drawn: Drawn) -> None:
    figures = drawn["spectrum"]
    assert list(figures) == ["-seed-0", "-seed-1"]
    for figure in figures.values():
        maps = [ax for ax in figure.axes if any(isinstance(c, QuadMesh) for c in ax.collections)]
        labels = [[text.get_text() for text in ax.get_xticklabels()] for ax in maps[:2]]
        assert labels == [["0", "1k", "1,010", "2k", "3k"]] * 2


def test_spectrum_names_its_units(drawn: Drawn) -> None:
    figure = drawn["spectrum"]["-seed-0"]
    labels = {ax.get_ylabel() for ax in figure.axes}
    assert "probability density per decade" in labels
    assert "probability density per decade\n(95 % simultaneous band)" in labels
    assert any("eigenvalue (linear below" in label for label in labels)


def test_spectrum_bands_contain_their_densities(drawn: Drawn) -> None:
    figure = drawn["spectrum"]["-seed-0"]
    banded = [
        ax for ax in figure.axes if any(isinstance(c, PolyCollection) for c in ax.collections)
    ]
    assert len(banded) == 2
    for ax in banded:
        polygons = [c for c in ax.collections if isinstance(c, PolyCollection)]
        named = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
        assert [line.get_label() for line in named] == ["step 0", "step 1k", "step 3k"]
        for line, polygon in zip(named, polygons, strict=True):
            x, y = np.array(line.get_xydata()).T
            outline = np.asarray(polygon.get_paths()[0].vertices)
            highest = np.array([outline[outline[:, 0] == at, 1].max() for at in x])
            lowest = np.array([outline[outline[:, 0] == at, 1].min() for at in x])
            assert np.all(lowest <= y)
            assert np.all(y <= highest)
            assert np.any(highest > 2 * lowest), "a band without width"


def test_spectrum_shows_the_true_extremes(drawn: Drawn) -> None:
    figure = drawn["spectrum"]["-seed-1"]
    ax = titled(figure, "default: adam(b2=0.999)")
    heights = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
    for step in CHECKPOINTS:
        values = eigenvalues(step, broken=True, seed=1)
        for extreme in (values[0], values[-1]):
            assert np.abs(heights - extreme).min() < 1e-3 * np.abs(values).max()


def test_sharpness_shows_every_seed_with_intervals(drawn: Drawn) -> None:
    (figure,) = drawn["sharpness"].values()
    top = titled(figure, "largest Hessian eigenvalue")
    bottom = titled(figure, "smallest Hessian eigenvalue")
    assert len(curves(top)) == len(curves(bottom)) == 4
    assert len(top.containers) == 4, "interval bars are missing"
    for xy, (broken, seed) in zip(
        curves(top), itertools.product((True, False), (0, 1)), strict=True
    ):
        expected = [eigenvalues(step, broken=broken, seed=seed)[-1] for step in CHECKPOINTS]
        np.testing.assert_allclose(xy[:, 1], expected, rtol=1e-3)
    assert bottom.get_ylim()[0] < 0 < bottom.get_ylim()[1]
    assert len(curves(titled(figure, "dead units"))) == 4
    assert len(curves(titled(figure, "training accuracy"))) == 4


def test_hollow_markers_are_explained(drawn: Drawn, study: Study) -> None:
    # The smallest pair of the broken arm does not converge in so few steps.
    figure = drawn["sharpness"][""]
    hollow = [
        line
        for ax in figure.axes
        for line in ax.lines
        if line.get_markerfacecolor() == "white" and np.size(line.get_xdata())
    ]
    settled = all(
        run.eigenvalue(pair).settled.all()
        for run in study.runs
        for pair in ("largest-1", "smallest-1")
    )
    assert bool(hollow) is not settled
    assert ("not converged, or zero in interval" in legend_texts(figure)) is not settled


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_nothing_sticks_out_of_the_page(name: str, drawn: Drawn) -> None:
    for figure in drawn[name].values():
        with style():
            figure.draw_without_rendering()
            boxes: list[Any] = [legend.get_window_extent() for legend in figure.legends]
            boxes += [ax.get_tightbbox() for ax in figure.axes]
        page = figure.bbox.padded(1)
        for box in boxes:
            assert page.containsx(box.x0)
            assert page.containsx(box.x1)
            assert page.containsy(box.y0)
            assert page.containsy(box.y1)


def test_presets_of_the_scales_exist() -> None:
    from agents.presets import find_preset

    for scale in SCALES.values():
        assert set(find_preset(scale.preset).arms) >= {"default", "tuned"}
