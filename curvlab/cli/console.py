"""How commands talk: tables, one line per event, and a progress bar where there is a terminal.

Shared by every command line of the project.
"""

import signal
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from curvlab.core.texts import duration

SECONDS_BETWEEN_LINES = 10.0


def make_console(*, stderr: bool = False) -> Console:
    """Return a console; where nobody watches, lines are not wrapped to a terminal's width."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, width=200)
    return console


def say(console: Console, text: str) -> None:
    """Print one line as it is: no markup, no wrapping."""
    console.print(Text(text), soft_wrap=True)


@contextmanager
def noticing_interrupts() -> Generator[threading.Event]:
    """Yield an event that Ctrl-C sets, besides raising ``KeyboardInterrupt``.

    Python drops an exception that happens to be raised in a destructor or a weak reference's
    callback, of which array libraries have many; whoever checks the event still notices.
    """
    pressed = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


class Meter:
    """Shows how far a piece of work is: a bar on a terminal, a line now and then elsewhere.

    Parameters
    ----------
    console
        Where to write.
    label
        What is being done.
    total
        Units of work.
    """

    def __init__(self, console: Console, label: str, total: float):
        self._console, self._label, self._total = console, label, total
        self._began = self._said = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            columns: Iterable[TextColumn | BarColumn | MofNCompleteColumn] = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task(label, total=total, note="")

    def __enter__(self) -> "Meter":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, done: float, note: str) -> None:
        """Show that ``done`` units are finished."""
        now = time.monotonic()
        left = ""
        if 0 < done < self._total:
            left = f", {duration((now - self._began) * (self._total - done) / done)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note + left)
        elif now - self._said > SECONDS_BETWEEN_LINES and done < self._total:
            self._said = now
            say(self._console, f"{self._label}: {done / self._total:.0%}, {note}{left}")
