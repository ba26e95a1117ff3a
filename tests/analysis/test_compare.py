"""Runs side by side."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from curvlab.analysis import Spectrum, analyze, compare
from curvlab.core.errors import RunError
from curvlab.runs import open_run, open_runs
from tests.analysis.tiny import write_run


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study of two arms; one of them lacks a seed."""
    path = tmp_path_factory.mktemp("study")
    for arm, seed in (("default", 0), ("default", 1), ("tuned", 0)):
        run = open_run(write_run(path / arm / f"seed-{seed}", arm=arm, seed=seed))
        steps = run.steps if seed == 0 else run.steps[:5]
        analyze(run, ["performance", "weights"], steps=steps)
    return path


def test_arms_and_seeds_are_dimensions(study: Path) -> None:
    dataset = compare(open_runs(study))
    assert dataset["loss"].dims[:3] == ("arm", "seed", "step")
    assert list(dataset["arm"].values) == ["default", "tuned"]
    assert list(dataset["seed"].values) == [0, 1]
    one = dataset.sel(arm="default", seed=1)
    np.testing.assert_array_equal(np.isnan(one["weight_norm"]), [False] * 5 + [True] * 3)
    assert np.isnan(dataset["loss"].sel(arm="tuned", seed=1)).all()
    direct = analyze(open_run(study / "tuned" / "seed-0"), ["performance"])
    np.testing.assert_array_equal(dataset["loss"].sel(arm="tuned", seed=0), direct["loss"])


def test_by_any_config_entry(study: Path) -> None:
    runs = [open_run(study / "default" / f"seed-{seed}") for seed in (0, 1)]
    assert list(compare(runs, by="optimiser")["optimiser"].values) == ["adam()"]
    with pytest.raises(RunError, match="no 'momentum' in its config"):
        compare(runs, by="momentum")


def test_runs_of_different_orders_and_without_seed(built: Path, tmp_path: Path) -> None:
    runs = []
    for name, order in (("a", 6), ("b", 8)):
        path = Path(shutil.copytree(built, tmp_path / name))
        described = json.loads((path / "run.json").read_text())
        (path / "run.json").write_text(json.dumps({**described, "seed": None}))
        runs.append(open_run(path))
        analyze(runs[-1], [Spectrum(order=order, vectors=1, largest=1, smallest=1)], steps=[0])
    dataset = compare(runs)
    assert list(dataset["seed"].values) == ["a", "b"]
    assert dataset.sizes["node"] == 8
    nodes = dataset["hessian_nodes"].sel(arm="default", step=0, probe_set="current").squeeze()
    np.testing.assert_array_equal(np.isfinite(nodes.values).sum(-1), [6, 8])


def test_tasks_belong_to_runs(study: Path) -> None:
    dataset = compare(open_runs(study))
    assert dataset["task"].dims == ("arm", "seed", "step")
    assert float(dataset["task"].sel(arm="tuned", seed=0, step=40)) == 1
    assert np.isnan(dataset["task"].sel(arm="tuned", seed=1)).all()


def test_two_runs_in_one_place_are_refused(study: Path) -> None:
    with pytest.raises(RunError, match="Two runs have optimiser='adam\\(\\)' and seed=0"):
        compare(open_runs(study), by="optimiser")
    with pytest.raises(RunError, match="of no run"):
        compare([])
