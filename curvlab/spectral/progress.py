"""How far a running estimate is, and a bar that shows it."""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """State of a running estimate.

    Attributes
    ----------
    products
        Operator products spent (of a measure and of eigenpairs: those of the search).
    total
        Products that will be spent, where that is known; for a trace with a target it grows once,
        when the first stage has shown how many vectors the second needs.
    error
        Error so far, where a target was set: half the mean width of the bracket for a measure, the
        largest estimated residual relative to ``max |θ|`` for eigenpairs, half the interval of the
        first stage relative to the value for a trace.
    target
        Error at which the estimate ends.
    """

    products: int
    total: int | None = None
    error: float | None = None
    target: float | None = None

    @property
    def fraction(self) -> float | None:
        """Share of the work that is done; for a target, on a logarithmic scale of the error."""
        if self.total:
            return self.products / self.total
        if self.error and self.target and self.error < 1:
            return min(1.0, math.log(self.error) / math.log(self.target))
        return None


Tick = Callable[[Progress], None]


@contextmanager
def progress_bar(title: str) -> Generator[Tick, None, None]:
    """Show products, certified error and time left while an estimate runs.

    ``with progress_bar("Hessian") as tick: slq(op, key, tolerance=0.005, tick=tick)``. Nothing is
    drawn where the output is no terminal or notebook.
    """
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, transient=True) as bars:
        task = bars.add_task(title, total=None, state="")

        def tick(progress: Progress) -> None:
            state = f"{progress.products} products"
            if progress.error is not None:
                state += f", error {progress.error:.1e} of {progress.target:.1e}"
            fraction = progress.fraction
            if fraction is None:
                bars.update(task, state=state)
            else:
                bars.update(task, completed=fraction, total=1.0, state=state)

        yield tick
