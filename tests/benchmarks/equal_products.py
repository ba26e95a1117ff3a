"""How large is the error of each tool after the same number of products?

Problems with known spectra: the oracle set, a small convolutional network and
synthetic matrices. Tools are given all their products: what a tool spends on ranges or checks
beyond its estimate is left out, in its favour and curvlab's.

Every error is a draw. A tool gets as many seeds of a question as fit half a second of processor
time after its first call (which compiles), at least 3 and at most 20: the length of each list of
errors is their number.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import problems
from tests.benchmarks.bench import Bench
from tests.benchmarks.client import Worker
from tests.oracles import score

BUDGETS = (20, 40, 80, 160)
TRACES = (30, 99, 300)
VECTORS = 2
"""Start vectors of a measure, each with all the products of its budget."""

SECONDS, FEWEST, MOST = 0.5, 3, 20
"""Processor time for the seeds of one question after the first, fewest and most seeds."""

SLOW = 5 * SECONDS
"""After so much processor time the fewest seeds are not waited for."""


def ask(bench: Bench) -> None:
    """Run every tool on every problem in its own process and score what it returns."""
    for name, path, truth in known_spectra(bench):
        # Errors, not times, are compared: tools may run side by side.
        missing = [
            tool
            for tool in bench.tools
            if tool not in bench.results.get("equal_products", {}).get(name, {})
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = [pool.submit(_run, bench, tool, path, truth) for tool in missing]
            for tool, answer in zip(missing, found, strict=True):
                bench.once(f"equal_products/{name}/{tool}", answer.result)


def known_spectra(bench: Bench) -> list[tuple[str, Path, np.ndarray]]:
    """Return the name, the file and all eigenvalues of each problem."""
    folder = bench.environments.folder / "problems"
    found = []
    for name in score.NAMES if not bench.quick else ("healthy",):
        path, checkpoint = folder / f"oracle-{name}.npz", score.load_checkpoint(name)
        bench.problem(path, lambda checkpoint=checkpoint: from_oracle(checkpoint))
        found.append((name, path, checkpoint["eigenvalues"]))
    if not bench.quick:
        found.append(_small_cnn(bench, folder))
    for name, values in synthetic().items():
        path = bench.problem(folder / f"p4-{name}.npz", lambda values=values: _matrix(values))
        found.append((name, path, values))
    return found[:3] if bench.quick else found


def from_oracle(checkpoint: dict[str, np.ndarray]) -> problems.Arrays:
    """Return a checkpoint of the oracle set as a benchmark problem."""
    spec = {
        "kind": "mlp",
        "activation": str(checkpoint["activation"]),
        "widths": [int(w) for w in checkpoint["widths"]],
    }
    params, at = [], 0
    for shape in problems.shapes(spec):
        size = int(np.prod(shape))
        params.append(checkpoint["params"][at : at + size].reshape(shape))
        at += size
    inputs = checkpoint["inputs"].astype(np.float32)
    return problems.Arrays(spec, params, inputs, checkpoint["targets"].astype(np.int64))


def _small_cnn(bench: Bench, folder: Path) -> tuple[str, Path, np.ndarray]:
    """Two convolutions and a dense layer on 200 digits; its spectrum by curvlab in float64."""
    path, spectrum = folder / "digits-cnn.npz", folder / "digits-cnn-eigenvalues.npy"

    def make() -> problems.Arrays:
        checkpoint = score.load_checkpoint("healthy")
        inputs = checkpoint["inputs"][:200].reshape(-1, 8, 8, 1).astype(np.float32)
        params = problems.initial(problems.DIGITS_CNN, 5)
        return problems.Arrays(
            problems.DIGITS_CNN, params, inputs, checkpoint["targets"][:200].astype(np.int64)
        )

    bench.problem(path, make)
    if not spectrum.exists():
        with Worker("curvlab", path, bench.environments) as worker:
            reply = worker.ask("dense_eigenvalues", limit=600)
        np.save(spectrum, np.array(reply["values"]))
    return "digits-cnn", path, np.load(spectrum)


def synthetic(n: int = 2000) -> dict[str, np.ndarray]:
    """Return spectra on which estimators of one kind or another fail."""
    rng = np.random.default_rng(4)
    bulk = rng.normal(size=n - n * 6 // 10 - 10) * 0.1
    return {
        "zeros-bulk-outliers": np.concatenate(
            [np.zeros(n * 6 // 10), bulk, np.geomspace(1, 30, 10)]
        ),
        "repeated-5": np.repeat(rng.normal(size=n // 5), 5),
        "geometric-12-decades": np.logspace(-12, 0, n),
        "symmetric": np.concatenate([-np.linspace(0.1, 1, n // 2), np.linspace(0.1, 1, n // 2)]),
        "identity": np.ones(n),
        "two-point": np.repeat([1.0, 3.0], n // 2),
    }


def _matrix(values: np.ndarray) -> problems.Arrays:
    basis, _ = np.linalg.qr(np.random.default_rng(8).normal(size=(len(values), len(values))))
    matrix = (basis * values) @ basis.T
    return problems.Arrays(
        {"kind": "matrix"}, [np.zeros(len(values))], (matrix + matrix.T) / 2, np.zeros(1)
    )


def _run(bench: Bench, tool: str, path: Path, truth: np.ndarray) -> dict[str, Any]:
    budgets = BUDGETS[1:3] if bench.quick else BUDGETS
    traces = TRACES[:1] if bench.quick else TRACES
    with Worker(tool, path, bench.environments, threads=1, timed=False) as worker:

        def errors(do: str, rule: Callable[[Any], Any], **arguments: int) -> list[dict[str, Any]]:
            def draw(seed: int) -> tuple[dict[str, Any], float]:
                reply = worker.ask(do, arguments={**arguments, "seed": seed}, limit=240)
                return _scored(reply, rule), reply.get("processor_seconds", 0.0)

            return _seeds(draw)

        return {
            "eigenvalues": {
                m: errors(
                    "ritz",
                    lambda r: score.score_eigenvalues(_finite(r["value"]), truth),
                    budget=m,
                )
                for m in budgets
            },
            "measure": {
                m: errors(
                    "quadrature", lambda r: _measure_scores(r, truth), order=m, vectors=VECTORS
                )
                for m in budgets
            },
            "trace": {
                m: errors(
                    "trace",
                    lambda r: score.score_trace(r["value"], truth, r["low"], r["high"]),
                    budget=m,
                )
                for m in traces
            },
        }


def _seeds(draw: Callable[[int], tuple[dict[str, Any], float]]) -> list[dict[str, Any]]:
    """Draw with seeds 0, 1, ... as long as there is time; stop where there is no answer."""
    found, spent = [draw(0)[0]], 0.0  # the first compiles, so its time says nothing
    while "reason" not in found[-1] and len(found) < MOST:
        if spent > (SECONDS if len(found) >= FEWEST else SLOW):
            break
        errors, seconds = draw(len(found))
        found.append(errors)
        spent += seconds
    return found


def _scored(reply: dict[str, Any], rule: Any) -> dict[str, Any]:
    if "error" in reply or "absent" in reply:
        return {"reason": reply.get("absent") or reply.get("error")}
    try:
        return rule(reply)
    except (ValueError, TypeError, KeyError) as error:
        return {"reason": f"no usable answer: {error}"}


def _finite(values: Any) -> np.ndarray:
    array = np.array([np.nan if v is None else v for v in values], np.float64)
    if not np.isfinite(array).all():
        raise ValueError("NaN")
    return array


def _measure_scores(reply: dict[str, Any], truth: np.ndarray) -> dict[str, Any]:
    weights = _finite(reply["weights"])
    return score.score_measure(_finite(reply["nodes"]), weights / weights.sum(), truth)
