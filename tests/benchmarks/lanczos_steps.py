"""What does a Lanczos step cost beside its product, and does the basis stay orthogonal?"""

from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.client import Worker, median, taking_turns


def ask(bench: Bench) -> None:
    """Time 90 steps on a prepared operator in turns with bare products of the same operator."""
    order = 40 if bench.quick else 90
    for name in bench.speed_problems:
        if name == "resnet18":
            reason = "90 products take minutes; beside one of them a step costs nothing"
            bench.once(f"lanczos_steps/{name}", lambda reason=reason: {"reason": reason})
            continue
        bench.once(f"lanczos_steps/{name}", lambda name=name: _measure(bench, name, order))


def _measure(bench: Bench, name: str, order: int) -> dict[str, Any]:
    with Worker("curvlab", bench.speed_problem(name), bench.environments) as worker:
        requests = {
            "product": {"do": "bare", "repeats": 10},
            "steps": {"do": "steps", "arguments": {"order": order, "seed": 0}},
        }
        found = taking_turns(dict.fromkeys(requests, worker), requests, rounds=2)
        checked = worker.ask("orthogonality")
    if not found["steps"].get("seconds"):
        return {"reason": found["steps"].get("error", "no time was returned")}
    step = median(found["steps"]["seconds"]) / order
    product = median(found["product"]["seconds"])
    return {
        "order": order,
        "step_seconds": step,
        "product_seconds": product,
        "ratio": step / product,
        "orthogonality": checked.get("orthogonality"),
        "orthogonality_float64": checked.get("orthogonality_float64"),
        "tier": found["steps"]["tier"],
        "peak_bytes": found["steps"]["peak_bytes"],
    }
