"""How much memory does a density take when the parameters number a hundred million?"""

from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.client import Worker


def ask(bench: Bench) -> None:
    """Measure the peak of a process that computes a density without a stored basis."""
    bench.once("memory/baseline", lambda: _peak(bench, "memory-tiny", None))
    parameters = 10_000_000 if bench.quick else 100_000_000
    bench.once("memory/density", lambda: _peak(bench, "memory-large", parameters))


def _peak(bench: Bench, label: str, parameters: int | None) -> dict[str, Any]:
    # The network is made inside the process from a seed: arrays in a file would be read first.
    with Worker("curvlab", bench.speed_problem("small-mlp", 16), bench.environments) as worker:
        arguments = {"parameters": parameters or 10_000, "order": 4 if bench.quick else 10}
        reply = worker.ask("large_density", arguments=arguments, limit=900)
    if "parameters" not in reply:
        return {"label": label, "reason": reply.get("error")}
    size = 4 * reply["parameters"]
    return {
        "label": label,
        "parameters": reply["parameters"],
        "tier": reply["tier"],
        "order": arguments["order"],
        "seconds": reply["seconds"][0],
        "peak_bytes": reply["peak_bytes"],
        "peak_per_parameters": reply["peak_bytes"] / size,
    }
