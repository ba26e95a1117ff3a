"""The table of networks, and the value-compared ``predict`` that the engine compiles once for."""

from dataclasses import dataclass

import flax.linen as nn
from jaxtyping import Array, PyTree

from curvlab.core.registry import Registry
from curvlab.core.specs import Spec

NETWORKS: Registry[type[nn.Module]] = Registry("network", "curvlab.networks")


@dataclass(frozen=True)
class Predict:
    """``predict(params, inputs)`` of a flax module.

    Compared by the module's settings. ``module.apply`` would be compared by identity, and every
    checkpoint would then compile anew.
    """

    module: nn.Module

    def __call__(self, params: PyTree, inputs: Array) -> Array:
        """Apply the module to a batch of inputs."""
        return self.module.apply({"params": params}, inputs)  # type: ignore[return-value]


def build_network(spec: Spec) -> nn.Module:
    """Return the module that a spec names; lists in the settings become tuples (hashable)."""
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in spec.settings.items()
    }
    return NETWORKS[spec.name](**settings)
