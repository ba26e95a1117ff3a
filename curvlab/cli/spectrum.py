"""``curvlab spectrum``: one spectrum as a table and a picture."""

from pathlib import Path

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curvlab.analysis import Spectrum, collect, execute, make_plan, measure_of, summary_rows
from curvlab.cli.console import make_console, say
from curvlab.core.errors import RunError
from curvlab.core.texts import number, with_interval
from curvlab.runs import open_run


def show_spectrum(
    path: Path,
    *,
    step: int,
    operator: str,
    probe_set: str,
    order: int,
    vectors: int,
    save: Path | None,
) -> int:
    """Measure (unless stored), print and draw one spectrum; 3 if the checkpoint is unusable."""
    console = make_console()
    target = save or path / "figures" / f"spectrum-{operator}-{step:09d}-{probe_set}.png"
    if target.suffix not in (".png", ".pdf"):
        raise RunError(f"Cannot draw {target}: pictures are .png or .pdf. Name one of these.")
    run = open_run(path)
    diagnostic = Spectrum(operator=operator, order=order, vectors=vectors)
    plan = make_plan(run, [diagnostic], probe_sets=[probe_set], steps=[step])
    if plan.to_do:
        say(console, plan.summary())
    outcome = execute(plan)
    if outcome.failures:
        raise RunError(next(iter(outcome.failures.values())))
    if not plan.measurements:
        raise RunError(
            f"Step {step} of {path} has no {probe_set!r} probe set. Name one of "
            f"{', '.join(run.probe_sets) or 'none'}."
        )
    dataset = collect(plan, outcome)
    found = dataset.sel(step=step, probe_set=probe_set)
    _print(console, found, operator, f"{path}, step {step}, {probe_set}")
    measure = measure_of(dataset, step, probe_set, operator)
    for label, text in summary_rows(measure):
        say(console, f"{label}: {text}")
    for note in measure.notes:
        say(console, f"Note: {note}")
    try:
        from curvlab.plots import save as save_figure
        from curvlab.plots import spectrum_figure
    except ModuleNotFoundError as error:
        say(console, f"No picture: {error.name} is missing. Install it with curvlab[figures].")
        return 0
    figure = spectrum_figure(measure, title=f"{operator}, {path.name}, step {step}, {probe_set}")
    for written in save_figure(figure, target.with_suffix(""), formats=[target.suffix]):
        say(console, f"Picture: {written}")
    return 0


def _print(console: Console, found: xr.Dataset, operator: str, title: str) -> None:
    def get(name: str) -> float:
        return float(found[f"{operator}_{name}"])

    floor = get("noise_floor")
    table = Table(title=Text(f"{operator} at {title}"), title_justify="left")
    for column in ("pair", "eigenvalue", "low", "high", "residual", "cluster", "miss", "remark"):
        table.add_column(column, justify="left" if column in ("pair", "remark") else "right")
    for pair in found["pair"].values:
        one = found.sel(pair=pair)
        value = float(one[f"{operator}_eigenvalue"])
        if np.isnan(value):
            continue
        remarks = []
        if not float(one[f"{operator}_eigenvalue_converged"]):
            remarks.append("not converged")
        if abs(value) < floor:
            remarks.append("indistinguishable from zero")
        low, high, residual, cluster, miss = (
            float(one[f"{operator}_eigenvalue_{part}"])
            for part in ("low", "high", "residual", "cluster", "miss")
        )
        table.add_row(
            *(str(pair), f"{value:.6g}", f"{low:.6g}", f"{high:.6g}", f"{residual:.2g}"),
            *(f"{cluster:.0f}", number(miss, 1), ", ".join(remarks)),
        )
    console.print(table)
    trace = with_interval(get("trace"), get("trace_low"), get("trace_high"))
    say(console, f"trace              {trace} (95 %)")
    negative = with_interval(
        get("negative_fraction"), get("negative_fraction_low"), get("negative_fraction_high")
    )
    say(
        console,
        f"negative fraction  {negative} (95 %) of {get('dim'):.0f} eigenvalues are below "
        f"-{number(get('negative_floor'))}",
    )
    say(console, f"noise floor        {number(floor)}")
    say(console, f"estimand           {found[f'{operator}_trace'].attrs.get('estimand', '')}")
