"""The directory in which the pages run, with a small study where `make demo` puts its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import curvlab

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the preset `random-labels-tiny` and analyse three of its checkpoints."""
    study = tmp_path_factory.mktemp("docs") / "study"
    command = [sys.executable, "-m", "agents", "supervised", "random-labels-tiny", "--out"]
    subprocess.run([*command, str(study)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    for run in curvlab.open_runs(study):
        curvlab.analyze(run, steps=(0, 60, 120))
    return study


@pytest.fixture
def directory(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """Change into an empty directory, with `runs/demo` in it if the page speaks of it."""
    if "runs/demo" in page.read_text():
        shutil.copytree(request.getfixturevalue("tiny_study"), tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path
