from pathlib import Path

import pytest

from tests.agents.processes import command, finish


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory) -> Path:
    """Both arms of the tiny preset, trained by the command line, two at a time."""
    study = tmp_path_factory.mktemp("studies") / "tiny"
    code, output, errors = finish(command("random-labels-tiny", study, "--jobs", "2"))
    assert code == 0, errors
    assert "2 complete runs" in output
    return study
