"""kill -9 at random moments: the restarted analysis ends with the bits of an undisturbed one."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr

from curvlab.runs import open_run

ROOT = Path(__file__).resolve().parents[2]


def start(path: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.analysis.killing", str(path)]
    return subprocess.Popen(command, cwd=ROOT)


def stored(path: Path) -> dict[str, xr.Dataset]:
    """Return all results of a run without attributes."""
    run = open_run(path)
    return {
        file.path.name: found.drop_attrs()
        for file in run.results()
        if (found := run.read_result(file.diagnostic, file.step, file.probe_set, file.key))
        is not None
    }


def count(path: Path) -> int:
    """Return how many results a run holds."""
    return len(list((path / "results").glob("*-*.nc")))


def kill_and_restart(built: Path, tmp_path: Path, kills: int) -> None:
    undisturbed = Path(shutil.copytree(built, tmp_path / "undisturbed"))
    assert start(undisturbed).wait() == 0
    expected = stored(undisturbed)
    assert len(expected) == 4 * 4
    # Moments are counted in results, since how long anything takes depends on the machine.
    moments = random.Random(0)
    killed = Path(shutil.copytree(built, tmp_path / "killed"))
    for number in range(kills):
        if count(killed) > 13:
            shutil.rmtree(killed / "results")
        before = count(killed)
        wanted = moments.randint(before, before + (14 - before) // (kills - number) + 1)
        process = start(killed)
        while count(killed) < wanted:
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL or count(killed) == 16
    assert start(killed).wait() == 0
    found = stored(killed)
    assert found.keys() == expected.keys()
    for name, dataset in expected.items():
        assert found[name].identical(dataset), name
    assert not [path for path in (killed / "results").iterdir() if ".tmp" in path.name]
    assert open_run(killed).verify() == ()


@pytest.mark.long
def test_killed_ten_times(built: Path, tmp_path: Path) -> None:
    kill_and_restart(built, tmp_path, 10)
