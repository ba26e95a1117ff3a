"""``curvlab inspect``: what runs hold, and whether it is what was written."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curvlab.cli.command import INCOMPLETE
from curvlab.cli.console import make_console, say
from curvlab.cli.targets import open_targets
from curvlab.core.errors import RunError
from curvlab.core.specs import Spec
from curvlab.runs import Run


def inspect_runs(paths: Sequence[Path]) -> int:
    """Describe and verify every run below the paths; 3 if a file is damaged."""
    console = make_console()
    findings = sum(_inspect(console, run) for run in open_targets(paths))
    return INCOMPLETE if findings else 0


def _inspect(console: Console, run: Run) -> int:
    table = Table(title=Text(str(run.path)), title_justify="left", show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for name, spec in run.specs.items():
        table.add_row(name, _spec(spec))
    table.add_row("seed", "-" if run.seed is None else str(run.seed))
    steps = run.steps
    table.add_row("checkpoints", f"{len(steps)}: {_abridged([str(step) for step in steps])}")
    table.add_row("probe sets", f"{len(run.probe_sets)}: {_abridged(list(run.probe_sets))}")
    table.add_row("log", _log(run))
    counts = Counter(file.diagnostic for file in run.results())
    results = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    table.add_row("results", results or f"none yet: curvlab analyze {run.path}")
    findings = run.verify()
    verdict = f"{len(findings)} damaged" if findings else "intact: every file is as it was written"
    table.add_row("files", verdict)
    console.print(table)
    for finding in findings:
        say(console, f"  {finding}")
    say(console, "")
    return len(findings)


def _spec(spec: Spec | None) -> str:
    if spec is None:
        return "not recorded"
    settings = ", ".join(f"{name}={value}" for name, value in spec.settings.items())
    return f"{spec.name}({settings})"


def _log(run: Run) -> str:
    try:
        metrics = run.metrics()
    except RunError:
        return "damaged"
    return f"{metrics.sizes['step']} rows of {', '.join(map(str, metrics)) or 'nothing'}"


def _abridged(names: list[str]) -> str:
    if len(names) <= 10:
        return ", ".join(names) or "none"
    return f"{', '.join(names[:5])}, ..., {', '.join(names[-3:])}"
