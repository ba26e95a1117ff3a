"""Stored results as one dataset over steps and probe sets, without computing anything."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from curvlab.analysis.execute import Outcome
from curvlab.analysis.plan import DEFAULT_PROBE_SETS, Plan
from curvlab.analysis.survey import OK
from curvlab.core.errors import RunError
from curvlab.plasticity.registry import DIAGNOSTICS, settings_of
from curvlab.runs import ResultFile, Run
from curvlab.runs.files import Lock, remove_stale, write_atomic
from curvlab.runs.layout import Layout
from curvlab.runs.results import read_netcdf, to_netcdf
from curvlab.spectral import SpectralMeasure

NOT_ANALYSED = "not analysed"

# (step, roles, dataset); no roles for what does not depend on a probe set.
Piece = tuple[int, Sequence[str], xr.Dataset]


def collect(plan: Plan, outcome: Outcome) -> xr.Dataset:
    """Return what a plan has measured, and a ``status`` for each checkpoint.

    If nothing else is stored in the run, the dataset is also kept in ``results/merged.nc``, from
    which :func:`load_results` is quick.

    Raises
    ------
    StorageError
        If that file cannot be written.
    """
    sources = _sources(plan.run)
    stored = {(file.diagnostic, file.step, file.probe_set, file.key) for file in _files(plan.run)}
    places = {
        item: (item.diagnostic.name, item.step, item.probe_set, item.key)
        for item in plan.measurements
    }
    complete = set(places.values()) == stored
    status = {entry.step: outcome.failures.get(entry.step, OK) for entry in plan.entries}
    if complete and not outcome.measured:
        merged = _read_merged(plan.run, sources)
        if merged is not None and _fits(merged, plan, status):
            return merged
    pieces: list[Piece] = []
    for item, place in places.items():
        found = outcome.measured.get(item)
        found = plan.run.read_result(*place) if found is None else found
        if found is not None:
            pieces.append((item.step, item.roles, found))
    tasks = {entry.step: -1 if entry.task is None else entry.task for entry in plan.entries}
    settings = {
        _label(item.diagnostic.name, settings_of(item.diagnostic)): settings_of(item.diagnostic)
        for item in plan.measurements
    }
    dataset = _merge(pieces, list(status), plan.probe_sets, tasks, status)
    dataset = dataset.assign_attrs(_attributes(pieces, settings))
    if complete and pieces:
        _write_merged(plan.run, dataset.assign_attrs(sources=sources))
    return dataset


def _files(run: Run) -> list[ResultFile]:
    """Return the results of diagnostics; trajectories have files of their own kind."""
    known = set(DIAGNOSTICS)
    return [file for file in run.results() if file.diagnostic in known]


def _write_merged(run: Run, dataset: xr.Dataset) -> None:
    layout = Layout(run.path)
    data = to_netcdf(dataset)
    lock = Lock(layout.results_lock, wait=True)
    try:
        remove_stale(layout.results)
        write_atomic(_merged_file(run), data)
    finally:
        lock.release()


def _fits(merged: xr.Dataset, plan: Plan, status: Mapping[int, str]) -> bool:
    return (
        tuple(merged["probe_set"].values) == plan.probe_sets
        and list(merged["step"].values) == list(status)
        and list(merged["status"].values) == list(status.values())
    )


def _merged_file(run: Run) -> Path:
    return Layout(run.path).results / "merged.nc"


def _sources(run: Run) -> list[str]:
    """Return what identifies the stored results: names, sizes and times."""
    stats = [(file.path.name, file.path.stat()) for file in _files(run)]
    return [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]


def _read_merged(run: Run, sources: list[str]) -> xr.Dataset | None:
    """Return the merged file if it was made from exactly the stored results."""
    try:
        merged = read_netcdf(_merged_file(run))
    except RunError:  # damaged: the single files are what counts
        return None
    if merged is None or merged.attrs.pop("sources", None) != sources:
        return None
    return merged


def _attributes(pieces: Iterable[Piece], settings: Mapping[str, Any]) -> dict[str, Any]:
    seconds = sum(found.attrs.get("seconds", 0.0) for _, _, found in pieces)
    return {"settings": json.dumps(settings, sort_keys=True), "seconds": seconds}


def load_results(run: Run) -> xr.Dataset:
    """Return the stored results of a run as one dataset over ``step`` and ``probe_set``.

    Where a diagnostic was measured with several settings, those that cover most checkpoints are
    shown (then the costlier ones); ask :func:`curvlab.analyze` for others. Of several code versions
    or contents of a checkpoint the file written last counts. A checkpoint without results has the
    ``status`` that the last complete analysis gave it, else ``"not analysed"``.

    Parameters
    ----------
    run
        An open run.

    Raises
    ------
    RunError
        If nothing is stored.
    CheckpointError
        If a result file is damaged.
    """
    merged = _read_merged(run, _sources(run))
    if merged is not None and list(merged["step"].values) == list(run.steps):
        return merged
    chosen: dict[tuple[str, int, str], tuple[float, xr.Dataset]] = {}
    for file in _files(run):
        found = run.read_result(file.diagnostic, file.step, file.probe_set, file.key)
        if found is None:
            continue
        label = _label(file.diagnostic, found.attrs["settings"])
        place = (
            json.dumps([label, found.attrs["settings"]], sort_keys=True),
            *(file.step, file.probe_set),
        )
        written = file.path.stat().st_mtime
        if place not in chosen or chosen[place][0] < written:
            chosen[place] = (written, found)
    if not chosen:
        raise RunError(f"{run.path} holds no results. Make them with `curvlab analyze {run.path}`.")
    pieces, settings = _one_setting_each({place: found for place, (_, found) in chosen.items()})
    steps = sorted({*run.steps, *(step for step, _, _ in pieces)})
    roles = list(dict.fromkeys(role for _, names, _ in pieces for role in names))
    roles.sort(key=lambda role: (role not in DEFAULT_PROBE_SETS, role))
    measured = {step for step, _, _ in pieces}
    status = {step: OK if step in measured else NOT_ANALYSED for step in steps}
    tasks = dict.fromkeys(steps, -1) | {step: int(found.attrs["task"]) for step, _, found in pieces}
    dataset = _merge(pieces, steps, roles or DEFAULT_PROBE_SETS, tasks, status)
    return dataset.assign_attrs(_attributes(pieces, settings))


def measure_of(
    dataset: xr.Dataset, step: int, probe_set: str = "current", operator: str = "hessian"
) -> SpectralMeasure:
    """Return the stored spectral measure of one checkpoint.

    Raises
    ------
    RunError
        If none was measured there.
    """
    prefix = f"{operator}_"
    names = {n: str(n).removeprefix(prefix) for n in dataset if str(n).startswith(prefix)}
    known = step in dataset["step"].values and probe_set in dataset["probe_set"].values
    if names and known:
        one = dataset[list(names)].sel(step=step, probe_set=probe_set)
        if np.isfinite(one[f"{prefix}noise_floor"]):
            told = one[f"{prefix}nodes"].attrs
            texts = {name: told.get(name, "") for name in ("estimand", "notes")}
            return SpectralMeasure.from_dataset(one.rename(names).assign_attrs(texts))
    raise RunError(
        f"The {operator} measure at step {step} on {probe_set!r} was asked for; the results hold "
        "none. Measure it with `curvlab spectrum`."
    )


def _label(diagnostic: str, settings: Mapping[str, Any]) -> str:
    """Return what a set of variables is called: the diagnostic, and its operator if it has one."""
    return f"{diagnostic}:{settings['operator']}" if "operator" in settings else diagnostic


def _one_setting_each(
    chosen: Mapping[tuple[str, int, str], xr.Dataset],
) -> tuple[list[Piece], dict[str, Any]]:
    """Keep the settings of each diagnostic that cover most steps."""
    cover = Counter({name: 0 for name, _, _ in chosen})
    products: dict[str, float] = defaultdict(float)
    for (name, _, _), found in chosen.items():
        cover[name] += 1
        products[name] += found["order"].size if "order" in found else 0
        products[name] += sum(v.size for v in found.data_vars.values())
    best: dict[str, str] = {}
    for name in sorted(cover, key=lambda name: (cover[name], products[name], name)):
        best[json.loads(name)[0]] = name  # the last one wins
    pieces: list[Piece] = [
        (step, tuple(found.attrs["roles"]) or _literal(found, probe_set), found)
        for (name, step, probe_set), found in chosen.items()
        if best[json.loads(name)[0]] == name
    ]
    return pieces, {label: json.loads(name)[1] for label, name in best.items()}


def _literal(found: xr.Dataset, probe_set: str) -> tuple[str, ...]:
    return (probe_set,) if found.attrs["probe_set_hash"] else ()


def _merge(
    pieces: Iterable[Piece],
    steps: Sequence[int],
    probe_sets: Sequence[str],
    tasks: Mapping[int, int],
    status: Mapping[int, str],
) -> xr.Dataset:
    """Lay pieces out over steps and probe sets, NaN where nothing was measured."""
    pieces = list(pieces)
    rows = {step: index for index, step in enumerate(steps)}
    columns = {name: index for index, name in enumerate(probe_sets)}
    labels: dict[str, list[Any]] = {}
    sizes: dict[str, int] = {}
    for _, _, found in pieces:
        for dim, size in found.sizes.items():
            sizes[str(dim)] = max(size, sizes.get(str(dim), 0))
        for dim, values in found.indexes.items():
            known = labels.setdefault(str(dim), [])
            known.extend(value for value in values if value not in known)
    sizes |= {dim: len(values) for dim, values in labels.items()}
    arrays: dict[str, np.ndarray] = {}
    dims: dict[str, tuple[str, ...]] = {}
    attributes: dict[str, dict[str, Any]] = {}
    for step, roles, found in pieces:
        where = [()] if not roles else [(columns[role],) for role in roles if role in columns]
        for variable_name, variable in found.data_vars.items():
            name = str(variable_name)
            inner = tuple(str(dim) for dim in variable.dims)
            if name not in arrays:
                outer = ("step", "probe_set") if roles else ("step",)
                lengths = [len(rows), len(columns)][: len(outer)] + [sizes[dim] for dim in inner]
                arrays[name] = np.full(lengths, np.nan)
                dims[name] = (*outer, *inner)
                attributes[name] = {k: v for k, v in variable.attrs.items() if v != ""}
            index = [_positions(found, dim, labels) for dim in inner]
            for place in where:
                arrays[name][(rows[step], *place, *np.ix_(*index))] = variable.values
    return xr.Dataset(
        {
            **{name: (dims[name], arrays[name], attributes[name]) for name in sorted(arrays)},
            "status": ("step", np.array([status[step] for step in steps], dtype=object)),
        },
        {
            "step": np.array(steps, np.int64),
            "probe_set": np.array(probe_sets, dtype=object),
            "task": ("step", np.array([tasks[step] for step in steps], np.int64)),
            **{dim: np.array(values, dtype=object) for dim, values in labels.items()},
        },
    )


def _positions(found: xr.Dataset, dim: str, labels: Mapping[str, list[Any]]) -> list[int]:
    if dim in labels:
        return [labels[dim].index(value) for value in found.indexes[dim]]
    return list(range(found.sizes[dim]))
