"""Multi-layer perceptron."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from curvlab.networks.registry import NETWORKS


@NETWORKS.register("mlp")
class MLP(nn.Module):
    """Fully connected network with ReLU between layers.

    LeCun-normal weights (variance 1 / fan-in), zero biases, no activation on the output. Inputs of
    any trailing shape are flattened.

    Attributes
    ----------
    widths
        Units of each hidden layer.
    outputs
        Number of outputs.
    """

    widths: tuple[int, ...] = (256, 256)
    outputs: int = 10

    @nn.compact
    def __call__(self, inputs: Float[Array, "examples ..."]) -> Float[Array, "examples outputs"]:
        """Return the outputs (logits) of a batch."""
        hidden = inputs.reshape(inputs.shape[0], -1)
        for index, width in enumerate(self.widths):
            hidden = nn.relu(nn.Dense(width, name=f"hidden_{index}")(hidden))
        return nn.Dense(self.outputs, name="output")(jnp.asarray(hidden))
