"""Settings that hold for every test: hypothesis profiles, compilation cache, compiler flags.

float64 is not switched on here: users run float32, so each test says which it means (`x64`).
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Traced programs are many small objects that stay: full collections would walk them all the time.
gc.set_threshold(200_000, 100, 100)

# Before the first import of JAX, and inherited by the processes that tests start.
ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests compile thousands of small programs and run each a few times: the older code generators of
# XLA need two thirds of the time. `XLA_FLAGS=` (empty) runs the tests as users run the library.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
)

import jax  # noqa: E402

# The import hook looks the type checker up on its package.
import tests.typechecker  # noqa: E402, F401  # pyright: ignore[reportUnusedImport]

# A first call compiles, so no example has a deadline.
hypothesis.settings.register_profile("dev", max_examples=15, derandomize=True, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=100, print_blob=True, deadline=None)
hypothesis.settings.register_profile("nightly", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


# Programs of other processes: they need other packages, or arguments.
collect_ignore = [
    "benchmarks/networks_torch.py",
    "benchmarks/tools_jax.py",
    "benchmarks/tools_torch.py",
    "curvature/on_devices.py",
]


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Count backend compilations through JAX's own monitoring events."""
    seen: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if "backend_compile" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def x64() -> Iterator[None]:
    """Run one test with JAX in float64."""
    with jax.enable_x64(True):
        yield
