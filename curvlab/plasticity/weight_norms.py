"""Size of the parameters."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float, PyTree

from curvlab.core.trees import TreeLayout
from curvlab.plasticity.registry import DIAGNOSTICS, Diagnostic
from curvlab.runs import Checkpoint


@dataclass(frozen=True)
class WeightStatistics:
    """Norms of a parameter tree.

    Attributes
    ----------
    norm
        2-norm of all parameters together, biases included.
    norm_by_path
        2-norm of each leaf by its path; their squares sum to ``norm²``.
    """

    norm: float
    norm_by_path: dict[str, float]


def weights(params: PyTree) -> WeightStatistics:
    """Return the 2-norm of all parameters and of each leaf.

    ``‖θ‖₂ = √(Σ_i θ_i²)``, a sum and not a mean: it grows with the size of the network. Summed in
    float64 on the host.
    """
    names = TreeLayout.of(params).names
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.device_get(jax.tree.leaves(params))]
    squares: Float[np.ndarray, " leaves"] = np.array([np.sum(np.square(leaf)) for leaf in leaves])
    norms = np.sqrt(squares).tolist()
    return WeightStatistics(float(np.sqrt(squares.sum())), dict(zip(names, norms, strict=True)))


@dataclass(frozen=True)
class Weights(Diagnostic):
    """Diagnostic of :func:`weights`: ``weight_norm``, ``weight_norm_by_path(path)``."""

    name: ClassVar[str] = "weights"
    on_probe_set: ClassVar[bool] = False

    def __call__(self, checkpoint: Checkpoint, probe_set: str = "current") -> xr.Dataset:
        """Measure a checkpoint; the probe set plays no part."""
        found = weights(checkpoint.params)
        values: dict[str, Any] = {
            "weight_norm": ((), found.norm, {"long_name": "2-norm of all parameters"}),
            "weight_norm_by_path": (
                "path",
                list(found.norm_by_path.values()),
                {"long_name": "2-norm of one parameter array"},
            ),
        }
        return xr.Dataset(values, {"path": list(found.norm_by_path)})


# Not as a decorator, which would hide the class from type checkers.
DIAGNOSTICS.register("weights")(Weights)
