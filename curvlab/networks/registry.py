"""The table of networks, and the value-compared ``predict`` that the engine compiles once for."""

import inspect
from dataclasses import dataclass

import flax.linen as nn
import jax
from jaxtyping import Array, PyTree

from curvlab.core.errors import CurvlabError
from curvlab.core.registry import Registry
from curvlab.core.specs import Spec

NETWORKS: Registry[type[nn.Module]] = Registry("network", "curvlab.networks")

FLAX_FIELDS = ("parent", "name")  # every flax module has these


@dataclass(frozen=True)
class Predict:
    """``predict(params, inputs)`` or ``predict(params, inputs, state)`` of a flax module.

    Compared by the module's settings. ``module.apply`` would be compared by identity, and every
    checkpoint would then compile anew.
    """

    module: nn.Module

    def __call__(self, params: PyTree, inputs: PyTree, state: PyTree = None) -> Array:
        """Apply the module to a batch of inputs.

        ``state`` holds flax's other collections by name, such as ``batch_stats`` or ``noise``.
        Normalisation uses its running statistics, so that examples do not mix.
        """
        return self.module.apply({"params": params, **(state or {})}, inputs)  # type: ignore[return-value]


def initialise(network: nn.Module, key: Array, inputs: PyTree) -> tuple[PyTree, PyTree]:
    """Draw parameters, and the state that a network has besides them.

    Parameters
    ----------
    network
        A module whose ``__call__`` takes a batch of inputs.
    key
        Random key.
    inputs
        A batch; only its shape and dtype count.

    Returns
    -------
        ``(params, state)`` for :class:`Predict`: ``state`` holds running statistics (mean 0,
        variance 1) and the noise of noisy layers, and is None for a network that has neither.
    """
    params_key, noise_key = jax.random.split(key)
    keys = {"params": params_key, "noise": noise_key}
    variables = dict(jax.jit(network.init)(keys, inputs))
    params = variables.pop("params")
    return params, variables or None


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
