"""An analysed tiny run whose report is read by the tests."""

import shutil
from pathlib import Path

import pytest

from curvlab.analysis import Spectrum, analyze
from curvlab.report import render_report
from curvlab.runs import Run, open_run
from tests.analysis.tiny import write_run

SMALL = Spectrum(order=12, vectors=1, largest=2, smallest=2)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny run without results."""
    return write_run(tmp_path_factory.mktemp("tiny") / "default" / "seed-0")


@pytest.fixture(scope="session")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with a training log and spectra at three checkpoints; tests do not change it."""
    run = open_run(write_run(tmp_path_factory.mktemp("report") / "<default> & co" / "seed-0"))
    analyze(run, ["performance", "ranks", "units", "weights"])
    analyze(run, [SMALL], steps=[0, 20, 40], probe_sets=["current"])
    return run


@pytest.fixture
def copy(analysed: Run, tmp_path: Path) -> Run:
    """Return a copy of it that a test may change."""
    place = tmp_path / analysed.path.parent.name / analysed.path.name
    return open_run(shutil.copytree(analysed.path, place))


@pytest.fixture(scope="session")
def page(analysed: Run) -> str:
    """Return the report of the analysed run."""
    return render_report(analysed)
