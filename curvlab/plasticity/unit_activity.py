"""Dead, dormant and linearised hidden units over a whole probe set."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from curvlab.core.errors import ProblemError
from curvlab.core.precision import exact_matmul
from curvlab.curvature import Problem
from curvlab.plasticity.activations import Arguments, Layer, Recorder, recordings
from curvlab.plasticity.registry import DIAGNOSTICS, Diagnostic
from curvlab.runs import Checkpoint


@dataclass(frozen=True)
class LayerUnits:
    """Statistics of the units of one hidden layer over all examples (and all positions).

    Attributes
    ----------
    layer
        Which layer.
    highest, lowest
        Largest and smallest output of each unit.
    mean_magnitude
        Mean of ``|h|`` of each unit.
    """

    layer: Layer
    highest: Float[np.ndarray, " units"]
    lowest: Float[np.ndarray, " units"]
    mean_magnitude: Float[np.ndarray, " units"]

    @property
    def dead(self) -> int | None:
        """Number of rectified units that are 0 on every example; None where not rectified."""
        return int((self.highest == 0).sum()) if self.layer.rectified else None

    @property
    def linearised(self) -> int | None:
        """Number of rectified units that are positive on every example; None otherwise."""
        return int((self.lowest > 0).sum()) if self.layer.rectified else None

    def dormant(self, tau: float) -> int:
        """Return the number of units with ``s_i ≤ tau`` (see :func:`units`)."""
        mean = self.mean_magnitude.mean()
        # A layer without any output has no scale: all of its units are dormant.
        return int((self.mean_magnitude <= tau * mean).sum())


@dataclass(frozen=True)
class UnitStatistics:
    """What the hidden units of a network do on a probe set.

    Attributes
    ----------
    dead_fraction
        Dead rectified units / all rectified units; NaN where there are none.
    linearised_fraction
        Rectified units that are positive on every example / all rectified units.
    dormant_fraction
        Dormant units / all hidden units.
    layers
        The same by layer.
    tau
        Threshold of dormancy.
    reason
        Why something is NaN, else ``""``.
    """

    dead_fraction: float
    linearised_fraction: float
    dormant_fraction: float
    layers: tuple[LayerUnits, ...]
    tau: float
    reason: str


@partial(jax.jit, static_argnums=0)
def _extremes(
    found: Recorder, arguments: Arguments
) -> tuple[tuple[Float[Array, " units"], Float[Array, " units"], Float[Array, " units"]], ...]:
    """Return (highest, lowest, mean magnitude) of each unit of each layer."""
    flat = [h.reshape(-1, h.shape[-1]) for h in found(arguments)]
    return tuple((h.max(axis=0), h.min(axis=0), jnp.abs(h).mean(axis=0)) for h in flat)


def units(problem: Problem, *, tau: float = 0.025) -> UnitStatistics:
    """Count dead, dormant and linearised units of a network that nobody instrumented.

    A ReLU unit is *dead* if its output is 0 for every input of the probe set, *linearised* if it is
    positive for every input. A unit is tau-*dormant* if
    ``s_i = E|h_i| / ((1/H) Σ_k E|h_k|) ≤ tau`` with the mean over the probe set and H units in the
    layer. A unit of a convolution is a channel (last axis): all of its positions count as inputs.

    Parameters
    ----------
    problem
        Network, parameters and probe set.
    tau
        Threshold of dormancy; 0 counts the units that never have an output.

    Returns
    -------
    UnitStatistics
        Fractions of all hidden units; network outputs are not hidden units. Layers without
        rectifier count for dormancy only; a network without any has NaN with a ``reason``.

    Notes
    -----
    One forward pass, in pieces of bounded size. The rules have no tolerance: one example with a
    tiny positive output makes a unit alive.

    References
    ----------
    Lyle et al. (2023), "Understanding Plasticity in Neural Networks", Fig. 1; Sokar et al. (2023),
    "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", definition 3.1.
    """
    try:
        layers = _layers(problem)
    except ProblemError as error:
        return UnitStatistics(np.nan, np.nan, np.nan, (), tau, str(error))
    rectified = sum(entry.layer.units for entry in layers if entry.layer.rectified)
    hidden = sum(entry.layer.units for entry in layers)
    reason = "" if rectified else f"no rectified units, only {layers[0].layer.kind}"
    return UnitStatistics(
        sum(entry.dead or 0 for entry in layers) / rectified if rectified else np.nan,
        sum(entry.linearised or 0 for entry in layers) / rectified if rectified else np.nan,
        sum(entry.dormant(tau) for entry in layers) / hidden,
        layers,
        tau,
        reason,
    )


def _layers(problem: Problem) -> tuple[LayerUnits, ...]:
    """Return the statistics of each layer over all examples."""
    kinds: tuple[Layer, ...] = ()
    highest: list[np.ndarray] = []
    lowest: list[np.ndarray] = []
    total: list[np.ndarray] = []
    examples = 0
    with problem.precision(), exact_matmul():
        for found, arguments, count in recordings(problem):
            result = jax.device_get(_extremes(found, arguments))
            sums = [np.asarray(mean, np.float64) * count for _, _, mean in result]
            if not examples:
                kinds = found.layers
                highest, lowest, total = [r[0] for r in result], [r[1] for r in result], sums
            else:
                highest = [np.maximum(a, r[0]) for a, r in zip(highest, result, strict=True)]
                lowest = [np.minimum(a, r[1]) for a, r in zip(lowest, result, strict=True)]
                total = [a + b for a, b in zip(total, sums, strict=True)]
            examples += count
    return tuple(
        LayerUnits(layer, np.asarray(high), np.asarray(low), summed / examples)
        for layer, high, low, summed in zip(kinds, highest, lowest, total, strict=True)
    )


@dataclass(frozen=True)
class Units(Diagnostic):
    """Diagnostic of :func:`units`.

    Attributes
    ----------
    tau
        Threshold of dormancy.
    """

    name: ClassVar[str] = "units"
    tau: float = 0.025

    def __call__(self, checkpoint: Checkpoint, probe_set: str = "current") -> xr.Dataset:
        """Measure ``dead_fraction``, ``dormant_fraction``, ``linearised_fraction`` and by layer."""
        found = units(checkpoint.problem(probe_set), tau=self.tau)
        by_layer = [np.nan if e.dead is None else e.dead / e.layer.units for e in found.layers]
        data = {
            "dead_fraction": ((), found.dead_fraction),
            "dead_fraction_by_layer": ("layer", np.asarray(by_layer, np.float64)),
            "dormant_fraction": ((), found.dormant_fraction),
            "linearised_fraction": ((), found.linearised_fraction),
        }
        dataset = xr.Dataset(data, {"layer": [entry.layer.name for entry in found.layers]})
        for name in data:
            dataset[name].attrs["reason"] = found.reason
        return dataset


# Not as a decorator, which would hide the class from type checkers.
DIAGNOSTICS.register("units")(Units)
