"""The table of networks, and the value-compared ``predict`` that the engine compiles once for."""

import inspect
from dataclasses import dataclass

import flax.linen as nn
from jaxtyping import Array, PyTree

from curvlab.core.errors import CurvlabError
from curvlab.core.registry import Registry
from curvlab.core.specs import Spec

NETWORKS: Registry[type[nn.Module]] = Registry("network", "curvlab.networks")

FLAX_FIELDS = ("parent", "name")  # every flax module has these


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
    """Return the module that a spec names; lists in the settings become tuples (hashable).

    Raises
    ------
    UnknownNameError
        If no network has the name.
    CurvlabError
        If the network does not take the settings.
    """
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in spec.settings.items()
    }
    network = NETWORKS[spec.name]
    try:
        return network(**settings)
    except TypeError as error:
        known = [name for name in inspect.signature(network).parameters if name not in FLAX_FIELDS]
        raise CurvlabError(
            f"Network {spec.name!r} was given {dict(spec.settings)}, but {error}. It takes "
            f"{', '.join(known)}."
        ) from error
