"""What does one product cost, beside a gradient and beside the machine's matrix product?"""

import itertools
from typing import Any

from curvlab.curvature.output_jacobian import LEAST_SAVING
from tests.benchmarks import problems
from tests.benchmarks.bench import Bench
from tests.benchmarks.client import Worker, median, taking_turns


def flops(spec: dict[str, Any], examples: int) -> dict[str, float]:
    """Return the floating-point operations of the matrix products that curvlab does for an MLP.

    A layer's unit is ``2 N in out``. Gradient: forward, weights, inputs: 3 units. Cached Hessian
    product: two terms in each: 6. Cached Gauss-Newton: 4. The first layer has constant inputs: 2.
    Where the Jacobian of the outputs is kept a Gauss-Newton product has 2 units in every layer, and
    ``4 N outputs`` for each unit of the network.
    """
    widths = spec["widths"]
    units = [2.0 * examples * i * o for i, o in itertools.pairwise(widths)]
    counts = {"gradient": 3, "hessian": 6, "ggn": 4}
    found = {name: 2 * units[0] + count * sum(units[1:]) for name, count in counts.items()}
    entries = examples * widths[-1] * sum(widths[1:])
    if 2 * sum(units[1:]) >= LEAST_SAVING * entries:
        found["ggn"] = 2 * sum(units) + 4 * entries
    return found


def ask(bench: Bench) -> None:
    """Time gradient, Hessian and Gauss-Newton product of every tool, taking turns."""
    for name in bench.speed_problems:
        path = bench.speed_problem(name)
        bench.once(f"product_cost/{name}", lambda path=path: _measure(bench, path))


def _measure(bench: Bench, path: Any) -> dict[str, Any]:
    arrays = problems.load(path)
    slow = arrays.spec["kind"] == "resnet18"
    rounds, repeats = (1, 1) if slow else (3, 3)
    found: dict[str, Any] = {"parameters": arrays.dim, "examples": len(arrays.inputs)}
    workers = bench.workers(path, bench.own_products)
    try:
        with Worker("curvlab", path, bench.environments) as peak_worker:
            for which in ("gradient", "hessian", "ggn"):
                requests = {
                    name: {"do": "bare", "repeats": repeats, "arguments": {"which": which}}
                    for name in workers
                }
                if which == "gradient" and "curvlab" in workers:
                    workers["curvlab, native operations"] = _native(bench, path)
                    requests["curvlab, native operations"] = requests["curvlab"]
                workers["peak"] = peak_worker
                requests["peak"] = {"do": "matmul_rate"}
                replies = taking_turns(workers, requests, rounds, limit=60)
                rates = replies.pop("peak")
                del workers["peak"]
                found.setdefault("peak_flops", []).append(rates.get("value"))
                found[which] = {name: _row(reply) for name, reply in replies.items()}
                native = workers.pop("curvlab, native operations", None)
                if native is not None:
                    native.close()
    finally:
        for worker in workers.values():
            worker.close()
    rates = [rate for rate in found["peak_flops"] if rate]
    found["peak_flops"] = max(rates) if rates else None
    if arrays.spec["kind"] == "mlp":
        found["flops"] = flops(arrays.spec, len(arrays.inputs))
    return found


def _native(bench: Bench, path: Any) -> Worker:
    """Return curvlab on the network written with JAX's native operations."""
    other = path.with_name(f"{path.stem}-native.npz")

    def native() -> problems.Arrays:
        arrays = problems.load(path)
        spec = {**arrays.spec, "native": True}
        return problems.Arrays(spec, arrays.params, arrays.inputs, arrays.targets)

    return Worker("curvlab", bench.problem(other, native), bench.environments)


def _row(reply: dict[str, Any]) -> dict[str, Any]:
    if not reply.get("seconds"):
        return {"reason": reply.get("absent") or reply.get("error") or "no time was returned"}
    return {
        "seconds": median(reply["seconds"]),
        "spread": [min(reply["seconds"]), max(reply["seconds"])],
        "peak_bytes": reply["peak_bytes"],
    }
