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


def run(processes: int, devices_each: int, *more: str) -> list[dict[str, Any]]:
    """Return what each process printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices_each}"
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(processes), str(rank), str(port), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        for rank in range(processes)
    ]
    found = []
    try:
        for process in started:
            output, errors = process.communicate(timeout=280)
            assert process.returncode == 0, errors[-4000:]
            found.append(json.loads(output.splitlines()[-1]))
    finally:
        for process in started:
            process.kill()
    return found


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


def test_eight_devices_of_one_process():
    (found,) = run(1, 8)
    assert found["devices"] == 8
    assert found["rows"] == [13] * 8  # 99 examples and 5 of weight zero
    assert found["panels"] == [1] * 8
    compare(found)


@pytest.mark.long
def test_two_processes():
    first, second = run(2, 2, "everything")
    assert first["devices"] == 4
    assert first["rows"] == second["rows"] == [25, 25]
    assert first["panels"] == second["panels"] == [1, 1]
    assert {**first, "one": 0} == {**second, "one": 0}
    compare(first)
    assert "symmetric to" in first["resident"]["sound"]
