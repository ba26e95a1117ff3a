"""How long does a spectral density take, from the bare problem to the answer?"""

from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.client import median, taking_turns

PATIENCE = 30
"""Seconds for another tool's first call: a longer one is exact enough without a repeat, and four of
those tell whether a tool takes ten times as long as curvlab."""

KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000000",
}
"""Variables with which the GNU C library does not give freed memory back to the system."""

NEAR = 2.0
"""Only tools that take at most so many times as long as curvlab are asked again with those."""


def ask(bench: Bench) -> None:
    """Time one start vector at order 90 in every tool, each building its operator anew."""
    order = 40 if bench.quick else 90
    for name in bench.speed_problems:
        if name == "resnet18":
            reason = "90 products take minutes in every tool: compare the products"
            bench.once(f"density_time/{name}", lambda reason=reason: {"reason": reason})
            continue
        bench.once(f"density_time/{name}/order", lambda: order)
        tools = bench.once(
            f"density_time/{name}/tools",
            lambda name=name: _measure(bench, name, order, bench.own_products),
        )
        own = tools.get("curvlab", {}).get("seconds")
        if own is None:
            continue
        near = tuple(t for t, row in tools.items() if row.get("seconds", 1e9) <= NEAR * own)
        bench.once(
            f"density_time/{name}/kept",
            lambda name=name, near=near: _measure(bench, name, order, near, KEPT),
        )


def _measure(
    bench: Bench,
    name: str,
    order: int,
    tools: tuple[str, ...],
    settings: dict[str, str] | None = None,
) -> dict[str, Any]:
    workers = bench.workers(bench.speed_problem(name), tools, settings)
    request = {"arguments": {"order": order, "vectors": 1, "seed": 0}}
    requests = {tool: {"do": "spectrum", **request} for tool in workers}
    if "laplax" in requests:  # it has no density: its Lanczos of the same order
        requests["laplax"] = {"do": "ritz", "arguments": {"budget": order, "seed": 0}}
    try:
        replies = taking_turns(workers, requests, 2, limit=240, patience=PATIENCE)
    finally:
        for worker in workers.values():
            worker.close()
    return {tool: _row(reply) for tool, reply in replies.items()}


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
