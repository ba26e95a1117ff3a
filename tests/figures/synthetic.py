"""A study made up in a second: two arms whose spectra are known and drift apart."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import xarray as xr

from curvlab.core.specs import Spec
from curvlab.runs import RunWriter, open_run
from curvlab.spectral import Diagonal, eigenpairs, slq

DIM = 300
TASK_STEPS = 1000
OPTIMISERS = {
    "default": Spec("adam", {"learning_rate": 1e-3, "b2": 0.999, "eps": 1e-9}),
    "tuned": Spec("adam", {"learning_rate": 1e-3, "b2": 0.9, "eps": 1e-9, "eps_root": 1e-3}),
}
TASKS = 3
ORDER = 14
KEY = "0123456789ab"
CHECKPOINTS = (0, 1000, 1010, 2000, 3000)


def task_of(step: int) -> int:
    """A checkpoint at the end of a task belongs to the task just learnt."""
    return max(0, (step - 1) // TASK_STEPS)


def eigenvalues(step: int, *, broken: bool, seed: int) -> np.ndarray:
    """A bulk at zero, ten outliers and a negative tail, both growing in the broken arm."""
    random = np.random.default_rng(seed)
    growth = 1 + step / 1000 * (20 if broken else 2)
    bulk = random.normal(size=DIM - 20) * 1e-3
    outliers = np.geomspace(0.05, 1, 10) * growth
    negative = -np.geomspace(0.002, 0.05, 10) * growth
    return np.sort(np.concatenate([bulk, outliers, negative]))


def spectrum(step: int, *, broken: bool, seed: int) -> xr.Dataset:
    """The variables that an analysis stores of one checkpoint's Hessian."""
    values = eigenvalues(step, broken=broken, seed=seed)
    operator = Diagonal(values.astype(np.float32))
    key = jax.random.key(seed)
    measure = slq(operator, key, order=ORDER, vectors=2, noise_floor=1e-5)
    pairs = eigenpairs(operator, key, order=ORDER, largest=3, smallest=2, noise_floor=1e-5)
    data = {
        **measure.to_dataset().data_vars,
        "eigenvalue": ("pair", pairs.values),
        "eigenvalue_low": ("pair", pairs.low),
        "eigenvalue_high": ("pair", pairs.high),
        "eigenvalue_converged": ("pair", pairs.converged),
    }
    names = ["largest-1", "largest-2", "largest-3", "smallest-2", "smallest-1"]
    dataset = xr.Dataset(data, {"pair": names})
    return dataset.rename({name: f"hessian_{name}" for name in dataset.data_vars})


def dead_fraction(step: int, *, broken: bool) -> float:
    """Dead units grow in the broken arm."""
    return (0.6 if broken else 0.1) * step / (TASKS * TASK_STEPS)


def metrics(*, broken: bool, seed: int) -> Iterator[tuple[int, dict[str, float]]]:
    """A training log: accuracy climbs within each task, less and less in the broken arm."""
    random = np.random.default_rng(seed)
    for step in range(0, TASKS * TASK_STEPS + 1, 20):
        task = task_of(step)
        within = step / TASK_STEPS - task
        reach = max(1 - 0.35 * task, 0.1) if broken else 1.0
        accuracy = 0.1 + (reach - 0.1) * (1 - math.exp(-8 * within)) + 0.01 * random.normal()
        yield step, {"task": task, "accuracy": min(max(accuracy, 0.0), 1.0)}


def write_study(path: Path, *, seeds: Sequence[int] = (0,), analysed: bool = True) -> Path:
    """Write the study as training and analysis would; there are no checkpoints in it."""
    for arm, optimiser in OPTIMISERS.items():
        for seed in seeds:
            _write_run(path / arm / f"seed-{seed}", arm, seed, optimiser, analysed)
    return path


def _write_run(path: Path, arm: str, seed: int, optimiser: Spec, analysed: bool) -> None:
    broken = arm == "default"
    with RunWriter.create(path, config={"arm": arm}, optimiser=optimiser, seed=seed) as writer:
        for step, row in metrics(broken=broken, seed=seed):
            writer.log(step, **row)
    run = open_run(path)
    for step in CHECKPOINTS if analysed else ():
        about = {
            "task": task_of(step),
            "roles": ["current"],
            "probe_set_hash": "0" * 64,
            "seconds": 0.0,
        }
        units = xr.Dataset({"dead_fraction": dead_fraction(step, broken=broken)})
        for name, settings, found in (
            ("units", {"tau": 0.025}, units),
            (
                "spectrum",
                {"operator": "hessian"},
                spectrum(step, broken=broken, seed=seed),
            ),
        ):
            dataset = found.assign_attrs(**about, settings=settings, step=step)
            run.write_result(name, step, f"task-{task_of(step):03d}", KEY, dataset)
