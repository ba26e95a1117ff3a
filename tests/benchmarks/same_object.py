"""Do all tools mean the same loss, gradient and matrix? And in float64?"""

from typing import Any

import numpy as np

from tests.benchmarks import problems
from tests.benchmarks.bench import Bench
from tests.benchmarks.client import Worker

LIMITS = {"float32": 1e-5, "float64": 1e-10}


def ask(bench: Bench) -> None:
    """Compare every tool with curvlab on loss, gradient and fixed products."""
    for name in bench.speed_problems:
        _compare(bench, name, "float32", bench.speed_problem(name))
    double = bench.environments.folder / "problems" / "small-float64.npz"
    bench.problem(double, lambda: problems.speed_problem("small-mlp", 300).astype(np.float64))
    _compare(bench, "small-mlp", "float64", double)


def _compare(bench: Bench, name: str, dtype: str, path: Any) -> None:
    folder = bench.environments.folder / "gate"
    folder.mkdir(parents=True, exist_ok=True)
    vectors = folder / f"{path.stem}-vectors.npy"
    count = 1 if name == "resnet18" else 3
    np.save(vectors, np.random.default_rng(7).normal(size=(count, problems.load(path).dim)))

    def one(tool: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with Worker(tool, path, bench.environments) as worker:
            for matrix in ("hessian", "ggn"):
                reply = worker.ask(
                    "same",
                    vectors=str(vectors),
                    to=str(folder / f"{path.stem}-{tool}-{matrix}.npz"),
                    ggn=matrix == "ggn",
                    limit=120,
                )
                if "loss" not in reply:
                    found[matrix] = {"reason": reply.get("absent") or reply.get("error")}
                    continue
                reference = folder / f"{path.stem}-curvlab-{matrix}.npz"
                own = folder / f"{path.stem}-{tool}-{matrix}.npz"
                with np.load(reference) as ours, np.load(own) as theirs:
                    gaps = {key: _relative(theirs[key], ours[key]) for key in ours.files}
                found[matrix] = {"loss": reply["loss"], **gaps}
        return found

    bench.once(f"same_object/{name}/{dtype}/curvlab", lambda: one("curvlab"))
    reference = bench.results["same_object"][name][dtype]["curvlab"]["hessian"].get("loss")
    for tool in bench.own_products:
        found = bench.once(f"same_object/{name}/{dtype}/{tool}", lambda tool=tool: one(tool))
        for gaps in found.values():
            if "loss" in gaps and reference is not None:
                gaps["loss_gap"] = abs(gaps["loss"] / reference - 1)
                worst = max(gaps["loss_gap"], gaps["gradient"], gaps["products"])
                gaps["same"] = bool(worst <= LIMITS[dtype])
    bench.save()


def _relative(value: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))
