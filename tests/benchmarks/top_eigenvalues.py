"""How many products, and how long, until the five largest eigenvalues are right to 1 %?"""

from typing import Any

import numpy as np

from tests.benchmarks.bench import Bench
from tests.benchmarks.client import Worker, median, taking_turns

COUNT = 5
OWN_STOP = ("curvlab", "arpack", "pyhessian", "curvlinops")
"""Tools that decide themselves when to stop. The others are told: they get the shortest of a ladder
of orders with which they are right, as if a user knew it, and no earlier attempt is counted."""

LADDER = (10, 15, 20, 30, 40, 60, 90, 120, 160)


def ask(bench: Bench) -> None:
    """Compare on the Hessian of each problem, float32."""
    for name in bench.speed_problems:
        if name == "resnet18":
            reason = "the reference alone takes hundreds of products of several seconds each"
            bench.once(f"top_eigenvalues/{name}", lambda reason=reason: {"reason": reason})
            continue
        bench.once(f"top_eigenvalues/{name}", lambda name=name: _measure(bench, name))


def _measure(bench: Bench, name: str) -> dict[str, Any]:
    path = bench.speed_problem(name)
    with Worker("curvlab", path, bench.environments) as worker:
        reply = worker.ask("reference_top", arguments={"count": COUNT})
    if "values" not in reply:
        return {"reason": reply.get("error", "no reference")}
    truth = np.array(reply["values"])
    # traceax has no eigenvalues; laplax needs minutes for one run on a convolution.
    tools = tuple(t for t in bench.tools if t != "traceax")
    workers = bench.workers(path, tools)
    try:
        requests, rows = {}, {}
        for tool, worker in workers.items():
            order = 0 if tool in OWN_STOP else _shortest(worker, truth)
            if isinstance(order, str):
                rows[tool] = {"reason": order}
            else:
                arguments = {"count": COUNT, "order": order, "seed": 0}
                requests[tool] = {"do": "top", "arguments": arguments}
        chosen = {tool: workers[tool] for tool in requests}
        replies = taking_turns(chosen, requests, 2, limit=120, patience=20)
    finally:
        for worker in workers.values():
            worker.close()
    rows.update({tool: _row(reply, truth) for tool, reply in replies.items()})
    return {"truth": truth.tolist(), "tools": rows}


def _shortest(worker: Worker, truth: np.ndarray) -> int | str:
    """Return the first order of the ladder that is right, or why there is none."""
    for order in LADDER:
        reply = worker.ask("top", arguments={"count": COUNT, "order": order, "seed": 0}, limit=40)
        if "values" not in reply:
            return f"order {order}: {reply.get('absent') or reply.get('error')}"
        if _errors(reply["values"], truth).max() <= 0.01:
            return order
    return f"not right to 1 % with {LADDER[-1]} products"


def _errors(values: Any, truth: np.ndarray) -> np.ndarray:
    found = np.full(len(truth), np.nan)
    given = np.sort(np.array([np.nan if v is None else v for v in values]))[::-1][: len(truth)]
    found[: len(given)] = given
    return np.nan_to_num(np.abs(found - truth) / np.abs(truth), nan=np.inf)


def _row(reply: dict[str, Any], truth: np.ndarray) -> dict[str, Any]:
    if "values" not in reply:
        return {"reason": reply.get("absent") or reply.get("error")}
    return {
        "seconds": median(reply["seconds"] or [reply["first_seconds"]]),
        "products": reply["products"],
        "worst_error": float(_errors(reply["values"], truth).max()),
        "own_stop": reply.get("converged"),
    }
