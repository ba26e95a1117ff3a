"""What a person sees while runs train: bars on a terminal, plain lines elsewhere.

Messages come from the workers (:mod:`agents.worker`) through :mod:`agents.study`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from curvlab.cli.console import SECONDS_BETWEEN_LINES, say
from curvlab.core.texts import duration


@dataclass
class _Status:
    """How far one run is, and since when."""

    total: int
    began: float
    origin: int = 0
    step: int = 0
    compiled: tuple[int, float] | None = None
    said: float = 0.0
    diverged: bool = False
    bar: TaskID | None = None

    def advance(self, step: int, now: float) -> None:
        """Note how far the run is."""
        self.step = step
        if self.compiled is None and step > self.origin:
            # The rate counts from here, since the first segment contains the compilation.
            self.compiled = (step, now)

    def pace(self, now: float) -> str:
        """Return rate and time left, empty as long as they are unknown."""
        if self.compiled is None or self.step == self.compiled[0] or now <= self.compiled[1]:
            return ""
        rate = (self.step - self.compiled[0]) / (now - self.compiled[1])
        return f"{rate:,.0f} steps/s, {duration((self.total - self.step) / rate)} left"


class Display:
    """Shows the progress of several runs; a context manager.

    Parameters
    ----------
    console
        Where to write. Bars appear only if it is a terminal.
    """

    def __init__(self, console: Console):
        self._console = console
        self._runs: dict[str, _Status] = {}
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}"),
                TextColumn("{task.fields[row]}"),
                console=console,
            )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def line(self, text: str) -> None:
        """Write one line (above the bars, if there are any)."""
        say(self._console, text)

    def add(self, label: str, total: int) -> None:
        """Announce a run of ``total`` steps whose process is about to start."""
        status = _Status(total, time.monotonic())
        if self._bars is not None:
            status.bar = self._bars.add_task(label, total=total, pace="starting", row="")
        self._runs[label] = status

    def started(self, label: str, step: int) -> None:
        """Say from where a run goes on."""
        status = self._runs[label]
        status.origin = status.step = step
        origin = f"continuing from step {step:,}" if step else "starting"
        self.line(f"{label}: {origin}, {status.total:,} steps in all")
        status.said = time.monotonic()

    def row(self, label: str, step: int, row: Mapping[str, Any], switch: bool) -> None:
        """Show a metrics row; the end of a task and a divergence are said in a line."""
        status, now = self._runs[label], time.monotonic()
        status.advance(step, now)
        figures = f"accuracy {row['accuracy']:.3f}, loss {row['loss']:.4g}"
        if "diverged_at" in row and not status.diverged:
            status.diverged = True
            self.line(
                f"{label}: diverged, the loss is not finite since step {row['diverged_at']:,}; "
                "the run goes on and is recorded as it is"
            )
        if switch:
            self.line(f"{label}: end of task {row['task']} at step {step:,}, {figures}")
        if self._bars is not None and status.bar is not None:
            self._bars.update(status.bar, completed=step, pace=status.pace(now), row=figures)
        elif not switch and now - status.said >= SECONDS_BETWEEN_LINES:
            status.said = now
            pace = f"{status.pace(now)}, " if status.pace(now) else ""
            self.line(f"{label}: step {step:,} of {status.total:,}, {pace}{figures}")

    def ended(self, label: str, outcome: str) -> None:
        """Say how a run ended."""
        status = self._runs[label]
        if outcome == "was complete":
            self.line(f"{label}: complete already ({status.total:,} steps), nothing to do")
        elif outcome == "stopped":
            self.line(
                f"{label}: stopped at step {status.step:,} of {status.total:,} and saved; the same "
                "command continues"
            )
        else:
            seconds = duration(time.monotonic() - status.began)
            self.line(f"{label}: finished {status.total:,} steps in {seconds}")

    def removed(self, label: str) -> None:
        """Take the bar of a run whose process has ended off the screen."""
        status = self._runs.pop(label)
        if self._bars is not None and status.bar is not None:
            self._bars.remove_task(status.bar)
