"""The command ``python -m figures list | make NAME...``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro
from rich.table import Table

from curvlab.cli.command import run_command
from curvlab.cli.console import make_console, say
from curvlab.core.errors import CurvlabError
from figures.catalogue import CATALOGUE, SCALES, find_entries

app = tyro.extras.SubcommandApp()


@app.command(name="list")
def list_figures() -> int:
    """List the figures."""
    table = Table("name", "what it shows", box=None)
    for entry in CATALOGUE.values():
        table.add_row(entry.name, entry.summary)
    make_console().print(table)
    return 0


@app.command
def make(
    names: tyro.conf.Positional[tuple[str, ...]],
    *,
    scale: Literal["quick", "paper"] = "quick",
    study: Path | None = None,
    out: Path | None = None,
) -> int:
    """Draw figures.

    Parameters
    ----------
    names
        Names from the list, or `all`.
    scale
        Which study to draw: the demo, or that of the paper's settings.
    study
        Directory of the runs; by scale if not given.
    out
        Where to write; STUDY/figures by default.
    """
    if not names:
        raise CurvlabError("No figure was named. Give names of `python -m figures list`, or `all`.")
    entries = find_entries(names)
    try:
        from curvlab.plots import save
        from figures.study import load_study
    except ModuleNotFoundError as error:
        raise CurvlabError(
            f"Drawing needs the package {error.name!r}, which is not installed. "
            "Run: pip install -e '.[figures]'"
        ) from error
    path = study or SCALES[scale].study
    data = load_study(path, preset=SCALES[scale].preset)
    console = make_console()
    for entry in entries:
        for ending, figure in entry.draw(data).items():
            for file in save(figure, (out or path / "figures") / f"{entry.name}{ending}"):
                say(console, str(file))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    description = "Draw the figures of the paper from stored results. Nothing is trained here."
    return run_command(app, "python -m figures", description, arguments)


if __name__ == "__main__":
    sys.exit(main())
