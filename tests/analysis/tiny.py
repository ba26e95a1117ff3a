"""A tiny trained run for the tests of analysis and command line: two tasks, eight checkpoints."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from curvlab.core.specs import Spec
from curvlab.networks import Predict, build_network
from curvlab.objectives import OBJECTIVES
from curvlab.runs import RunWriter

NETWORK = Spec("mlp", {"widths": [16], "outputs": 4})
OBJECTIVE = Spec("cross_entropy")
STEPS = (0, 1, 4, 20, 21, 24, 30, 40)
TASK_STEPS = 20
EXAMPLES, FEATURES = 48, 10


def write_run(
    path: Path, *, arm: str = "default", seed: int = 0, bad: tuple[int, ...] = ()
) -> Path:
    """Train and store a run; the parameters at the ``bad`` steps hold a NaN."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
    labels = [rng.integers(0, 4, EXAMPLES).astype(np.int32) for _ in range(3)]
    predict = Predict(build_network(NETWORK))
    params: Any = jax.jit(predict.module.init)(jax.random.key(seed), inputs)["params"]
    optimiser = optax.adam(1e-2 if arm == "default" else 1e-3)
    state = optimiser.init(params)
    config = {"arm": arm, "optimiser": {"name": "adam", "settings": {}}}
    with RunWriter.create(
        path, config=config, network=NETWORK, objective=OBJECTIVE, seed=seed
    ) as writer:
        for number, targets in enumerate(labels):
            writer.write_probe_set(f"task-{number:03d}", inputs, targets)
        for step in range(STEPS[-1] + 1):
            task = max(0, (step - 1) // TASK_STEPS)
            if step:
                params, state = _update(optimiser, params, state, inputs, labels[task])
            if step in STEPS:
                stored = jax.tree.map(np.asarray, params)
                if step in bad:
                    stored["hidden_0"]["bias"] = np.full_like(stored["hidden_0"]["bias"], np.nan)
                probes = {"current": f"task-{task:03d}", "next": f"task-{task + 1:03d}"}
                writer.save_checkpoint(step, stored, probes=probes, task=task)
    return path


@partial(jax.jit, static_argnums=0)
def _update(optimiser: Any, params: Any, state: Any, inputs: Any, targets: Any) -> Any:
    predict = Predict(build_network(NETWORK))
    loss = OBJECTIVES[OBJECTIVE.name]

    def objective(point: Any) -> Any:
        return loss(predict(point, inputs), targets).mean()

    updates, state = optimiser.update(jax.grad(objective)(params), state)
    return optax.apply_updates(params, updates), state
