"""Runs side by side: arms and seeds as dimensions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from curvlab.analysis.collect import load_results
from curvlab.core.errors import RunError
from curvlab.runs import Run


def compare(runs: Sequence[Run], *, by: str = "arm", paired: str = "seed") -> xr.Dataset:
    """Return the stored results of several runs over (arm, seed, step).

    Parameters
    ----------
    runs
        Analysed runs.
    by
        What tells arms apart: ``"arm"`` (from the config, else the name of the run's parent
        directory) or the name of a config entry, such as ``"optimiser"``; found at any depth.
    paired
        What runs of different arms share: ``"seed"`` or the name of a config entry.

    Returns
    -------
    xarray.Dataset
        The variables of :func:`curvlab.load_results` with the dimensions ``by`` and ``paired`` in
        front; NaN where an arm lacks a seed or a step (``status`` and ``task`` too).

    Raises
    ------
    RunError
        If there is no run, one has no results or lacks the entry, or two runs share a place.
    """
    if not runs:
        raise RunError("A comparison was asked for of no run. Pass analysed runs.")
    table: dict[tuple[Any, Any], xr.Dataset] = {}
    for run in runs:
        place = (coordinate(run, by), coordinate(run, paired))
        if place in table:
            raise RunError(
                f"Two runs have {by}={place[0]!r} and {paired}={place[1]!r}; {run.path} is the "
                "second. Compare fewer runs, or tell them apart by another config entry."
            )
        table[place] = load_results(run)
    table = _padded(table)
    arms = list(dict.fromkeys(arm for arm, _ in table))
    # Runs without a seed are told apart by the names of their directories.
    seeds = sorted({seed for _, seed in table}, key=lambda seed: (isinstance(seed, str), seed))
    kind = object if any(isinstance(seed, str) for seed in seeds) else None
    rows = [
        xr.concat(
            [table.get((arm, seed), _empty(table)) for seed in seeds],
            xr.Variable(paired, np.array(seeds, dtype=kind)),
            join="outer",
            coords=["task"],
            compat="override",
            combine_attrs="drop_conflicts",
        )
        for arm in arms
    ]
    return xr.concat(
        rows,
        xr.Variable(by, np.array(arms, dtype=object)),
        join="outer",
        coords=["task"],
        compat="override",
        combine_attrs="drop_conflicts",
    )


def coordinate(run: Run, name: str) -> Any:
    """Return what a run is called along one dimension of a comparison.

    Raises
    ------
    RunError
        If its config has no such entry.
    """
    if name == "seed" and run.seed is not None:
        return run.seed
    found = _find(run.config, name)
    if found is None and name == "arm":
        return run.path.resolve().parent.name
    if found is None and name == "seed":
        return run.path.resolve().name
    if found is None:
        raise RunError(
            f"{run.path} has no {name!r} in its config. Entries: {', '.join(run.config) or 'none'}."
        )
    return found


def _find(config: Any, name: str) -> Any:
    """Return an entry of nested settings, or None; what is not a number or text as a text."""
    if not isinstance(config, dict):
        return None
    if config.get(name) is not None:
        value = config[name]
        return value if isinstance(value, str | int | float) else _text(value)
    found = (_find(value, name) for value in config.values())
    return next((value for value in found if value is not None), None)


def _text(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"name", "settings"}:
        settings = ", ".join(f"{k}={v}" for k, v in value["settings"].items())
        return f"{value['name']}({settings})"
    return str(value)


def _padded(table: dict[tuple[Any, Any], xr.Dataset]) -> dict[tuple[Any, Any], xr.Dataset]:
    """Give dimensions without labels (nodes, start vectors) the same length in all datasets."""
    longest: dict[Any, int] = {}
    for found in table.values():
        for dim, size in found.sizes.items():
            if dim not in found.indexes:
                longest[dim] = max(size, longest.get(dim, 0))
    padded: dict[tuple[Any, Any], xr.Dataset] = {}
    for place, found in table.items():
        missing = {d: longest[d] - found.sizes[d] for d in longest if d in found.sizes}
        width = {dim: (0, count) for dim, count in missing.items() if count}
        padded[place] = found.pad(width) if width else found
    return padded


def _empty(table: dict[tuple[Any, Any], xr.Dataset]) -> xr.Dataset:
    """Return a dataset without steps, which an outer join fills with NaN."""
    return next(iter(table.values())).isel(step=slice(0, 0))
