"""What the numbers were measured on: processor, cores, memory, versions. No names of machines."""

import os
import platform
from pathlib import Path
from typing import Any

import jax

from tests.benchmarks.bench import Bench

COMPARED = (
    "jax", "jaxlib", "numpy", "scipy", "torch", "pyhessian", "curvlinops-for-pytorch",
    "hessian-eigenthings", "matfree", "traceax", "laplax",
)  # fmt: skip


def describe(bench: Bench) -> dict[str, Any]:
    """Describe the machine and the versions of everything that was compared."""
    found = {
        name: {key: rows[key] for key in COMPARED if key in rows}
        for name, rows in bench.environments.versions().items()
    }
    return {
        "processor": _first("/proc/cpuinfo", "model name"),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "system": platform.system(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "versions": found,
    }


def _first(path: str, field: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":")[1].strip() for line in lines if line.startswith(field)), "unknown")
