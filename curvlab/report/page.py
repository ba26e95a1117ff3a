"""The page itself: sections filled with tables and pictures, rendered and written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import xarray as xr

import curvlab
from curvlab.analysis import load_results, measure_of
from curvlab.analysis.series import measured_operators
from curvlab.core.errors import RunError
from curvlab.report import pictures, tables
from curvlab.report.pictures import Picture
from curvlab.report.tables import Table
from curvlab.runs import Run
from curvlab.runs.files import storing, write_atomic
from curvlab.runs.results import read_attributes


@dataclass(frozen=True)
class Section:
    """A part of the page: heading, an introduction, pictures, tables that are always open or not.

    ``details`` are long tables, which a reader unfolds; ``notes`` are what the check of the
    products found (ReLU kinks).
    """

    anchor: str
    heading: str
    text: str
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    details: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


def write_report(run: Run, path: Path | None = None, *, probe_set: str = "current") -> Path:
    """Write one self-contained HTML page about an analysed run.

    Parameters
    ----------
    run
        An analysed run.
    path
        Where to write; ``report.html`` in the run by default.
    probe_set
        Whose spectra and summary are shown; diagnostics are shown on all.

    Returns
    -------
    Path
        The page. Equal runs and results give equal bytes.

    Raises
    ------
    RunError
        If nothing is stored, or nothing on this probe set.
    StorageError
        If the file system refuses.
    """
    path = run.path / "report.html" if path is None else path
    text = render_report(run, probe_set=probe_set)
    with storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    return path


def render_report(run: Run, *, probe_set: str = "current") -> str:
    """Return the page of :func:`write_report` as a text."""
    dataset = load_results(run)
    if probe_set not in dataset["probe_set"].values:
        known = ", ".join(map(str, dataset["probe_set"].values))
        raise RunError(
            f"A report of {run.path} on {probe_set!r} was asked for; there are results on {known}. "
            "Name one of these, or measure with `curvlab analyze --probe-sets`."
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("curvlab.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=_title(run),
        lead=_lead(run, dataset),
        sections=_sections(run, dataset, probe_set),
        version=curvlab.__version__,
    )


def _title(run: Run) -> str:
    place = run.path.resolve()
    return f"{place.parent.name}/{place.name}"


def _lead(run: Run, dataset: xr.Dataset) -> str:
    analysed = int((dataset["status"] == "ok").sum())
    steps = run.steps
    network = run.specs["network"]
    what = "A network" if network is None else f"A network ({network.name})"
    tasks = {int(task) for task in dataset["task"].values if task >= 0}
    over = f" on a stream of {len(tasks)} tasks" if len(tasks) > 1 else ""
    return (
        f"{what}, trained for {steps[-1]:,} steps{over}. "
        f"{analysed} of {len(steps)} checkpoints are analysed."
    )


def _sections(run: Run, dataset: xr.Dataset, probe_set: str) -> list[Section]:
    drawn = 0

    def number(make: Callable[..., list[Picture]], *arguments: Any) -> tuple[Picture, ...]:
        nonlocal drawn
        made = make(*arguments, drawn)
        drawn += len(made)
        return tuple(made)

    attributes = [read_attributes(file.path) for file in run.results()]
    operators = measured_operators(dataset, probe_set)
    metrics = run.metrics()
    boundaries = _boundaries(dataset if "task" not in metrics else metrics)
    failures = tables.failures_table(dataset)
    sections = [
        Section(
            "summary",
            "Summary",
            "First and last measured value of the main quantities.",
            tables=tuple(
                table
                for table in (tables.summary_table(dataset, probe_set, operators), failures)
                if table is not None
            ),
        ),
        Section(
            "training",
            "What was trained",
            "Dashed lines stand where the task changes.",
            number(pictures.log_pictures, metrics, boundaries),
            (tables.settings_table(run),),
        ),
    ]
    for operator in operators:
        spectra = tables.spectra_table(dataset, probe_set, operator)
        last = int(dataset[f"{operator}_noise_floor"].dropna("step", how="all")["step"].values[-1])
        estimand, notes = _told(run, operator, last)
        sections.append(
            Section(
                operator.replace("_", "-"),
                f"Spectrum of the {tables.title(operator)}",
                f"At step {last:,}: {estimand}. Other checkpoints have their own probe sets.",
                number(pictures.spectrum_pictures, dataset, probe_set, operator),
                (
                    tables.pairs_table(dataset, probe_set, operator),
                    tables.ranks_table(
                        measure_of(dataset, last, probe_set, operator), operator, last
                    ),
                ),
                (spectra,),
                notes,
            )
        )
    sections.append(
        Section(
            "diagnostics",
            "Diagnostics",
            "Loss, accuracy, hidden units, features and weights at the checkpoints.",
            number(pictures.diagnostic_pictures, dataset, boundaries),
            details=tuple(
                tables.diagnostics_table(dataset, str(name)) for name in dataset["probe_set"].values
            ),
        )
    )
    sections.append(_provenance(run, attributes))
    return sections


def _told(run: Run, operator: str, step: int) -> tuple[str, tuple[str, ...]]:
    """Return what the spectrum of a matrix at a step was computed of, and the notes beside it."""
    for file in run.results():
        if file.step == step and file.diagnostic == "spectrum":
            found = run.read_result(file.diagnostic, step, file.probe_set, file.key)
            if found is not None and f"{operator}_nodes" in found:
                told = found[f"{operator}_nodes"].attrs
                return str(told["estimand"]), tuple(str(told.get("notes", "")).splitlines())
    return tables.title(operator), ()


def _boundaries(log: xr.Dataset) -> list[float]:
    """Return the steps after which the task changed."""
    task = np.asarray(log["task"].values, np.float64)
    return [float(step) for step in log["step"].values[np.flatnonzero(np.diff(task))]]


def _provenance(run: Run, attributes: Sequence[Mapping[Any, Any]]) -> Section:
    findings = run.verify()
    verdict = (
        "Every file of the run is as it was written."
        if not findings
        else f"{len(findings)} files are damaged: {'; '.join(map(str, findings))}."
    )
    return Section(
        "provenance",
        "Provenance",
        f"{verdict} Results are keyed by settings, data, checkpoint and code version.",
        tables=(tables.measurements_table(attributes),),
        details=(
            tables.data_table(run),
            tables.checkpoints_table(attributes),
            tables.versions_table(run),
        ),
    )
