"""Do all tools mean the same loss, gradient and matrix?

That is decided in float64, on a few examples. In float32 a deep network with kinks is off by more
than 1e-5 through rounding alone, in every tool: there the gaps are measured, not judged, where
float64 agrees.
"""

from typing import Any

import numpy as np

from tests.benchmarks import problems
from tests.benchmarks.bench import Bench
from tests.benchmarks.client import Worker
from tests.benchmarks.tools import NOT_OFFERED
from tests.benchmarks.worker import MATRICES

LIMITS = {"float32": 1e-5, "float64": 1e-10}
FEW = {"small-mlp": 300, "mlp": 64, "nature-cnn": 4, "resnet18": 2}
"""Examples in float64."""


def ask(bench: Bench) -> None:
    """Compare every tool with curvlab on loss, gradient and fixed products."""
    for name in bench.speed_problems:
        double = bench.environments.folder / "problems" / f"{name}-float64.npz"
        bench.problem(
            double, lambda name=name: problems.speed_problem(name, FEW[name]).astype(np.float64)
        )
        _compare(bench, name, "float64", double)
        _compare(bench, name, "float32", bench.speed_problem(name))


def _compare(bench: Bench, name: str, dtype: str, path: Any) -> None:
    folder = bench.environments.folder / "gate"
    folder.mkdir(parents=True, exist_ok=True)
    vectors = folder / f"{path.stem}-vectors.npy"
    count = 1 if name == "resnet18" else 3
    np.save(vectors, np.random.default_rng(7).normal(size=(count, problems.load(path).dim)))

    def one(tool: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for matrix in MATRICES:  # of an earlier run
            (folder / f"{path.stem}-{tool}-{matrix}.npz").unlink(missing_ok=True)
        with Worker(tool, path, bench.environments) as worker:
            for matrix in MATRICES:
                reply = worker.ask(
                    "same",
                    vectors=str(vectors),
                    to=str(folder / f"{path.stem}-{tool}-{matrix}.npz"),
                    matrix=matrix,
                    limit=600 if tool == "curvlab" else 120,  # what the others are compared with
                )
                if reply.get("absent") == NOT_OFFERED:
                    continue
                if "loss" not in reply:
                    found[matrix] = {"reason": reply.get("absent") or reply.get("error")}
                    continue
                reference = folder / f"{path.stem}-curvlab-{matrix}.npz"
                own = folder / f"{path.stem}-{tool}-{matrix}.npz"
                if not reference.exists():
                    found[matrix] = {"reason": "curvlab has no answer to compare with"}
                    continue
                with np.load(reference) as ours, np.load(own) as theirs:
                    gaps = {key: _relative(theirs[key], ours[key]) for key in ours.files}
                found[matrix] = {"loss": reply["loss"], **gaps}
        return found

    bench.once(f"same_object/{name}/{dtype}/curvlab", lambda: one("curvlab"))
    known = bench.results["same_object"][name]
    reference = known[dtype]["curvlab"]["hessian"].get("loss")
    for tool in bench.own_products:
        found = bench.once(f"same_object/{name}/{dtype}/{tool}", lambda tool=tool: one(tool))
        for matrix, gaps in found.items():
            if "loss" in gaps and reference is not None:
                gaps["loss_gap"] = abs(gaps["loss"] / reference - 1)
                worst = max(gaps["loss_gap"], gaps["gradient"], gaps["products"])
                double = known["float64"].get(tool, {}).get(matrix, {})
                agreed = dtype == "float32" and double.get("same", False)
                gaps["same"] = bool(agreed or worst <= LIMITS[dtype])
    bench.save()


def _relative(value: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))
