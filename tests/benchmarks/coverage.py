"""Do curvlab's intervals hold the truth as often as they say, where it stops by itself?

Known spectra, independent keys, 95 % intervals: of traces with a relative tolerance (two stages),
and of whole distribution functions with an absolute one. Widths are relative to those of a normal
interval from the true variance, with the same number of vectors.
"""

import time
from typing import Any

import jax
import numpy as np

from curvlab.spectral import Diagonal, slq, trace
from tests.benchmarks.bench import Bench
from tests.spectral.test_coverage import SPECTRA, Host, least_coverage

TRACES = {
    "one outlier": (SPECTRA["one outlier"], 0.5),
    "nine outliers": (SPECTRA["nine outliers"], 0.5),
    "uniform": (np.linspace(0, 1, 2000), 0.03),
}
"""Eigenvalues and tolerance."""

BANDS = ("one outlier", "null cluster", "twelve decades")
COPIES = 15
"""Of each eigenvalue, so that there are too many to compute them all instead."""

SECONDS = 60.0
"""For the draws of a band; a trace has all of them in less."""


def ask(bench: Bench) -> None:
    """Count how often intervals hold the truth."""
    draws = 200 if bench.quick else 2000
    for name, (values, tolerance) in TRACES.items():
        bench.once(
            f"coverage/trace/{name}",
            lambda values=values, tolerance=tolerance: _traces(values, tolerance, draws),
        )
    for name in BANDS[: 1 if bench.quick else None]:
        values = np.sort(np.tile(SPECTRA[name], COPIES))
        bench.once(f"coverage/band/{name}", lambda values=values: _bands(values, draws))


def _traces(values: np.ndarray, tolerance: float, draws: int) -> dict[str, Any]:
    op, truth, n = Host(values), float(values.sum()), len(values)
    # Of one vector that is uniform on the sphere.
    deviation = (2 * n / (n + 2) * ((values**2).sum() - truth**2 / n)) ** 0.5
    hits, widths = 0, []
    for seed in range(draws):
        key = jax.random.key(seed)
        found = trace(op, key, sketch=0, tolerance=tolerance, noise_floor=0.0)
        hits += found.low <= truth <= found.high
        widths.append((found.high - found.low) / (2 * 1.96 * deviation / found.vectors**0.5))
    return {**_covered(int(hits), draws), "width": float(np.median(widths))}


def _bands(values: np.ndarray, draws: int) -> dict[str, Any]:
    grid = np.r_[values[0] - 0.1, (values[1:] + values[:-1])[::60] / 2, 1e3]
    truth = np.searchsorted(values, grid, side="right") / len(values)
    hits = done = 0
    start = time.perf_counter()
    while done < draws and time.perf_counter() - start < SECONDS:
        key = jax.random.key(done)
        band = slq(Diagonal(values), key, tolerance=0.1, noise_floor=1e-12).cdf_band(grid)
        hits += bool(((band.low <= truth + 1e-12) & (truth <= band.high + 1e-12)).all())
        done += 1
    return _covered(hits, done)


def _covered(hits: int, draws: int) -> dict[str, Any]:
    return {"hits": hits, "draws": draws, "least": least_coverage(hits, draws)}
