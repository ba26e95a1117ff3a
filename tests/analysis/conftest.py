"""One tiny run, built once, and copies of it that a test may change."""

import shutil
from pathlib import Path

import pytest

from tests.analysis.tiny import write_run


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny run; tests do not change it."""
    return write_run(tmp_path_factory.mktemp("tiny") / "default" / "seed-0")


@pytest.fixture
def run_path(built: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny run."""
    return Path(shutil.copytree(built, tmp_path / "default" / "seed-0"))
