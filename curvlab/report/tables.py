"""The tables of a report, as texts."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from curvlab.analysis import summary_rows
from curvlab.core.texts import duration, number, with_interval, with_radius
from curvlab.runs import Run
from curvlab.spectral import SpectralMeasure


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row names the row.

    Attributes
    ----------
    caption
        What it shows.
    columns
        Headings.
    rows
        Cells; as many as there are headings.
    note
        What a reader must know about the numbers, or ``""``.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def settings_table(run: Run) -> Table:
    """Return what was trained, and with which settings."""
    rows: list[tuple[str, str]] = []
    for name, spec in run.specs.items():
        text = "not recorded" if spec is None else spec.name
        if spec is not None and spec.settings:
            text += f" ({_flat(spec.settings)})"
        rows.append((name, text))
    rows.append(("seed", "not recorded" if run.seed is None else str(run.seed)))
    # Network, objective and optimiser stand above in resolved form.
    known = {*run.specs, "seed"}
    rows += [(name, _flat(value)) for name, value in run.config.items() if name not in known]
    return Table("Settings of the training run", ("setting", "value"), tuple(rows))


def _flat(value: Any) -> str:
    """Return nested plain data in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_flat(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return " × ".join(map(_flat, value))
    return "none" if value is None else str(value)


# Rows of the summary: variable, what it is called, whether it is a share.
_SUMMARY = (
    ("loss", "loss", False),
    ("accuracy", "accuracy", True),
    ("dead_fraction", "dead units", True),
    ("feature_effective_rank", "effective rank of the features", False),
    ("weight_norm", "norm of the weights", False),
)


def summary_table(dataset: xr.Dataset, probe_set: str, operators: Iterable[str]) -> Table:
    """Return first and last measured value of the main quantities, and their difference."""
    chosen = dataset.sel(probe_set=probe_set)
    rows: list[tuple[str, ...]] = []
    for name, label, share in _SUMMARY:
        if name not in chosen:
            continue
        known = chosen[name].dropna("step")
        if known.sizes["step"]:
            first, last = (float(known[at]) for at in (0, -1))
            show = _percent if share else number
            change = f"{100 * (last - first):+.1f} points" if share else f"{last - first:+.3g}"
            rows.append((label, _at(known, 0, show(first)), _at(known, -1, show(last)), change))
    for operator in operators:
        name = f"{operator}_eigenvalue"
        for pair, end in (("largest-1", "largest"), ("smallest-1", "smallest")):
            one = chosen.sel(pair=pair)
            known = one[name].dropna("step")
            if not known.sizes["step"]:
                continue
            cells = [
                _at(known, at, _eigenvalue(one.sel(step=known["step"][at]), operator))
                for at in (0, -1)
            ]
            change = f"{float(known[-1]) - float(known[0]):+.3g}"
            rows.append((f"{end} eigenvalue, {title(operator)}", *cells, change))
    return Table(
        f"First and last measured checkpoint, probe set “{probe_set}”",
        ("quantity", "first", "last", "difference"),
        tuple(rows),
        "Eigenvalues ± the radius that their residual certifies. Differences are between these two "
        "checkpoints of one run; how much another seed would differ cannot be seen here.",
    )


def _at(known: xr.DataArray, index: int, text: str) -> str:
    return f"{text} (step {int(known['step'][index]):,})"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def _eigenvalue(one: xr.Dataset, operator: str) -> str:
    value, low, high = (float(one[f"{operator}_eigenvalue{end}"]) for end in ("", "_low", "_high"))
    return with_radius(value, low, high)


def spectra_table(dataset: xr.Dataset, probe_set: str, operator: str) -> Table:
    """Return extreme eigenvalues, trace and negative share of every measured checkpoint."""
    chosen = dataset.sel(probe_set=probe_set)
    rows: list[tuple[str, ...]] = []
    for step in chosen[f"{operator}_noise_floor"].dropna("step")["step"].values:
        one = chosen.sel(step=step)
        rows.append(
            (
                f"{int(step):,}",
                _task(one),
                *(_eigenvalue(one.sel(pair=p), operator) for p in ("largest-1", "smallest-1")),
                _estimate(one, f"{operator}_trace"),
                _estimate(one, f"{operator}_negative_fraction"),
                number(float(one[f"{operator}_negative_floor"]), 2),
                number(float(one[f"{operator}_noise_floor"]), 2),
            )
        )
    return Table(
        f"Spectrum of the {title(operator)} at every measured checkpoint",
        (
            "step",
            "task",
            "largest eigenvalue",
            "smallest eigenvalue",
            "trace",
            "share below −floor",
            "floor",
            "noise",
        ),
        tuple(rows),
        "Eigenvalues ± the radius that their residual certifies; trace and share with 95 % "
        "intervals. Values below the noise of the products are indistinguishable from zero.",
    )


def _task(one: xr.Dataset) -> str:
    task = float(one["task"])
    return "-" if math.isnan(task) or task < 0 else f"{task:.0f}"


def _estimate(one: xr.Dataset, name: str) -> str:
    return with_interval(*(float(one[f"{name}{end}"]) for end in ("", "_low", "_high")))


def pairs_table(dataset: xr.Dataset, probe_set: str, operator: str) -> Table:
    """Return all extreme eigenpairs of the last checkpoint that has them."""
    chosen = dataset.sel(probe_set=probe_set)
    step = int(chosen[f"{operator}_noise_floor"].dropna("step")["step"].values[-1])
    one = chosen.sel(step=step)
    floor = float(one[f"{operator}_noise_floor"])
    rows: list[tuple[str, ...]] = []
    for pair in one["pair"].values:
        value, low, high, residual, converged, cluster, miss = (
            float(one[f"{operator}_eigenvalue{part}"].sel(pair=pair))
            for part in ("", "_low", "_high", "_residual", "_converged", "_cluster", "_miss")
        )
        if math.isnan(value):
            continue
        remarks = [] if converged else ["not converged"]
        if abs(value) < floor:
            remarks.append("indistinguishable from zero")
        elif low <= 0 <= high:
            remarks.append("interval contains zero")
        rows.append(
            (
                str(pair).replace("-", " "),
                f"{value:.6g}",
                f"[{low:.6g}, {high:.6g}]",
                f"{residual:.2g}",
                f"{cluster:.0f}",
                number(miss, 1),
                ", ".join(remarks) or "converged",
            )
        )
    return Table(
        f"Extreme eigenvalues of the {title(operator)} at step {step:,}",
        ("pair", "eigenvalue", "interval", "residual", "cluster", "miss", "state"),
        tuple(rows),
        "Each interval contains an eigenvalue; pairs of one cluster share theirs. No residual "
        "certifies that a value is the k-th largest: miss bounds the probability that one further "
        "out by 1 % of the spectrum was overlooked, where anything is known of it.",
    )


def ranks_table(measure: SpectralMeasure, operator: str, step: int) -> Table:
    """Return effective ranks and negative mass of the last checkpoint that has a spectrum."""
    return Table(
        f"Effective ranks of the {title(operator)} at step {step:,}",
        ("quantity", "value"),
        tuple(summary_rows(measure)),
        "95 % intervals. Ranks by moments are the ones to quote; those of |λ| depend on "
        "eigenvalues near zero, which few Lanczos steps do not resolve.",
    )


def diagnostics_table(dataset: xr.Dataset, probe_set: str) -> Table:
    """Return every diagnostic that is one number per checkpoint, spectra left out."""
    prefixes = tuple(
        str(name).removesuffix("noise_floor") for name in dataset if "_noise_floor" in str(name)
    )
    chosen = dataset.sel(probe_set=probe_set)
    names = [
        str(name)
        for name, values in chosen.items()
        if values.dims == ("step",)
        and np.issubdtype(values.dtype, np.number)
        and not (prefixes and str(name).startswith(prefixes))
        and not str(name).endswith(("_low", "_high"))
    ]
    rows: list[tuple[str, ...]] = []
    for step in chosen["step"].values:
        one = chosen.sel(step=step)
        if any(np.isfinite(float(one[name])) for name in names):
            rows.append((f"{int(step):,}", _task(one), *(_cell(one, name) for name in names)))
    return Table(
        f"Diagnostics on the probe set “{probe_set}”",
        ("step", "task", *(title(name) for name in names)),
        tuple(rows),
    )


def _cell(one: xr.Dataset, name: str) -> str:
    if f"{name}_low" in one:
        return _estimate(one, name)
    return number(float(one[name]), 4)


def failures_table(dataset: xr.Dataset) -> Table | None:
    """Return the checkpoints that could not be analysed, None if there is none."""
    rows = tuple(
        (f"{int(step):,}", str(status))
        for step, status in zip(dataset["step"].values, dataset["status"].values, strict=True)
        if status not in ("ok", "not analysed")
    )
    if not rows:
        return None
    return Table("Checkpoints that could not be analysed", ("step", "reason"), rows)


def measurements_table(results: Sequence[Mapping[Any, Any]]) -> Table:
    """Return what was measured with which settings, where, and what it cost."""
    groups: dict[tuple[str, ...], list[Mapping[Any, Any]]] = {}
    for attributes in results:
        settings = json.dumps(attributes["settings"], sort_keys=True)
        computed = f"curvlab {attributes['curvlab_version']}"
        if "jax_version" in attributes:
            computed += (
                f", JAX {attributes['jax_version']}, {attributes['dtype']} on "
                f"{attributes['device']}"
            )
        groups.setdefault((attributes["diagnostic"], settings, computed), []).append(attributes)
    rows = tuple(
        (
            name,
            _flat(json.loads(settings)) or "none",
            f"{len(group):,}",
            f"{sum(each['products'] for each in group):,}" if "products" in group[0] else "-",
            duration(sum(float(each["seconds"]) for each in group)),
            computed,
        )
        for (name, settings, computed), group in sorted(groups.items())
    )
    return Table(
        "Measurements",
        ("diagnostic", "settings", "results", "operator products", "time", "computed with"),
        rows,
    )


def data_table(run: Run) -> Table:
    """Return the probe sets with their content hashes."""
    rows = tuple((name, run.probe_sets.hash(name)) for name in run.probe_sets)
    return Table("Probe sets", ("name", "hash of the content"), rows)


def checkpoints_table(results: Sequence[Mapping[Any, Any]]) -> Table:
    """Return the checkpoints that results were computed from, with their content hashes."""
    digests = {int(each["step"]): each.get("checkpoint", "not recorded") for each in results}
    rows = tuple((f"{step:,}", digests[step]) for step in sorted(digests))
    return Table("Analysed checkpoints", ("step", "hash of the content"), rows)


def versions_table(run: Run) -> Table:
    """Return the versions of the packages that trained the run."""
    rows = tuple((name, version) for name, version in run.info.versions.items())
    return Table("Versions that trained and stored the run", ("package", "version"), rows)


def title(name: str) -> str:
    """Return a variable or an operator as people write it."""
    named = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton matrix", "fisher": "Fisher matrix"}
    return named.get(name, name.replace("_", " "))
