"""`python -m figures`: what it writes, and what it says when something is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from figures.__main__ import main
from tests.figures.synthetic import write_study

ROOT = Path(__file__).resolve().parents[2]


def test_list_names_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in ("fig1", "spectrum", "sharpness"):
        assert name in printed


def test_make_writes_png_and_pdf_and_prints_where(
    study_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["make", "all", "--study", str(study_directory), "--out", str(tmp_path)]) == 0
    names = ("fig1", "spectrum-seed-0", "spectrum-seed-1", "sharpness")
    files = [tmp_path / f"{name}{suffix}" for name in names for suffix in (".png", ".pdf")]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert capsys.readouterr().out.split() == [str(file) for file in files]
    assert all(file.stat().st_size > 5000 for file in files)
    assert b"Type0" in (tmp_path / "fig1.pdf").read_bytes(), "fonts are not embedded as TrueType"


@pytest.mark.long
def test_another_process_elsewhere_writes_the_same_bytes(
    study_directory: Path, tmp_path: Path
) -> None:
    command = ["make", "fig1", "--study", str(study_directory), "--out"]
    assert main([*command, str(tmp_path / "here")]) == 0
    subprocess.run(
        [sys.executable, "-m", "figures", *command, str(tmp_path / "there")],
        check=True,
        cwd=ROOT,
        env={**os.environ, "TZ": "Asia/Tokyo", "MPLBACKEND": "svg"},
        stdout=subprocess.DEVNULL,
    )
    for name in ("fig1.png", "fig1.pdf"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_default_output_lies_in_the_study(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", analysed=False)
    assert main(["make", "sharpness", "--study", str(study)]) == 2
    assert not (study / "figures").exists()


@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_without_a_study_it_names_the_training_command(
    scale: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["make", "fig1", "--scale", scale]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    preset, out = {
        "quick": ("random-labels", "runs/demo"),
        "paper": ("random-labels-paper", "runs/paper"),
    }[scale]
    assert message.strip().endswith(f"Run: python -m agents supervised {preset} --out {out}")


@pytest.mark.parametrize("name", ["fig1", "spectrum", "sharpness"])
def test_without_results_it_names_the_analysis(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path / "study", analysed=False)
    assert main(["make", name, "--study", str(study)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.strip().endswith(f"Run: curvlab analyze {study}")


def test_an_unknown_figure_gets_the_nearest_names(
    study_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["make", "sharpnes", "fig1", "--study", str(study_directory), "--out", str(tmp_path)]
    assert main(command) == 2
    assert "Unknown figure 'sharpnes'. Did you mean 'sharpness'?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_refusing_disk_is_one_line(
    study_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = "/dev/full/figures"
    assert main(["make", "fig1", "--study", str(study_directory), "--out", out]) == 2
    assert capsys.readouterr().err.startswith("python -m figures: Cannot write /dev/full/figures")
