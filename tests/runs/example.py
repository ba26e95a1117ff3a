"""A tiny network, its data, and a run made of them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from curvlab.core.specs import Spec
from curvlab.networks import build_network
from curvlab.runs import RunWriter, build_optimiser

NETWORK = Spec("mlp", {"widths": [8, 8], "outputs": 3})
OBJECTIVE = Spec("cross_entropy")
OPTIMISER = Spec("adam", {"learning_rate": 1e-3, "b2": 0.9})
STEPS = (0, 10, 100)


def batch(seed: int, examples: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Return the same inputs for every seed, with targets of its own."""
    inputs = np.linspace(-1, 1, examples * 5, dtype=np.float32).reshape(examples, 5)
    return inputs, np.random.default_rng(seed).integers(0, 3, examples).astype(np.int32)


def parameters(seed: int = 0) -> Any:
    """Return the network's initial parameters."""
    return build_network(NETWORK).init(jax.random.key(seed), jnp.asarray(batch(0)[0]))["params"]


def write_run(path: Path, params: Any) -> None:
    """Write a run with three checkpoints, two probe sets, metrics and a resume state."""
    opt_state = build_optimiser(OPTIMISER).init(params)
    with RunWriter.create(
        path,
        config={"steps": 100, "widths": (8, 8)},
        network=NETWORK,
        objective=OBJECTIVE,
        optimiser=OPTIMISER,
        seed=3,
    ) as writer:
        for task in range(2):
            writer.write_probe_set(f"task-{task:03d}", *batch(task))
        for step in STEPS:
            writer.log(step, loss=1.0 / (step + 1), accuracy=0.5)
            writer.save_checkpoint(
                step,
                params,
                opt_state,
                probes={"current": "task-000", "next": "task-001"},
                task=0,
                statistics={"mean": np.arange(3.0)},
            )
        writer.save_resume(100, {"params": params, "key": jax.random.key(5)})
