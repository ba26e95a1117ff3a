"""What an analysis costs, as ratios measured in one run: ``python -m tests.benchmarks [--quick]``.

Prints a table and writes ``build/benchmarks.json``. Ratios are medians over repeats; absolute times
depend on the machine and serve only to form them.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from curvlab.curvature import GaussNewton, Hessian, Problem
from curvlab.objectives import cross_entropy
from curvlab.spectral import lanczos, slq
from tests.problems import init, predict

OUTPUT = Path("build/benchmarks.json")


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call, after one for compilation."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(sizes: tuple[int, ...], examples: int, order: int, repeats: int) -> dict[str, Any]:
    """Measure one MLP with a batch of synthetic data."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(examples, sizes[0])), jnp.float32)
    targets = jnp.asarray(rng.integers(0, sizes[-1], examples))
    problem = Problem(predict, cross_entropy, init(sizes), (inputs, targets))
    hessian, gauss_newton = Hessian(problem), GaussNewton(problem)
    vector = jax.random.normal(jax.random.key(0), (hessian.dim,))
    gradient = seconds(problem.gradient, repeats)
    product = seconds(lambda: hessian.matvec(vector), repeats)
    start = time.perf_counter()
    run = lanczos(hessian, jax.random.key(0), order=order)
    step = (time.perf_counter() - start) / order
    start = time.perf_counter()
    slq(hessian, jax.random.key(0), order=order, vectors=1)
    return {
        "problem": f"MLP {'-'.join(map(str, sizes))}, {examples} examples",
        "parameters": hessian.dim,
        "gradient_seconds": gradient,
        "hessian_product_per_gradient": product / gradient,
        "gauss_newton_product_per_gradient": seconds(lambda: gauss_newton.matvec(vector), repeats)
        / gradient,
        "lanczos_step_per_product": step / product,
        "lanczos_order": order,
        "orthogonality": run.orthogonality,
        "slq_seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Run the benchmarks, print them and store them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small problem only, few repeats")
    quick = parser.parse_args().quick
    problems = [((64, 256, 256, 10), 1000)]
    if not quick:
        problems.append(((784, 1024, 1024, 10), 1024))
    rows = [measure(sizes, n, 40 if quick else 90, 5 if quick else 15) for sizes, n in problems]
    for row in rows:
        print(row["problem"])  # noqa: T201
        for name, value in row.items():
            if name != "problem":
                print(f"  {name:36s} {value:.4g}")  # noqa: T201
    OUTPUT.parent.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "jax": jax.__version__}
    OUTPUT.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    print(f"Written to {OUTPUT}")  # noqa: T201


if __name__ == "__main__":
    main()
