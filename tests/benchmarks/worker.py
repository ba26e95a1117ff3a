"""The process in which one tool lives: ``python -m tests.benchmarks.worker TOOL PROBLEM.npz``.

Reads one request as a line of JSON, answers with one. Arrays go through ``.npy`` files. Whatever a
tool prints goes to stderr. A request that fails is answered with the error; the process lives on.
"""

import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.problems import load
from tests.benchmarks.tools import Absent

TOOLS = {
    "curvlab": "tools_curvlab:Curvlab",
    "arpack": "tools_curvlab:Arpack",
    "pyhessian": "tools_torch:PyHessian",
    "curvlinops": "tools_torch:Curvlinops",
    "eigenthings": "tools_torch:Eigenthings",
    "matfree": "tools_jax:Matfree",
    "laplax": "tools_jax:Laplax",
    "traceax": "tools_jax:Traceax",
}

MATRICES = {
    "hessian": "product",
    "ggn": "gauss_newton",
    "empirical_fisher": "empirical_fisher",
}
"""The method of a tool that multiplies each matrix."""


def peak_bytes() -> int:
    """Return the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plain(value: Any) -> Any:
    """Turn NumPy scalars and arrays into JSON."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        entries = value.tolist()
        if value.dtype.kind != "f" or np.isfinite(value).all():
            return entries
        return [x if np.isfinite(x) else None for x in np.ravel(value).tolist()]
    if isinstance(value, np.generic):
        return value.item()
    return value


def timed(call: Any, repeats: int) -> tuple[list[float], Any]:
    """Return the times of a call and its last result."""
    seconds, result = [], None
    for _ in range(repeats):
        result = None  # what the last call held must not stand beside the next
        gc.collect()
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return seconds, result


def answer(tool: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request."""
    kind, repeats = request["do"], request.get("repeats", 1)
    arguments = request.get("arguments", {})
    if kind == "same":  # loss, gradient, products, written to a file
        vectors = np.load(request["vectors"], allow_pickle=False)
        loss, gradient = tool.loss_and_gradient()
        which = getattr(tool, MATRICES[request["matrix"]])
        products = np.stack([which(v.astype(tool.arrays.inputs.dtype)) for v in vectors])
        np.savez(request["to"], gradient=gradient, products=products)
        return {"loss": loss}
    if kind == "bare":  # many products, or gradients, without conversions
        which = arguments.get("which", "hessian")
        call = tool.gradient if which == "gradient" else tool.bare_product(which)
        if which not in tool.warm:
            call()
            tool.warm.add(which)
        seconds, _ = timed(call, repeats)
        return {"seconds": seconds}
    tool.counting = bool(request.get("counting"))
    before = tool.products
    seconds, value = timed(lambda: getattr(tool, kind)(**arguments), repeats)
    counted = (tool.products - before) // repeats
    tool.counting = False
    result = plain(value if isinstance(value, dict) else {"value": value})
    return {"seconds": seconds, "counted": counted, **result}


def serve() -> None:
    """Answer requests until stdin closes."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    arrays = load(Path(sys.argv[2]))
    module, name = TOOLS[sys.argv[1]].split(":")
    try:
        tool = getattr(importlib.import_module(f"tests.benchmarks.{module}"), name)(arrays)
    except Exception as error:
        out.write(json.dumps({"error": _brief(error)}) + "\n")
        return
    out.write(json.dumps({"ready": True}) + "\n")
    out.flush()
    for line in sys.stdin:
        before = time.process_time()
        try:
            reply: dict[str, Any] = answer(tool, json.loads(line))
        except Absent as reason:
            reply = {"absent": str(reason)}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": _brief(error)}
        reply["peak_bytes"] = peak_bytes()
        reply["processor_seconds"] = time.process_time() - before
        out.write(json.dumps(reply) + "\n")
        out.flush()


def _brief(error: Exception) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:160]}"


if __name__ == "__main__":
    serve()
