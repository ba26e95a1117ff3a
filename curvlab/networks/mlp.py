"""Multi-layer perceptron."""

import flax.linen as nn
from jaxtyping import Array, Float

from curvlab.networks.layers import activate, dense, layer_norm
from curvlab.networks.registry import NETWORKS


@NETWORKS.register("mlp")
class MLP(nn.Module):
    """Fully connected network with an activation between layers.

    LeCun-normal weights (variance 1 / fan-in), zero biases, no activation on the output. Inputs of
    any trailing shape are flattened.

    Attributes
    ----------
    widths
        Units of each hidden layer.
    outputs
        Number of outputs.
    layer_norm
        Whether each hidden layer is normalised before its activation.
    activation
        Name of the activation function.
    """

    widths: tuple[int, ...] = (256, 256)
    outputs: int = 10
    layer_norm: bool = False
    activation: str = "relu"

    @nn.compact
    def __call__(self, inputs: Float[Array, "examples ..."]) -> Float[Array, "examples outputs"]:
        """Return the outputs (logits) of a batch."""
        hidden = inputs.reshape(inputs.shape[0], -1)
        for index, width in enumerate(self.widths):
            hidden = dense(hidden, width, name=f"hidden_{index}")
            if self.layer_norm:
                hidden = layer_norm(hidden, name=f"norm_{index}")
            hidden = activate(self.activation, hidden)
        return dense(hidden, self.outputs, name="output")
