"""Several runs at once: arms x seeds, each in a worker process of its own.

The parent trains nothing. It starts workers, shows what they tell, hands signals on, and sees to it
that none outlives it: they watch their standard input, which closes when the parent is gone.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from agents.console import Display
from agents.presets import RunConfig
from agents.worker import EXIT_REFUSED

_ROOT = Path(__file__).resolve().parents[1]
_SECONDS_TO_HURRY = 1.0


@dataclass(frozen=True)
class Job:
    """One run to train, and where."""

    config: RunConfig
    path: Path

    @property
    def label(self) -> str:
        """Short name for the console, such as ``"tuned/seed-0"``."""
        return f"{self.config.arm}/seed-{self.config.seed}"


def plan(configs: Sequence[RunConfig], study: Path) -> list[Job]:
    """Return the jobs of a study, ``STUDY/ARM/seed-K`` each."""
    return [Job(config, study / config.arm / f"seed-{config.seed}") for config in configs]


def check(jobs: Sequence[Job]) -> None:
    """Refuse to start if a run exists with another configuration or is being written.

    Raises
    ------
    RunError
        Naming the run and what differs. Nothing has been written then.
    """
    existing = [job for job in jobs if (job.path / "run.json").exists()]
    if not existing:
        return
    # Only now, since this import takes seconds.
    from curvlab.runs import RunWriter

    for job in existing:
        RunWriter.open(job.path, config=job.config.to_json()).close()


class _Worker:
    """A worker process and the threads that read what it says."""

    def __init__(self, job: Job, data: Path | None, inbox: "queue.Queue[tuple[Job, Any]]"):
        config = job.config
        command = [sys.executable, "-m", "agents.worker", config.preset, config.arm]
        command += [str(config.seed), str(job.path)]
        command += ["--data", str(data)] if data is not None else []
        paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            # XLA's CPU client takes its number of threads from here.
            "NPROC": str(config.settings.threads),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        self._job = job
        self._inbox = inbox
        self._errors: deque[str] = deque(maxlen=30)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        listener = threading.Thread(target=self._listen_errors, daemon=True)
        listener.start()
        threading.Thread(target=self._listen, args=(listener,), daemon=True).start()

    def _listen_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    def _listen(self, listener: threading.Thread) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):
                self._inbox.put((self._job, json.loads(line)))
        code = self.process.wait()
        listener.join()
        self._inbox.put(
            (self._job, {"kind": "exit", "code": code, "errors": "".join(self._errors)})
        )

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def end(self) -> None:
        """Kill the process if it still runs, and close its streams."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class Study:
    """Trains jobs in parallel workers and collects how they end.

    Parameters
    ----------
    jobs
        The runs.
    workers
        How many at once. The numbers of a run do not depend on it.
    display
        Where progress is shown.
    data
        Directory with the files of the data set; None for the cache.
    """

    def __init__(
        self, jobs: Sequence[Job], workers: int, display: Display, data: Path | None = None
    ):
        self._waiting = deque(jobs)
        self._limit = workers
        self._display = display
        self._data = data
        self._inbox: queue.Queue[tuple[Job, Any]] = queue.Queue()
        self._running: dict[str, _Worker] = {}
        self._received: list[int] = []
        self._asked = 0.0
        self.refused: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def run(self) -> int:
        """Train everything.

        Returns
        -------
        int
            0 when all runs are complete, 128 + n after signal n, 2 when runs were refused, 1 when
            a worker broke down. ``refused`` and ``failed`` then hold the reasons by label.
        """
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._on_signal) for number in signals}
        try:
            while self._running or (self._waiting and not self._received):
                self._start_more()
                with suppress(queue.Empty):
                    job, message = self._inbox.get(timeout=0.2)
                    self._handle(job, message)
        finally:
            for worker in self._running.values():
                worker.end()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._received:
            return 128 + self._received[0]
        if self.failed:
            return 1
        return EXIT_REFUSED if self.refused else 0

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        # A later second signal means that somebody is in a hurry; one that follows at once is the
        # same signal, sent to the process and to its group.
        now = time.monotonic()
        hurry = bool(self._received) and now - self._asked > _SECONDS_TO_HURRY
        pass_on = signal.SIGKILL if hurry else signal.SIGTERM
        if not self._received:
            self._asked = now
        self._received.append(number)
        for worker in list(self._running.values()):
            worker.signal(pass_on)

    def _start_more(self) -> None:
        while self._waiting and len(self._running) < self._limit and not self._received:
            job = self._waiting.popleft()
            self._display.add(job.label, job.config.settings.total_steps)
            self._running[job.label] = _Worker(job, self._data, self._inbox)

    def _handle(self, job: Job, message: Any) -> None:
        match message:
            case {"kind": "start", "step": step}:
                self._display.started(job.label, step)
            case {"kind": "row", "step": step, "row": row, "switch": switch}:
                self._display.row(job.label, step, row, switch)
            case {"kind": "end", "outcome": outcome}:
                self._display.ended(job.label, outcome)
            case {"kind": "refused", "message": text}:
                self.refused[job.label] = text
            case {"kind": "exit", "code": code, "errors": errors}:
                self._running.pop(job.label).end()
                stopped = self._received and (code < 0 or code >= 128)
                if stopped and code < 0:
                    self._display.line(
                        f"{job.label}: ended; the same command continues from its last saved state"
                    )
                elif code and not stopped and job.label not in self.refused:
                    reason = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
                    self.failed[job.label] = f"{reason}\n{errors}".rstrip()
                self._display.removed(job.label)
            case _:
                self._display.line(f"{job.label}: {message}")
