"""The command as a process: start-up time, full disks, Ctrl-C, closed pipes."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "curvlab.cli.main"]


# The limit is set in the new process: a fork of one that runs JAX may deadlock.
LIMITED = (
    "import resource, sys\n"
    "limit = int(sys.argv[1])\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
    "from curvlab.cli.main import main\n"
    "sys.exit(main(sys.argv[2:]))"
)


def curvlab(*arguments: object, limit: int | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the command, with a limit on the size of files if one is given."""
    command = COMMAND if limit is None else [sys.executable, "-c", LIMITED, str(limit)]
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        # A compilation cache would meet the file-size limit too.
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"} if limit else None,
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from curvlab.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'numpy', 'xarray', 'flax', 'matplotlib', 'orbax'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    # A third of a second on an idle core; processor time, since tests share the machine.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "spectrum" in curvlab("--help").stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 1.0
    assert curvlab("--version").stdout.startswith("curvlab ")


@pytest.mark.long
def test_a_full_disk(run_path: Path) -> None:
    # Large enough for cheap results (8 kB), too small for a spectrum (30 kB).
    done = curvlab(
        *("analyze", run_path, "--diagnostics", "weights", "spectrum", "--order", 10),
        *("--steps", 0, "--probe-sets", "current"),
        limit=20_000,
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "file-size limit" in done.stderr
    assert "intact" in done.stderr
    names = sorted(path.name.split("-")[0] for path in (run_path / "results").glob("*.nc"))
    assert names == ["weights"]
    assert not list((run_path / "results").glob(".tmp-*"))
    # With room, the same command goes on.
    done = curvlab("analyze", run_path, "--diagnostics", "weights", "--steps", 0)
    assert done.returncode == 0, done.stderr
    assert "1 stored already" in done.stdout


def test_ctrl_c(run_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "analyze", str(run_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    results = run_path / "results"
    limit = time.monotonic() + 120
    while not list(results.glob("*.nc")) and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    # If the signal meets a destructor, Python says first that it dropped the exception.
    assert errors.splitlines()[-1] == (
        "Interrupted. What was finished is stored; the same command goes on from there."
    )


def test_a_closed_pipe(run_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [*COMMAND, "inspect", str(run_path)],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert process.stderr == b""
    assert process.returncode == 1
