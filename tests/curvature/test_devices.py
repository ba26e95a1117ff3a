"""The same numbers on one device, on eight, and on those of two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "curvature" / "on_devices.py"


def run(folder: Path, processes: int, devices_each: int, *more: str) -> list[dict[str, Any]]:
    """Return what each process printed.

    Into files: a process that waits for a reader of its pipe would hold up all others.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    devices = f"--xla_force_host_platform_device_count={devices_each}"
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    printed = [folder / f"printed-{rank}" for rank in range(processes)]
    errors = [folder / f"errors-{rank}" for rank in range(processes)]
    started = []
    for rank in range(processes):
        with printed[rank].open("w") as output, errors[rank].open("w") as complaints:
            started.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        str(SCRIPT),
                        str(processes),
                        str(rank),
                        str(port),
                        str(folder),
                        *more,
                    ],
                    stdout=output,
                    stderr=complaints,
                    env=environment,
                    cwd=ROOT,
                )
            )
    try:
        for process, complaints in zip(started, errors, strict=True):
            assert process.wait(timeout=280) == 0, complaints.read_text()[-4000:]
    finally:
        for process in started:
            process.kill()
    return [json.loads(file.read_text().splitlines()[-1]) for file in printed]


def compare(found: dict[str, Any]) -> None:
    one = found["one"]
    largest = np.abs(one["eigenvalues"]).max()
    for name in {*found} & {"resident", "streamed"}:
        other = found[name]
        np.testing.assert_allclose(
            other["eigenvalues"], one["eigenvalues"], rtol=0, atol=1e-6 * largest
        )
        np.testing.assert_allclose(other["cdf"], one["cdf"], rtol=0, atol=1e-5)
        assert other["value"] == pytest.approx(one["value"], rel=1e-5)
        for more in {*one} & {"gauss_newton", "losses", "gradient"}:
            np.testing.assert_allclose(other[more], one[more], rtol=1e-4, atol=1e-6)


def test_eight_devices_of_one_process(tmp_path):
    (found,) = run(tmp_path, 1, 8)
    assert found["devices"] == 8
    assert found["rows"] == [13] * 8  # 99 examples and 5 of weight zero
    assert found["panels"] == [1] * 8
    compare(found)


@pytest.mark.long
def test_two_processes(tmp_path):
    first, second = run(tmp_path, 2, 2, "everything")
    assert first["devices"] == 4
    assert first["rows"] == second["rows"] == [25, 25]
    assert first["panels"] == second["panels"] == [1, 1]
    assert {**first, "one": 0} == {**second, "one": 0}
    compare(first)
    assert "symmetric to" in first["resident"]["sound"]
    assert first["resumed"] == first["straight"]
