"""``curvlab report``: one page about each run."""

from collections.abc import Sequence
from pathlib import Path

from curvlab.cli.console import make_console, say
from curvlab.cli.targets import open_targets
from curvlab.core.errors import CurvlabError, RunError


def report_runs(paths: Sequence[Path], *, probe_set: str, save: Path | None) -> int:
    """Write a page for every run at or below the paths."""
    try:
        from curvlab.report import write_report
    except ModuleNotFoundError as error:
        raise CurvlabError(
            f"A report needs the package {error.name!r}, which is not installed. "
            "Run: pip install 'curvlab[figures]'"
        ) from error
    runs = open_targets(paths)
    if save is not None and len(runs) > 1:
        raise RunError(
            f"--save {save} was given for {len(runs)} runs. Name one run, or leave --save out."
        )
    console = make_console()
    for run in runs:
        say(console, str(write_report(run, save, probe_set=probe_set)))
    return 0
