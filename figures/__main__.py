"""The command ``python -m figures list | make NAME...``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from curvlab.core.errors import CurvlabError
from figures.catalogue import CATALOGUE, SCALES, find_entries


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 with one line that says what to do."""
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.command == "list":
            _list()
        else:
            _make(chosen.names, chosen.scale, chosen.study, chosen.out)
    except CurvlabError as error:
        Console(stderr=True, soft_wrap=True).print(f"Error: {error}", markup=False, highlight=False)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m figures",
        description="Draw the figures of the paper from stored results. Nothing is trained here.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the figures")
    make = commands.add_parser("make", help="draw figures")
    make.add_argument("names", nargs="+", metavar="NAME", help="names from the list, or 'all'")
    make.add_argument("--scale", choices=list(SCALES), default="quick", help="which study to draw")
    make.add_argument("--study", type=Path, help="directory of the runs (default: by scale)")
    make.add_argument("--out", type=Path, help="where to write (default: STUDY/figures)")
    return parser


def _list() -> None:
    table = Table("name", "what it shows", box=None)
    for entry in CATALOGUE.values():
        table.add_row(entry.name, entry.summary)
    Console().print(table)


def _make(names: list[str], scale: str, study: Path | None, out: Path | None) -> None:
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
    console = Console(soft_wrap=True, highlight=False)
    for entry in entries:
        for ending, figure in entry.draw(data).items():
            for file in save(figure, (out or path / "figures") / f"{entry.name}{ending}"):
                console.print(str(file), markup=False)


if __name__ == "__main__":
    sys.exit(main())
