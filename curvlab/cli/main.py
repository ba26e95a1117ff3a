"""Entry point of ``curvlab``: its commands and their options.

Exit codes: 0 for success, 2 for a command that could not be carried out, 3 for one that was, but
met damaged or unusable checkpoints, 130 for Ctrl-C.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

import curvlab
from curvlab.cli.command import run_command

DESCRIPTION = (
    "What does the loss landscape of a checkpoint look like, and can this network still learn?"
)

# A plain text, because listing the table of operators would import JAX for every --help.
Operator = Annotated[str, tyro.conf.arg(metavar="NAME")]
Paths = tyro.conf.Positional[tuple[Path, ...]]

app = tyro.extras.SubcommandApp()


@app.command
def inspect(paths: Paths) -> int:
    """List what runs hold and check every file against its manifest.

    Parameters
    ----------
    paths
        Runs, or studies of runs.
    """
    from curvlab.cli.inspect import inspect_runs

    return inspect_runs(paths)


@app.command
def analyze(
    paths: Paths,
    *,
    diagnostics: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME ...")] = None,
    operator: Operator | None = None,
    steps: tuple[int, ...] | None = None,
    probe_sets: tuple[str, ...] = ("current", "next"),
    budget: Annotated[str | None, tyro.conf.arg(metavar="10m")] = None,
    spectra: int = 16,
    order: int = 40,
    vectors: int = 2,
) -> int:
    """Measure curvature and plasticity of all checkpoints; what is stored is not repeated.

    Parameters
    ----------
    paths
        Runs, or studies of runs.
    diagnostics
        Which ones: performance, ranks, spectrum, stability, units, weights, or those of plug-ins;
        by default the built-in ones but stability.
    operator
        Matrix of the spectra (hessian, gauss_newton, ...; a wrong name lists them); by default the
        Hessian, and Gauss-Newton at the task ends.
    steps
        Measure everything at these checkpoints and nothing elsewhere.
    probe_sets
        The data: current (task just learnt), next (unseen task), or names of probe sets; spectra
        use the first one everywhere, the others at the start and the task ends.
    budget
        Time to spend (90s, 10m, 1.5h); the most telling checkpoints come first.
    spectra
        Checkpoints per run that get a spectrum.
    order
        Lanczos steps for each start vector.
    vectors
        Start vectors of each spectrum.
    """
    from curvlab.cli.analyze import analyze_runs

    return analyze_runs(
        paths,
        diagnostics=diagnostics,
        operator=operator,
        steps=steps,
        probe_sets=probe_sets,
        budget=budget,
        spectra=spectra,
        order=order,
        vectors=vectors,
    )


@app.command
def spectrum(
    path: tyro.conf.Positional[Path],
    *,
    step: int,
    operator: Operator = "hessian",
    probe_set: str = "current",
    order: int = 40,
    vectors: int = 2,
    save: Path | None = None,
) -> int:
    """Print and draw the spectrum of one checkpoint; it is measured if it is not stored yet.

    Parameters
    ----------
    path
        A run.
    step
        Step of the checkpoint.
    operator
        The matrix (hessian, gauss_newton, ...; a wrong name lists them).
    probe_set
        The data: current, next, or the name of a probe set.
    order
        Lanczos steps for each start vector.
    vectors
        Start vectors.
    save
        The picture (.png or .pdf); RUN/figures/spectrum-OPERATOR-STEP-PROBE_SET.png by default.
    """
    from curvlab.cli.spectrum import show_spectrum

    return show_spectrum(
        path,
        step=step,
        operator=operator,
        probe_set=probe_set,
        order=order,
        vectors=vectors,
        save=save,
    )


@app.command
def compare(
    paths: Paths,
    *,
    probe_set: str = "current",
    by: str = "arm",
) -> int:
    """Print the analysed checkpoints of several runs in one table.

    Parameters
    ----------
    paths
        Analysed runs, or studies of runs.
    probe_set
        The data: current, next, or the name of a probe set.
    by
        What tells arms apart: arm, or the name of an entry of the runs' config.
    """
    from curvlab.cli.compare import compare_runs

    return compare_runs(paths, probe_set=probe_set, by=by)


@app.command
def report(paths: Paths, *, probe_set: str = "current", save: Path | None = None) -> int:
    """Write one self-contained HTML page about each analysed run.

    Parameters
    ----------
    paths
        Analysed runs, or studies of runs.
    probe_set
        Whose spectra are shown: current, next, or the name of a probe set.
    save
        The page, for a single run; RUN/report.html by default.
    """
    from curvlab.cli.report import report_runs

    return report_runs(paths, probe_set=probe_set, save=save)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        sys.stdout.write(f"curvlab {curvlab.__version__}\n")
        return 0
    return run_command(app, "curvlab", DESCRIPTION, arguments)


if __name__ == "__main__":
    sys.exit(main())
