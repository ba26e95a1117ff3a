"""What does the matrix of gradient inner products cost, beside ``vmap(grad)`` and a product?"""

from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.client import Worker, median, taking_turns


def ask(bench: Bench) -> None:
    """Compare three ways in three processes, whose peaks are then their own."""
    name = "small-mlp" if bench.quick else "nature-cnn"
    bench.once(f"gradient_gram/{name}", lambda: _measure(bench, name))


def _measure(bench: Bench, name: str) -> dict[str, Any]:
    path = bench.speed_problem(name, 512)
    ways = ("structured", "generic", "vmap")
    workers = {way: Worker("curvlab", path, bench.environments) for way in ways}
    requests = {way: {"do": "gram", "arguments": {"way": way}} for way in ways}
    try:
        replies = taking_turns(workers, requests, 1, limit=400, patience=100)
    finally:
        for worker in workers.values():
            worker.close()
    return {way: _row(reply) for way, reply in replies.items()}


def _row(reply: dict[str, Any]) -> dict[str, Any]:
    if "norm" not in reply:
        return {"reason": reply.get("absent") or reply.get("error")}
    return {
        "seconds": median(reply["seconds"] or [reply["first_seconds"]]),
        "peak_bytes": reply["peak_bytes"],
        "norm": reply["norm"],
        "trace": reply["trace"],
    }
