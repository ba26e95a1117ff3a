"""``curvlab compare``: checkpoints with a spectrum, the runs of each step beneath each other."""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from rich.table import Table

from curvlab.analysis import load_results
from curvlab.analysis.compare import coordinate
from curvlab.cli.command import INCOMPLETE
from curvlab.cli.console import make_console, number, say, with_interval, with_radius
from curvlab.cli.targets import open_targets
from curvlab.core.errors import RunError

_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("accuracy", "right"),
    ("dead units", "right"),
    ("largest eigenvalue", "left"),
    ("smallest eigenvalue", "left"),
    ("negative fraction", "left"),
)


def compare_runs(paths: Sequence[Path], *, probe_set: str, by: str) -> int:
    """Print one table over all runs below the paths; 3 if a checkpoint could not be analysed."""
    console, errors = make_console(), make_console(stderr=True)
    table = Table(title=f"Hessian on the {probe_set} task's probe set", title_justify="left")
    table.add_column("step", justify="right")
    table.add_column("task", justify="right")
    table.add_column(by)
    table.add_column("seed", justify="right")
    for name, justify in _COLUMNS:
        table.add_column(name, justify=justify)
    bad = 0
    rows: list[tuple[int, str, str, list[str]]] = []
    for run in open_targets(paths):
        path = run.path
        results = load_results(run)
        if probe_set not in results["probe_set"].values:
            known = ", ".join(map(str, results["probe_set"].values))
            raise RunError(
                f"The results of {path} on {probe_set!r} were asked for; there are some on "
                f"{known}. Measure them with `curvlab analyze {path} --probe-sets {probe_set}`."
            )
        seed = "-" if run.seed is None else str(run.seed)
        chosen = results.sel(probe_set=probe_set)
        for step in _measured(chosen, path):
            one = chosen.sel(step=step)
            rows.append((step, str(coordinate(run, by)), seed, _row(one)))
        for step, status in zip(results["step"].values, results["status"].values, strict=True):
            if status not in ("ok", "not analysed"):
                bad += 1
                say(errors, f"curvlab: {path}, step {step} left out: {status}")
    rows.sort(key=lambda row: row[:3])
    for row, following in itertools.zip_longest(rows, rows[1:]):
        step, arm, seed, (task, *values) = row
        last = following is None or following[0] != step
        table.add_row(f"{step:,}", task, arm, seed, *values, end_section=last)
    console.print(table)
    say(
        console,
        "Eigenvalues ± the radius that their residual certifies. The negative fraction is that of "
        "eigenvalues below -floor with its 95 % interval; the floor is stored beside it (0.001 × "
        "the largest |eigenvalue| unless set otherwise).",
    )
    sys.stdout.flush()
    return INCOMPLETE if bad else 0


def _measured(results: xr.Dataset, path: Path) -> list[int]:
    """Return the steps with a Hessian spectrum."""
    if "hessian_eigenvalue" not in results:
        raise RunError(
            f"{path} has no Hessian spectra yet. Measure them with `curvlab analyze {path}`."
        )
    known = results["hessian_eigenvalue"].notnull().any("pair").values
    return [int(step) for step in results["step"].values[known]]


def _row(one: xr.Dataset) -> list[str]:
    def get(name: str) -> float:
        return float(one[name]) if name in one else float("nan")

    def pair(label: str) -> str:
        chosen = one.sel(pair=label)
        names = ("hessian_eigenvalue", "hessian_eigenvalue_low", "hessian_eigenvalue_high")
        return with_radius(*(float(chosen[name]) for name in names))

    task = int(one["task"])
    return [
        "-" if task < 0 else str(task),
        number(get("accuracy")),
        "-" if np.isnan(get("dead_fraction")) else f"{get('dead_fraction'):.1%}",
        pair("largest-1"),
        pair("smallest-1"),
        with_interval(*(get(f"hessian_negative_fraction{part}") for part in ("", "_low", "_high"))),
    ]
