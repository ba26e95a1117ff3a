"""Trajectories against dense matrices, interrupted and resumed, and drawn."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import scipy.linalg
import xarray as xr

from curvlab.analysis import load_results, trajectory
from curvlab.analysis.trajectory import NAME, _tracks
from curvlab.core.errors import RunError
from curvlab.curvature import Hessian
from curvlab.plots.trajectories import trajectory_figure
from curvlab.runs import Run, open_run

SETTINGS: dict[str, Any] = {"order": 12, "vectors": 2, "largest": 4, "smallest": 1, "count": 3}
STEPS = (20, 21, 24)


@pytest.fixture(scope="module")
def found(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, xr.Dataset]:
    run = open_run(shutil.copytree(built, tmp_path_factory.mktemp("moved") / "seed-0"))
    return run, trajectory(run, jax.random.key(0), steps=STEPS, probe_set="task-001", **SETTINGS)


def spectrum(run: Run, step: int) -> tuple[np.ndarray, np.ndarray]:
    dense = Hessian(run.checkpoint(step).problem("task-001")).to_dense().astype(np.float64)
    values, vectors = np.linalg.eigh(dense)
    return values[::-1], vectors[:, ::-1]


def test_eigenvalues_angles_and_distances_are_those_of_dense_matrices(
    found: tuple[Run, xr.Dataset],
) -> None:
    run, table = found
    dense = {step: spectrum(run, step) for step in STEPS}
    for before, step in itertools.pairwise(STEPS):
        one = table.sel(step=step)
        values, vectors = dense[step]
        middle = (one["eigenvalue_low"].values + one["eigenvalue_high"].values) / 2
        for pair, centre in enumerate(middle):
            nearest = values[np.abs(values - centre).argmin()]
            assert one["eigenvalue_low"][pair] <= nearest <= one["eigenvalue_high"][pair]
        old_values, old = dense[before]
        tops = [np.argsort(-np.abs(v))[:3] for v in (old_values, values)]
        angles = np.sort(scipy.linalg.subspace_angles(old[:, tops[0]], vectors[:, tops[1]]))
        error = float(one["angle_error"]) + 1e-3
        np.testing.assert_allclose(one["angle"], angles, atol=error)
        truth = float(np.abs(values - old_values).mean())
        assert float(one["distance_low"]) <= truth <= float(one["distance_high"])
    first = table.sel(step=STEPS[0])
    for name in ("angle", "angle_error", "distance", "null", "overlap"):
        assert np.isnan(first[name].values).all()


def test_an_interrupted_call_goes_on_with_the_same_bits(
    run_path: Path, found: tuple[Run, xr.Dataset]
) -> None:
    run = open_run(run_path)

    class Killed(Exception):
        pass

    def stop(step: int) -> None:
        if step == STEPS[1]:
            raise Killed

    arguments: dict[str, Any] = {"steps": STEPS, "probe_set": "task-001", **SETTINGS}
    with pytest.raises(Killed):
        trajectory(run, jax.random.key(0), progress=stop, **arguments)
    files = [file for file in run.results() if file.diagnostic == NAME]
    assert len(files) == 2
    times = [file.path.stat().st_mtime_ns for file in files]
    table = trajectory(run, jax.random.key(0), **arguments)
    assert table.identical(found[1])
    assert [file.path.stat().st_mtime_ns for file in files] == times
    # It has files of its own kind, which the results of diagnostics do not mix with.
    with pytest.raises(RunError, match="holds no results"):
        load_results(run)


def test_pairs_keep_their_number_while_they_are_matched() -> None:
    predecessors = np.array([[-1, -1, -1], [1, 0, -1], [0, 2, -1]])
    np.testing.assert_array_equal(_tracks(predecessors), [[0, 1, 2], [1, 0, 3], [1, 3, 4]])


def test_the_picture_shows_every_point(found: tuple[Run, xr.Dataset]) -> None:
    figure = trajectory_figure(found[1], title="tiny")
    left, middle, right = figure.axes
    drawn = sum(len(np.atleast_1d(line.get_xdata())) for line in left.lines if line.get_marker())
    assert drawn >= found[1]["eigenvalue"].size
    assert "radians" in middle.get_ylabel()
    assert right.get_legend_handles_labels()[1] == ["distance", "null"]


def test_one_checkpoint_is_no_trajectory(found: tuple[Run, xr.Dataset]) -> None:
    with pytest.raises(RunError, match="two usable checkpoints, found 1"):
        trajectory(found[0], jax.random.key(0), steps=[0])
