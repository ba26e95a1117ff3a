"""What changes over the checkpoints of a run, read from the dataset of its results."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from curvlab.analysis.collect import measure_of
from curvlab.spectral import SpectralMeasure

PARTS = ("", "_low", "_high", "_converged")


@dataclass(frozen=True)
class EigenvalueSeries:
    """One extreme eigenvalue over training.

    Attributes
    ----------
    steps, values, low, high
        Ritz values with the intervals of their residuals.
    settled
        False where the pair has not converged or its interval contains zero.
    """

    steps: Float[np.ndarray, " steps"]
    values: Float[np.ndarray, " steps"]
    low: Float[np.ndarray, " steps"]
    high: Float[np.ndarray, " steps"]
    settled: Bool[np.ndarray, " steps"]


def eigenvalue_series(
    dataset: xr.Dataset, pair: str, probe_set: str = "current", operator: str = "hessian"
) -> EigenvalueSeries:
    """Return one extreme eigenvalue (``"largest-1"``) at the checkpoints where it was measured."""
    names = [f"{operator}_eigenvalue{part}" for part in PARTS]
    chosen = dataset[names].sel(probe_set=probe_set, pair=pair).dropna("step", subset=names[:1])
    values, low, high, converged = (np.asarray(chosen[name].values, np.float64) for name in names)
    settled = (converged > 0) & ((low > 0) | (high < 0))
    return EigenvalueSeries(np.asarray(chosen["step"], np.float64), values, low, high, settled)


def measures_over_training(
    dataset: xr.Dataset, probe_set: str = "current", operator: str = "hessian"
) -> dict[int, SpectralMeasure]:
    """Return the spectral measure of every checkpoint that has one, by step."""
    floor = dataset[f"{operator}_noise_floor"].sel(probe_set=probe_set).dropna("step")
    steps = [int(step) for step in floor["step"].values]
    return {step: measure_of(dataset, step, probe_set, operator) for step in steps}


def measured_operators(dataset: xr.Dataset, probe_set: str = "current") -> tuple[str, ...]:
    """Return the matrices with a spectrum on a probe set, the Hessian first."""
    suffix = "_noise_floor"
    found = [
        str(name).removesuffix(suffix)
        for name in dataset
        if str(name).endswith(suffix) and dataset[name].sel(probe_set=probe_set).notnull().any()
    ]
    return tuple(sorted(found, key=lambda name: (name != "hessian", name)))


def telling_steps(dataset: xr.Dataset, steps: Sequence[int]) -> tuple[int, ...]:
    """Of these steps return the first, the last one of the first task, and the last of all."""
    task = dataset["task"].sel(step=list(steps)).values
    ends = [step for step, number in zip(steps, task, strict=True) if number == task[0]]
    return tuple(dict.fromkeys((steps[0], ends[-1], steps[-1])))
