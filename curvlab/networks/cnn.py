"""Small convolutional network."""

import flax.linen as nn
from jaxtyping import Array, Float

from curvlab.networks.layers import activate, conv, dense, layer_norm
from curvlab.networks.registry import NETWORKS


@NETWORKS.register("cnn")
class CNN(nn.Module):
    """Convolutions, then fully connected layers, then a linear output.

    The defaults are the CNN of Lyle et al. 2023, appendix A.2, which states neither stride nor
    padding. LeCun-normal weights and zero biases.

    Attributes
    ----------
    channels, sizes, strides
        Of each convolution: output channels, extent of its square window, stride.
    padding
        ``"SAME"`` or ``"VALID"``.
    widths
        Units of each fully connected hidden layer.
    outputs
        Number of outputs.
    layer_norm
        Whether each hidden layer is normalised before its activation.
    norm_axes
        Axes of images that layer norm runs over: ``"HWC"``, or ``"C"`` for each pixel by itself.
    activation
        Name of the activation function.

    References
    ----------
    Lyle et al. 2023, *Understanding plasticity in neural networks*.
    """

    channels: tuple[int, ...] = (64, 64)
    sizes: tuple[int, ...] = (5, 3)
    strides: tuple[int, ...] = (2, 2)
    padding: str = "SAME"
    widths: tuple[int, ...] = (256, 256)
    outputs: int = 10
    layer_norm: bool = False
    norm_axes: str = "HWC"
    activation: str = "relu"

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "examples height width channels"]
    ) -> Float[Array, "examples outputs"]:
        """Return the outputs (logits) of a batch of images."""
        hidden = inputs
        layers = zip(self.channels, self.sizes, self.strides, strict=True)
        for index, (channels, size, stride) in enumerate(layers):
            hidden = conv(
                hidden,
                channels,
                size=size,
                stride=stride,
                padding=self.padding,
                name=f"conv_{index}",
            )
            if self.layer_norm:
                hidden = layer_norm(hidden, axes=self.norm_axes, name=f"conv_norm_{index}")
            hidden = activate(self.activation, hidden)
        hidden = hidden.reshape(hidden.shape[0], -1)
        for index, width in enumerate(self.widths):
            hidden = dense(hidden, width, name=f"hidden_{index}")
            if self.layer_norm:
                hidden = layer_norm(hidden, name=f"norm_{index}")
            hidden = activate(self.activation, hidden)
        return dense(hidden, self.outputs, name="output")
