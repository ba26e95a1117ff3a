"""How long does a spectral density take, from the bare problem to the answer?"""

from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.client import median, taking_turns


def ask(bench: Bench) -> None:
    """Time one start vector at order 90 in every tool, each building its operator anew."""
    order = 40 if bench.quick else 90
    for name in bench.speed_problems:
        if name == "resnet18":
            reason = "90 products take 7 to 11 minutes in every tool: compare the products"
            bench.once(f"density_time/{name}", lambda reason=reason: {"reason": reason})
            continue
        bench.once(
            f"density_time/{name}", lambda name=name, order=order: _measure(bench, name, order)
        )


def _measure(bench: Bench, name: str, order: int) -> dict[str, Any]:
    workers = bench.workers(bench.speed_problem(name), bench.own_products)
    request = {"arguments": {"order": order, "vectors": 1, "seed": 0}}
    requests = {tool: {"do": "spectrum", **request} for tool in workers}
    if "laplax" in requests:  # it has no density: its Lanczos of the same order
        requests["laplax"] = {"do": "ritz", "arguments": {"budget": order, "seed": 0}}
    try:
        # Half a minute is exact enough without a repeat; four tell whether a tool takes ten times
        # as long as curvlab.
        replies = taking_turns(workers, requests, 2, limit=240, patience=30)
    finally:
        for worker in workers.values():
            worker.close()
    return {"order": order, "tools": {tool: _row(reply) for tool, reply in replies.items()}}


def _row(reply: dict[str, Any]) -> dict[str, Any]:
    if "error" in reply or "absent" in reply:
        return {"reason": reply.get("absent") or reply.get("error")}
    times = reply["seconds"] or [reply["first_seconds"]]
    return {
        "seconds": median(times),
        "first_seconds": reply["first_seconds"],
        "only_first": not reply["seconds"],
        "products": reply.get("products"),
        "band_width": reply.get("band_width"),
        "peak_bytes": reply["peak_bytes"],
    }
