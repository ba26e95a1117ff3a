"""Analysing a run: what is measured, stored, skipped, left out and refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

from curvlab.analysis import (
    Progress,
    Spectrum,
    analyze,
    collect,
    execute,
    load_results,
    make_plan,
    measure_of,
    parse_budget,
)
from curvlab.analysis import plan as planning
from curvlab.core.errors import OperatorError, RunError, UnknownNameError
from curvlab.curvature import Hessian
from curvlab.networks import Predict, build_network
from curvlab.objectives import cross_entropy
from curvlab.plasticity import DIAGNOSTICS, units
from curvlab.runs import Run, RunWriter, open_run
from tests.analysis.tiny import NETWORK, STEPS, TASK_STEPS, write_run

SMALL = Spectrum(order=16, vectors=2, largest=2, smallest=2)
GAUSS_NEWTON = Spectrum(operator="gauss_newton", order=16, vectors=2, largest=2, smallest=2)


CHEAP = ["performance", "ranks", "units", "weights"]
CHOSEN = [*CHEAP, SMALL, GAUSS_NEWTON]


@pytest.fixture(scope="module")
def default(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, xr.Dataset]:
    """Return the run and the dataset of an analysis like the default one, with a lower order."""
    path = shutil.copytree(built, tmp_path_factory.mktemp("default") / "seed-0")
    run = open_run(path)
    return run, analyze(run, CHOSEN)


def test_the_default_plan(built: Path) -> None:
    plan = make_plan(open_run(built))
    assert {item.diagnostic for item in plan.measurements} == {
        *(DIAGNOSTICS[name]() for name in CHEAP),
        Spectrum(),
        Spectrum(operator="gauss_newton"),
    }
    places = {
        (getattr(item.diagnostic, "operator", item.diagnostic.name), item.step, item.roles)
        for item in plan.measurements
    }
    for step in STEPS:
        assert ("weights", step, ()) in places
        for role in ("current", "next"):
            assert {(name, step, (role,)) for name in CHEAP[:3]} <= places
            here = role == "current" or step in (0, 20, 40)
            assert (("hessian", step, (role,)) in places) == here
            assert (("gauss_newton", step, (role,)) in places) == (step in (20, 40))
    assert plan.products == (8 + 3 + 4) * (2 * 40 + 10 + 8 + 8)
    assert not (built / "results").exists()
    few = make_plan(open_run(built), spectra=3)
    spectra = {item.step for item in few.measurements if item.products}
    assert spectra == {0, 20, 40}


def test_an_analysis_covers_the_run(default: tuple[Run, xr.Dataset]) -> None:
    run, dataset = default
    assert list(dataset["step"].values) == list(STEPS) == list(run.steps)
    assert list(dataset["probe_set"].values) == ["current", "next"]
    assert list(dataset["task"].values) == [max(0, (step - 1) // TASK_STEPS) for step in STEPS]
    assert set(dataset["status"].values) == {"ok"}
    cheap = (
        *("loss", "accuracy", "dead_fraction", "dormant_fraction", "linearised_fraction"),
        *("feature_rank", "feature_srank", "feature_effective_rank", "feature_stable_rank"),
    )
    for name in cheap:
        assert dataset[name].dims == ("step", "probe_set"), name
        assert np.isfinite(dataset[name]).all(), name
    assert dataset["weight_norm"].dims == ("step",)
    assert dataset["dead_fraction_by_layer"].dims == ("step", "probe_set", "layer")
    assert dataset["hessian_eigenvalue"].sel(probe_set="current").notnull().all()
    assert dataset["hessian_eigenvalue"].sel(step=[0, 20, 40]).notnull().all()
    assert dataset["hessian_eigenvalue"].sel(step=21, probe_set="next").isnull().all()
    assert list(dataset["pair"].values) == [
        *(f"largest-{i}" for i in (1, 2)),
        *(f"smallest-{i}" for i in (2, 1)),
    ]
    measured = dataset["gauss_newton_trace"].sel(probe_set="next").notnull()
    assert list(dataset["step"].values[measured.values]) == [20, 40]


def test_numbers_equal_those_of_the_plain_functions(default: tuple[Run, xr.Dataset]) -> None:
    run, dataset = default
    problem = run.checkpoint(20).problem("next")
    one = dataset.sel(step=20, probe_set="next")
    assert float(one["loss"]) == pytest.approx(problem.value(), rel=1e-6)
    assert float(one["dead_fraction"]) == units(problem).dead_fraction
    spectrum = np.linalg.eigvalsh(Hessian(problem).to_dense().astype(np.float64))
    scale = float(np.abs(spectrum).max())
    for pair, truth in (("largest-1", spectrum[-1]), ("smallest-1", spectrum[0])):
        chosen = one.sel(pair=pair)
        assert float(chosen["hessian_eigenvalue"]) == pytest.approx(truth, abs=1e-2 * scale)
        low, high = (float(chosen[f"hessian_eigenvalue_{end}"]) for end in ("low", "high"))
        assert low <= spectrum[np.abs(spectrum - (low + high) / 2).argmin()] <= high
    for estimate, truth in (
        ("hessian_trace", spectrum.sum()),
        ("hessian_negative_fraction", (spectrum < -float(one["hessian_negative_floor"])).mean()),
    ):
        assert float(one[f"{estimate}_low"]) <= truth <= float(one[f"{estimate}_high"]), estimate
    measure = measure_of(dataset, 20, "next")
    assert measure.dim == problem.layout.dim
    stored = next(file for file in run.results() if file.diagnostic == "spectrum")
    attributes = run.read_result(stored.diagnostic, stored.step, stored.probe_set, stored.key)
    assert attributes is not None
    for name, value in (("dtype", "float32"), ("device", "cpu"), ("jax_version", jax.__version__)):
        assert attributes.attrs[name] == value
    assert attributes.attrs["references"] == 4
    assert attributes.attrs["checks"] in (0, 3)  # three where no test before had this program
    assert "task-001" in measure.estimand
    np.testing.assert_array_equal(measure.nodes, one["hessian_nodes"])


def test_current_of_a_task_end_is_the_task_just_learnt(default: tuple[Run, xr.Dataset]) -> None:
    _, dataset = default
    # The same parameters on the same data: "next" before the switch, nearly "current" after it.
    before = float(dataset["loss"].sel(step=20, probe_set="next"))
    after = float(dataset["loss"].sel(step=21, probe_set="current"))
    assert after == pytest.approx(before, rel=0.1)
    assert before > float(dataset["loss"].sel(step=20, probe_set="current"))


def test_stored_results_load_to_the_same_dataset(run_path: Path) -> None:
    run = open_run(run_path)
    dataset = analyze(run, ["weights", SMALL], steps=STEPS[:2])
    merged = run_path / "results" / "merged.nc"
    # Made for some steps only, it says nothing of the others.
    loaded = load_results(run)
    assert list(loaded["status"].values) == ["ok"] * 2 + ["not analysed"] * 6
    assert (
        loaded.sel(step=[0, 1])
        .drop_vars("status")
        .drop_attrs()
        .identical(dataset.drop_vars("status").drop_attrs())
    )
    dataset = analyze(run, ["weights", SMALL], steps=STEPS)
    assert load_results(run).identical(dataset)
    merged.write_bytes(b"half")
    loaded = load_results(run)
    assert loaded.drop_attrs().identical(dataset.drop_attrs())
    assert loaded.attrs == dataset.attrs
    # A file that has come after it is not overlooked.
    analyze(run, ["performance"], steps=[4])
    assert "loss" in load_results(run)


def test_a_second_call_measures_nothing(default: tuple[Run, xr.Dataset]) -> None:
    run, dataset = default
    before = {file.path: file.path.stat().st_mtime_ns for file in run.results()}
    seen: list[Progress] = []
    again = analyze(run, CHOSEN, progress=seen.append)
    assert [progress.total for progress in seen] == [0]
    assert again.identical(dataset)
    assert {file.path: file.path.stat().st_mtime_ns for file in run.results()} == before


def test_resuming_gives_the_same_bits(default: tuple[Run, xr.Dataset], run_path: Path) -> None:
    _, dataset = default
    run = open_run(run_path)
    chosen = ["performance", SMALL]

    class Killed(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.finished == 12:
            raise Killed

    with pytest.raises(Killed):
        analyze(run, chosen, probe_sets=["current"], progress=stop)
    assert len(run.results()) == 12
    finished = analyze(run, chosen, probe_sets=["current"])
    assert len(run.results()) == 16
    for name in finished:
        expected = dataset[name].sel(probe_set=["current"]) if name != "status" else dataset[name]
        np.testing.assert_array_equal(finished[name].values, expected.values, err_msg=str(name))


def test_one_compilation_for_all_checkpoints(run_path: Path) -> None:
    traces: list[None] = []
    network = Predict(build_network(NETWORK))

    def predict(params: dict, inputs: jax.Array) -> jax.Array:
        traces.append(None)
        return network(params, inputs)

    run = open_run(run_path, predict=predict, loss=cross_entropy)
    chosen = ["performance", "ranks", "units", Spectrum(order=4, largest=1, smallest=1)]
    analyze(run, chosen, steps=[0], probe_sets=["current"])
    first = len(traces)
    assert first > 0
    analyze(run, chosen, steps=STEPS)
    assert len(traces) == first


def test_the_key_knows_settings_data_and_content(run_path: Path) -> None:
    run = open_run(run_path)
    keys = {
        item.key
        for diagnostic in (SMALL, Spectrum(order=13, vectors=2), GAUSS_NEWTON, "units")
        for item in make_plan(run, [diagnostic], steps=[0, 1]).measurements
    }
    assert len(keys) == 4 * 2 * 2  # four diagnostics, two checkpoints, two probe sets
    again = make_plan(run, [SMALL], steps=[0, 1]).measurements
    assert {item.key for item in again} <= keys


def test_other_settings_live_beside(run_path: Path) -> None:
    run = open_run(run_path)
    wide = analyze(run, [SMALL], steps=STEPS[:3], probe_sets=["current"])
    deep = analyze(run, [Spectrum(order=20, vectors=2)], steps=[40], probe_sets=["current"])
    assert wide.sizes["node"] == 16
    assert deep.sizes["node"] == 20
    # Loaded together, the settings that cover most checkpoints are shown.
    loaded = load_results(run)
    assert loaded.sizes["node"] == 16
    assert np.isnan(loaded["hessian_trace"].sel(step=40)).all()
    assert json.loads(loaded.attrs["settings"])["spectrum:hessian"]["order"] == 16
    assert loaded["status"].sel(step=4) == "ok"
    assert loaded["status"].sel(step=30) == "not analysed"


def test_a_named_probe_set(run_path: Path) -> None:
    run = open_run(run_path)
    dataset = analyze(run, ["performance"], probe_sets=["task-000", "current"])
    assert list(dataset["probe_set"].values) == ["task-000", "current"]
    first = dataset["loss"].sel(step=list(STEPS[:4]))
    np.testing.assert_array_equal(first.sel(probe_set="task-000"), first.sel(probe_set="current"))
    # Each (checkpoint, data) is measured once, whatever it is called.
    assert len(run.results()) == 4 + 2 * 4
    with pytest.raises(RunError, match=r"no probe set 'task-9'.*task-000"):
        analyze(run, ["performance"], probe_sets=["task-9"])


def test_a_bad_checkpoint_does_not_stop_the_others(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "bad" / "seed-0", bad=(21,)))
    damaged = run.path / "checkpoints" / f"{4:09d}"
    files = (path for path in damaged.rglob("params/**/*") if path.is_file())
    victim = max(files, key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1])
    dataset = analyze(run, ["performance", "weights", SMALL], probe_sets=["current"])
    status = {int(step): str(dataset["status"].sel(step=step).item()) for step in dataset["step"]}
    assert "truncated" in status[4]
    assert victim.name in status[4]
    assert "NaN or infinity" in status[21]
    assert {status[step] for step in STEPS if step not in (4, 21)} == {"ok"}
    for name in ("loss", "weight_norm", "hessian_trace"):
        found = dataset[name].notnull().values.ravel()
        assert list(dataset["step"].values[found]) == [s for s in STEPS if s not in (4, 21)]
    assert load_results(run)["status"].identical(dataset["status"])


def test_a_loss_that_overflows_is_reported(run_path: Path) -> None:
    def overflowing(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        losses = cross_entropy(outputs, targets)
        return losses * jax.numpy.where(outputs.std() > 1.0, jax.numpy.inf, 1.0)

    network = Predict(build_network(NETWORK))
    run = open_run(run_path, predict=network, loss=overflowing)
    dataset = analyze(run, [SMALL], steps=[0, 40], probe_sets=["current"])
    status = dict(zip(dataset["step"].values, dataset["status"].values, strict=True))
    assert any("overflow" in reason for reason in status.values())


def test_impossible_settings_write_nothing(run_path: Path) -> None:
    run = open_run(run_path)
    with pytest.raises(UnknownNameError, match="Did you mean 'spectrum'"):
        analyze(run, ["spectrm"])
    with pytest.raises(UnknownNameError, match="Did you mean 'hessian'"):
        analyze(run, operator="hesian")
    with pytest.raises(OperatorError, match=r"order=500.*matrix with 244 rows.*from 1 to 244"):
        analyze(run, [Spectrum(order=500)])
    with pytest.raises(OperatorError, match="largest=30"):
        analyze(run, [Spectrum(largest=30, smallest=30)])
    with pytest.raises(RunError, match=r"no checkpoint at step 22. Nearest: 20, 21, 24, 30"):
        analyze(run, steps=[22])
    assert not run.results()
    assert not (run_path / "results").exists()


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    RunWriter.create(tmp_path / "empty", config={}).close()
    with pytest.raises(RunError, match="has no checkpoint"):
        analyze(open_run(tmp_path / "empty"))
    with pytest.raises(RunError, match="holds no results"):
        load_results(open_run(tmp_path / "empty"))


def test_a_budget_takes_the_most_important_first(run_path: Path) -> None:
    run = open_run(run_path)
    everything = make_plan(run, ["performance", SMALL])
    assert everything.products == 11 * SMALL.products(244)
    assert everything.seconds_per_product > 0
    assert everything.seconds > 0
    cheap = sum(item.seconds(0) for item in everything.measurements if not item.products)
    one = everything.measurements[-1].seconds(everything.seconds_per_product)
    plan = everything.within(cheap + planning.SECONDS_TO_COMPILE + 6.5 * one)
    spectra = [item.step for item in plan.measurements if item.products]
    assert spectra == [40, 40, 0, 0, 20, 20]  # last task end, start, other task end
    assert len(plan.left_out) == 5
    assert sum(not item.products for item in plan.measurements) == 16
    # What was chosen is made, however long a loaded machine takes to compile.
    outcome = execute(replace(plan, budget=None))
    assert not outcome.failures
    dataset = collect(plan, outcome)
    measured = dataset["hessian_trace"].sel(probe_set="current").notnull().values
    assert list(dataset["step"].values[measured]) == [0, 20, 40]
    # What is stored costs nothing, so the same budget goes further the next time.
    again = make_plan(run, ["performance", SMALL], budget=1000.0)
    assert len(again.to_do) == 5


def test_a_tiny_budget_goes_further_each_time(run_path: Path) -> None:
    run = open_run(run_path)
    for number in range(3):
        analyze(run, ["weights"], budget=1e-9)
        assert len(run.results()) == number + 1
    nothing = make_plan(run, ["weights"]).within(0.0)
    assert not nothing.to_do
    assert len(nothing.left_out) == len(STEPS) - 3


def test_a_budget_that_is_used_up_stops_the_spectra(run_path: Path) -> None:
    run = open_run(run_path)
    plan = replace(make_plan(run, ["weights", SMALL], steps=[0, 40]), budget=1e-9)
    outcome = execute(plan)
    assert len(outcome.skipped) == 4
    assert len(run.results()) == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("45", 45)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-3m", "0", "ten", "nan", "inf"])
def test_no_budgets(text: str) -> None:
    with pytest.raises(RunError, match="not a positive time"):
        parse_budget(text)


def test_the_price_is_what_is_spent(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[None] = []
    product = Hessian.product

    def counted(self: Hessian, vector: jax.Array) -> jax.Array:
        spent.append(None)
        return product(self, vector)

    operator = Hessian(open_run(built).checkpoint(20).problem())
    SMALL.of_operator(operator)  # the first reference product checks that float64 is possible
    monkeypatch.setattr(Hessian, "product", counted)
    SMALL.of_operator(operator)
    assert len(spent) == SMALL.products(operator.dim)
