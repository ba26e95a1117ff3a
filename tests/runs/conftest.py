"""A tiny run that several tests read, copied before it is changed."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.runs.example import parameters, write_run


@pytest.fixture(scope="session")
def params() -> Any:
    """Initial parameters of the example network."""
    return parameters()


@pytest.fixture(scope="session")
def stored_run(tmp_path_factory: pytest.TempPathFactory, params: Any) -> Path:
    """Write the example run; nobody changes it."""
    path = tmp_path_factory.mktemp("stored") / "run"
    write_run(path, params)
    return path


@pytest.fixture
def run_path(stored_run: Path, tmp_path: Path) -> Path:
    """Copy the stored run, which also shows that a run can be moved."""
    return Path(shutil.copytree(stored_run, tmp_path / "copy"))
