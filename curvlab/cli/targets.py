"""Which runs a command is about."""

from collections.abc import Sequence
from pathlib import Path

from curvlab.core.errors import RunError
from curvlab.runs import Run, find_runs, open_run


def open_targets(paths: Sequence[Path]) -> list[Run]:
    """Open every run at or below the paths, each once, in the order given.

    Raises
    ------
    RunError
        If no path is given, or one is neither a run nor a study.
    """
    if not paths:
        raise RunError("No run was named. Give the path of a run or of a study.")
    return [open_run(run) for run in dict.fromkeys(r for path in paths for r in find_runs(path))]
