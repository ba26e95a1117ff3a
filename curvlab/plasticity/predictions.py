"""Loss and accuracy over a probe set."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PyTree

from curvlab.core.precision import exact_matmul
from curvlab.curvature import Problem
from curvlab.curvature.problem import Batch, Objective
from curvlab.objectives import accuracy
from curvlab.plasticity.registry import DIAGNOSTICS, Diagnostic
from curvlab.runs import Checkpoint


@dataclass(frozen=True)
class Performance:
    """How well a network does on a probe set.

    Attributes
    ----------
    loss
        Mean loss per example, without penalty.
    accuracy
        Fraction of examples whose largest output is their label; NaN where targets are no labels.
    examples
        Number of examples.
    reason
        Why ``accuracy`` is NaN, else ``""``.
    """

    loss: float
    accuracy: float
    examples: int
    reason: str


@partial(jax.jit, static_argnums=0)
def _per_example(
    objective: Objective, params: PyTree, batch: Batch, state: PyTree
) -> tuple[Float[Array, " examples"], Float[Array, " examples"]]:
    if objective.predict is None:
        losses = objective.losses(params, batch, state)
        return losses, jnp.full_like(losses, jnp.nan)
    outputs = objective.outputs(params, batch.inputs, state)
    losses = objective.loss(outputs, batch.targets)
    if _are_labels(outputs, batch.targets):
        return losses, accuracy(outputs, batch.targets)
    return losses, jnp.full_like(losses, jnp.nan)


def _are_labels(outputs: Any, targets: Any) -> bool:
    """Whether one integer per example stands against a row of class outputs."""
    return (
        isinstance(outputs, jax.Array)
        and isinstance(targets, jax.Array)
        and outputs.ndim == 2
        and targets.ndim == 1
        and jnp.issubdtype(targets.dtype, jnp.integer)
    )


def performance(problem: Problem) -> Performance:
    """Return mean loss and accuracy over all examples of a problem.

    ``loss = Σ_i w_i l_i / Σ_i w_i`` and ``accuracy = Σ_i w_i [argmax f(x_i) = y_i] / Σ_i w_i``.
    Batches may be of unequal sizes; sums are taken in float64 on the host.

    Notes
    -----
    One forward pass. Differs from ``problem.value()`` in that a penalty is left out.
    """
    loss = right = weight = 0.0
    examples = 0
    with problem.precision(), exact_matmul():
        for batch in problem.batches():
            found = _per_example(problem.objective, problem.params, batch, problem.state)
            losses, hits, weights = (
                np.asarray(value, np.float64) for value in jax.device_get((*found, batch.weights))
            )
            loss += float(weights @ losses)
            right += float(weights @ hits)
            weight += float(weights.sum())
            examples += losses.size
    reason = "" if np.isfinite(right) else "targets are no class labels"
    return Performance(loss / weight, right / weight, examples, reason)


@dataclass(frozen=True)
class PerformanceDiagnostic(Diagnostic):
    """Diagnostic of :func:`performance`: ``loss`` and ``accuracy``."""

    name: ClassVar[str] = "performance"

    def __call__(self, checkpoint: Checkpoint, probe_set: str = "current") -> xr.Dataset:
        """Measure a checkpoint on the probe set."""
        found = performance(checkpoint.problem(probe_set))
        return xr.Dataset(
            {
                "loss": ((), found.loss, {"long_name": "mean loss per example"}),
                "accuracy": ((), found.accuracy, {"reason": found.reason}),
            }
        )


# Not as a decorator, which would hide the class from type checkers.
DIAGNOSTICS.register("performance")(PerformanceDiagnostic)
