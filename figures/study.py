"""What figures read: the metrics and the results of every run of a study, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float

from curvlab.analysis import load_results
from curvlab.analysis.series import (
    PARTS,
    EigenvalueSeries,
    eigenvalue_series,
    measures_over_training,
)
from curvlab.core.errors import CurvlabError, RunError
from curvlab.core.specs import Spec
from curvlab.runs import find_runs, open_run
from curvlab.spectral import SpectralMeasure

Names = Sequence[str]

PROBE_SET = "current"
"""Figures show the task being learnt, or just learnt."""


class MissingDataError(CurvlabError):
    """A figure was asked for whose metrics or results have not been made yet."""


EIGENVALUE = tuple(f"hessian_eigenvalue{part}" for part in PARTS)
"""Variables of the analysis behind an eigenvalue over training."""


@dataclass(frozen=True)
class SeedRun:
    """One run: one seed of one arm.

    Attributes
    ----------
    arm, seed
        Name of the arm, and ``seed-K``.
    optimiser
        What the run was trained with.
    metrics
        Training log over ``step``.
    results
        Analysis over ``step`` and ``probe_set``; empty if there is none.
    """

    arm: str
    seed: str
    optimiser: Spec | None
    metrics: xr.Dataset
    results: xr.Dataset

    def has_curve(self, name: str) -> bool:
        """Whether a quantity is in the training log or in the analysis."""
        return name in self.metrics or name in self.results

    def curve(self, name: str) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
        """Return steps and values of a quantity on the task being learnt, where it was measured.

        From the training log if it is there, else from the analysis of the checkpoints.
        """
        logged = name in self.metrics
        values = self.metrics[name] if logged else self.results[name].sel(probe_set=PROBE_SET)
        values = values.dropna("step")
        return np.asarray(values["step"], np.float64), np.asarray(values, np.float64)

    @property
    def boundaries(self) -> tuple[float, ...]:
        """Steps after which the task changed, by the training log."""
        if "task" not in self.metrics:
            return ()
        task = np.asarray(self.metrics["task"].values)
        last = np.flatnonzero(task[1:] != task[:-1])
        return tuple(float(step) for step in self.metrics["step"].values[last])

    @cached_property
    def measures(self) -> dict[int, SpectralMeasure]:
        """Spectral measure of the Hessian at every checkpoint that has one, by step."""
        return measures_over_training(self.results, PROBE_SET)

    @property
    def pairs(self) -> tuple[str, ...]:
        """Names of the extreme eigenvalues, ``largest-1`` first."""
        return tuple(map(str, self.results["pair"].values))

    def eigenvalue(self, pair: str) -> EigenvalueSeries:
        """Return one extreme eigenvalue of the Hessian where it was measured."""
        return eigenvalue_series(self.results, pair, PROBE_SET)


@dataclass(frozen=True)
class Study:
    """All runs below one directory.

    Attributes
    ----------
    path
        The directory.
    preset
        Preset of ``python -m agents supervised`` that makes such a study.
    runs
        The runs, ordered by arm and seed.
    """

    path: Path
    preset: str
    runs: tuple[SeedRun, ...]

    @cached_property
    def arms(self) -> dict[str, tuple[SeedRun, ...]]:
        """Runs by arm."""
        names = dict.fromkeys(run.arm for run in self.runs)
        return {name: tuple(run for run in self.runs if run.arm == name) for name in names}

    @cached_property
    def seeds(self) -> dict[str, tuple[SeedRun, ...]]:
        """Runs by seed, one for each arm that has it."""
        names = dict.fromkeys(run.seed for run in self.runs)
        return {name: tuple(run for run in self.runs if run.seed == name) for name in names}

    def title(self, arm: str) -> str:
        """Return an arm's name with the settings of its optimiser that not all arms share."""
        spec = self.arms[arm][0].optimiser
        if spec is None:
            return arm
        others = [runs[0].optimiser for runs in self.arms.values()]
        telling = {
            name: value
            for name, value in spec.settings.items()
            if any(other is None or other.settings.get(name) != value for other in others)
        }
        settings = ", ".join(f"{name}={value}" for name, value in telling.items())
        return f"{arm}: {spec.name}({settings})" if settings else f"{arm}: {spec.name}"

    def require(self, figure: str, *, curves: Names = (), results: Names = ()) -> None:
        """Refuse to draw without these curves and variables of the analysis.

        Raises
        ------
        MissingDataError
            In one line that ends with the command that makes them.
        """
        if not self.runs:
            raise MissingDataError(
                f"Figure {figure} needs a trained study, and {self.path} has no runs. Run: "
                f"python -m agents supervised {self.preset} --out {self.path}"
            )
        for run in self.runs:
            missing = [name for name in curves if not run.has_curve(name)]
            missing += [name for name in results if name not in run.results]
            if missing:
                raise MissingDataError(
                    f"Figure {figure} needs {', '.join(missing)} of {run.arm}/{run.seed}, which "
                    f"the analysis has not stored yet. Run: curvlab analyze {self.path}"
                )


def load_study(path: Path, *, preset: str) -> Study:
    """Read the metrics and results of all runs at or below ``path``; no checkpoint is opened."""
    try:
        places = find_runs(path)
    except RunError:
        places = ()
    runs = tuple(_load_run(place) for place in places)
    return Study(path, preset, runs)


def _load_run(path: Path) -> SeedRun:
    run = open_run(path)
    return SeedRun(
        str(run.config.get("arm", path.resolve().parent.name)),
        f"seed-{run.seed}",
        run.specs["optimiser"],
        run.metrics(),
        load_results(run) if run.results() else xr.Dataset(),
    )
