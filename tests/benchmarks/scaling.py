"""Does the cost grow linearly with examples, and with products?"""

from typing import Any

import numpy as np

from tests.benchmarks.bench import Bench
from tests.benchmarks.client import Worker, median, taking_turns


def ask(bench: Bench) -> None:
    """Fit a line over a 16-fold range of each."""
    name = "small-mlp"
    sizes = (256, 512, 1024, 2048, 4096) if not bench.quick else (256, 1024, 4096)
    bench.once("scaling/examples", lambda: _examples(bench, name, sizes))
    orders = (10, 20, 40, 80, 160) if not bench.quick else (10, 40, 160)
    bench.once("scaling/products", lambda: _products(bench, name, orders))


def _fit(x: Any, y: Any) -> dict[str, Any]:
    """Fit ``y = a + b x``; ``unexplained`` is the share of the variance that is left."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    slope, intercept = np.polyfit(x, y, 1)
    left = np.sum((y - intercept - slope * x) ** 2) / np.sum((y - y.mean()) ** 2)
    power = float(np.polyfit(np.log(x), np.log(y), 1)[0])
    return {
        "x": x.tolist(),
        "seconds": y.tolist(),
        "slope": float(slope),
        "intercept": float(intercept),
        "unexplained": float(left),
        "power": power,
    }


def _examples(bench: Bench, name: str, sizes: tuple[int, ...]) -> dict[str, Any]:
    workers = {
        str(n): Worker("curvlab", bench.speed_problem(name, n), bench.environments) for n in sizes
    }
    try:
        request = {"do": "bare", "repeats": 5}
        replies = taking_turns(workers, dict.fromkeys(workers, request), 4)
    finally:
        for worker in workers.values():
            worker.close()
    times = [median(replies[str(n)]["seconds"]) for n in sizes]
    return _fit(sizes, times)


def _products(bench: Bench, name: str, orders: tuple[int, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with Worker("curvlab", bench.speed_problem(name), bench.environments) as worker:
        for label, stored in (("steps without a basis", False), ("all", True)):
            arguments = [{"order": m, "seed": 0, "stored": stored} for m in orders]
            requests = {
                str(m): {"do": "steps", "arguments": a}
                for m, a in zip(orders, arguments, strict=True)
            }
            replies = taking_turns(dict.fromkeys(requests, worker), requests, 3)
            found[label] = _fit(orders, [median(replies[str(m)]["seconds"]) for m in orders])
    total, bare = found["all"]["seconds"], found["steps without a basis"]["seconds"]
    found["reorthogonalisation"] = [a - b for a, b in zip(total, bare, strict=True)]
    return found
