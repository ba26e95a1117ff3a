"""Real processes of `python -m agents`, and what happens to them."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(module: str, *arguments: object) -> "subprocess.Popen[str]":
    """Start a module of this checkout in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def command(preset: str, study: Path, *options: object) -> "subprocess.Popen[str]":
    """Start `python -m agents supervised`."""
    return start("agents", "supervised", preset, "--out", study, *options)


def worker(arm: str, path: Path) -> "subprocess.Popen[str]":
    """Start the worker of one tiny run."""
    return start("agents.worker", "random-labels-tiny", arm, 0, path)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for the end; return exit code, output and errors."""
    # Workers end when their standard input closes, which `communicate` would do at once.
    stdin, process.stdin = process.stdin, None
    with process:
        output, errors = process.communicate(timeout=120)
    if stdin is not None:
        stdin.close()
    return process.returncode, output, errors


def read_until(process: "subprocess.Popen[str]", text: str) -> None:
    """Read lines of output until one contains ``text``."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"The process ended without saying {text!r}.")


def children(process: "subprocess.Popen[str]") -> list[int]:
    """Return the process numbers of the direct children."""
    listing = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in listing.read_text().split()]


def gone(number: int, seconds: float = 15) -> bool:
    """Whether a process ends within the given time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{number}/stat")
        # A zombie nobody waits for (in a container without an init process) has ended too.
        if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False
