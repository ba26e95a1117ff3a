"""Is the second checkpoint of a run as cheap as it should be: no compilation, the same products?"""

from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.client import Worker, median

CHECKPOINTS = 6


def ask(bench: Bench) -> None:
    """Analyse checkpoints of the same shapes one after the other in one process."""
    for name in ("small-mlp",) if bench.quick else ("small-mlp", "mlp"):
        bench.once(f"next_checkpoint/{name}", lambda name=name: _measure(bench, name))


def _measure(bench: Bench, name: str) -> dict[str, Any]:
    with Worker("curvlab", bench.speed_problem(name), bench.environments) as worker:
        arguments = {"count": CHECKPOINTS, "order": 20}
        reply = worker.ask("checkpoints", arguments=arguments)
    if "rows" not in reply:
        return {"reason": reply.get("error")}
    rows = reply["rows"]
    later = [row["seconds"] for row in rows[1:]]
    return {
        "first_seconds": rows[0]["seconds"],
        "median_seconds": median(later),
        "largest_deviation": max(abs(s / median(later) - 1) for s in later),
        "compilations": [row["compilations"] for row in rows],
        "products": [row["products"] for row in rows],
    }
