"""The `curvlab` command in process: tables, exit codes and one-line errors."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from curvlab.analysis import load_results
from curvlab.cli.main import main
from curvlab.runs import open_run
from tests.analysis.tiny import write_run

# The least that shows everything: cheap to compute, and the same for all tests below.
ANALYSE = ["--order", "12", "--vectors", "1", "--spectra", "2", "--probe-sets", "current"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Path:
    """Return an analysed study of two arms."""
    path = tmp_path_factory.mktemp("study")
    shutil.copytree(built, path / "default" / "seed-0")
    write_run(path / "tuned" / "seed-0", arm="tuned")
    assert main(["analyze", str(path), *ANALYSE]) == 0
    return path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """Return a function that expects a command to be refused and returns its one line."""

    def run(*arguments: object, code: int = 2) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == code
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert "Traceback" not in captured.err
        return lines[0]

    return run


def test_inspect(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(study)]) == 0
    shown = capsys.readouterr().out
    for text in ("default/seed-0", "tuned/seed-0", "widths=[16]", "8: 0, 1, 4, 20", "intact"):
        assert text in shown


def test_inspect_finds_damage(run_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = run_path / "checkpoints" / f"{4:09d}" / "spec.json"
    victim.write_bytes(victim.read_bytes()[:-1])
    assert main(["inspect", str(run_path)]) == 3
    shown = capsys.readouterr().out
    assert "000000004/spec.json is truncated" in shown
    assert "1 damaged" in shown


def test_analyze_says_what_it_costs_first(
    run_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", str(run_path), *ANALYSE, "--diagnostics", "units", "spectrum"]) == 0
    lines = capsys.readouterr().out.splitlines()
    plan = next(line for line in lines if "measurements to make" in line)
    products = 12 + 10 + 8 + 8
    assert "8 checkpoints" in plan
    assert f"10 measurements to make (2 spectra, {2 * products} products)" in plan
    assert "about" in plan
    assert plan.endswith(" s")
    assert "10 measurements made" in lines[-2]
    assert main(["analyze", str(run_path), *ANALYSE, "--diagnostics", "units", "spectrum"]) == 0
    assert "0 measurements to make" in capsys.readouterr().out


def test_analyze_leaves_out_bad_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path / "bad" / "seed-0", bad=(30,))
    assert main(["analyze", str(path), "--diagnostics", "performance"]) == 3
    captured = capsys.readouterr()
    assert captured.err.count("left out") == 1
    assert "step 30 left out: The parameters at step 30" in captured.err
    loss = load_results(open_run(path))["loss"].sel(probe_set="current")
    assert list(loss["step"].values[np.isnan(loss)]) == [30]


def test_compare(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(study)]) == 0
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if "│" in line]
    assert len(rows) == 4  # two checkpoints with spectra of two arms
    assert {tuple(cell.strip() for cell in row.split("│")[1:5]) for row in rows} == {
        ("0", "0", "default", "0"),
        ("0", "0", "tuned", "0"),
        ("40", "1", "default", "0"),
        ("40", "1", "tuned", "0"),
    }
    results = load_results(open_run(study / "tuned" / "seed-0"))
    one = results.sel(step=40, probe_set="current")
    row = next(row for row in rows if "tuned" in row and "│   40 │" in row)
    assert f"{float(one['dead_fraction']):.1%}" in row
    assert f"{float(one['hessian_eigenvalue'].sel(pair='largest-1')):#.4g} ±" in row
    assert f"{float(one['hessian_negative_fraction_high']):.3g}]" in row


def test_spectrum(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = study / "default" / "seed-0"
    picture = tmp_path / "spectrum.png"
    arguments = ["--step", "40", "--order", "12", "--vectors", "1", "--save", str(picture)]
    assert main(["spectrum", str(run), *arguments]) == 0
    shown = capsys.readouterr().out
    for text in ("largest-1", "smallest-1", "trace", "negative fraction", "noise floor"):
        assert text in shown
    assert "to make" not in shown  # it was stored
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_missing_runs(refused, tmp_path: Path, built: Path) -> None:
    for command in (["inspect"], ["analyze"], ["compare"]):
        assert "there is no such directory" in refused(*command, tmp_path / "nowhere")
    assert "no run.json" in refused("analyze", tmp_path)
    line = refused("spectrum", built.parent, "--step", 0)
    assert "it is a study with 1 runs" in line
    assert "No run was named" in refused("analyze")


def test_unknown_names_and_settings(refused, run_path: Path) -> None:
    assert "Did you mean 'units'" in refused("analyze", run_path, "--diagnostics", "unitz")
    line = refused("analyze", run_path, "--order", 1000)
    assert "order=1000" in line
    assert "244 rows" in line
    assert "no checkpoint at step 22. Nearest: 20" in refused("spectrum", run_path, "--step", 22)
    assert "no checkpoint at step 22" in refused("analyze", run_path, "--steps", 0, 22)
    assert "no probe set 'task-7'" in refused("analyze", run_path, "--probe-sets", "task-7")
    assert "not a positive time" in refused("analyze", run_path, "--budget", "soon")
    assert ".png or .pdf" in refused("spectrum", run_path, "--step", 0, "--save", "x.svg")
    assert "vectors=0" in refused("analyze", run_path, "--vectors", 0)
    assert "holds no results" in refused("compare", run_path)
    assert not (run_path / "results").exists()


def test_a_damaged_checkpoint_has_no_spectrum(refused, run_path: Path) -> None:
    (run_path / "checkpoints" / f"{4:09d}" / "spec.json").unlink()
    line = refused("spectrum", run_path, "--step", 4)
    assert "spec.json is missing" in line


def test_results_that_cannot_be_written(refused, run_path: Path) -> None:
    (run_path / "results").write_text("a file in the way")
    line = refused("analyze", run_path, "--diagnostics", "weights")
    assert str(run_path / "results") in line
    assert "Cannot write" in line


def test_interrupted(
    run_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("curvlab.cli.analyze.execute", interrupt)
    assert main(["analyze", str(run_path), "--diagnostics", "weights"]) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1
