"""``curvlab compare``: checkpoints with a spectrum, the runs of each step beneath each other."""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from rich.table import Table

from curvlab.analysis import compare
from curvlab.analysis.compare import coordinate
from curvlab.cli.command import INCOMPLETE
from curvlab.cli.console import make_console, say
from curvlab.cli.targets import open_targets
from curvlab.core.errors import RunError
from curvlab.core.texts import number, with_interval, with_radius

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
    runs = open_targets(paths)
    results = compare(runs, by=by)
    for run in runs:
        place = {by: coordinate(run, by), "seed": coordinate(run, "seed")}
        one = results.sel(place)
        for step in _measured(one, run.path, probe_set):
            values = _row(one.sel(step=step, probe_set=probe_set))
            rows.append((step, str(place[by]), str(place["seed"]), values))
        for step, status in zip(one["step"].values, one["status"].values, strict=True):
            if isinstance(status, str) and status not in ("ok", "not analysed"):
                bad += 1
                say(errors, f"curvlab: {run.path}, step {step} left out: {status}")
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


def _measured(one: xr.Dataset, path: Path, probe_set: str) -> list[int]:
    """Return the steps at which a run has a Hessian spectrum on a probe set."""
    found = one.get("hessian_eigenvalue")
    known = None if found is None else found.notnull().any("pair")
    if known is None or not known.any():
        raise RunError(
            f"{path} has no Hessian spectra yet. Measure them with `curvlab analyze {path}`."
        )
    if probe_set not in known["probe_set"].values or not known.sel(probe_set=probe_set).any():
        names = known["probe_set"].values[known.any("step").values]
        raise RunError(
            f"Hessian spectra of {path} on {probe_set!r} were asked for; there are some on "
            f"{', '.join(map(str, names))}. Measure them with `curvlab analyze {path} "
            f"--probe-sets {probe_set}`."
        )
    return [int(step) for step in one["step"].values[known.sel(probe_set=probe_set).values]]


def _row(one: xr.Dataset) -> list[str]:
    def get(name: str) -> float:
        return float(one[name]) if name in one else float("nan")

    def pair(label: str) -> str:
        chosen = one.sel(pair=label)
        names = ("hessian_eigenvalue", "hessian_eigenvalue_low", "hessian_eigenvalue_high")
        return with_radius(*(float(chosen[name]) for name in names))

    task = get("task")
    return [
        "-" if np.isnan(task) or task < 0 else f"{task:.0f}",
        number(get("accuracy")),
        "-" if np.isnan(get("dead_fraction")) else f"{get('dead_fraction'):.1%}",
        pair("largest-1"),
        pair("smallest-1"),
        with_interval(*(get(f"hessian_negative_fraction{part}") for part in ("", "_low", "_high"))),
    ]
