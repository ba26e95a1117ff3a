"""The synthetic study, written once for all tests of the figures."""

from pathlib import Path

import pytest

from figures.study import Study, load_study
from tests.figures.synthetic import write_study


@pytest.fixture(scope="session")
def study_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "runs", seeds=(0, 1))


@pytest.fixture(scope="session")
def study(study_directory: Path) -> Study:
    return load_study(study_directory, preset="random-labels")
