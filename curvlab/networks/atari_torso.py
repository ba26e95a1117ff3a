"""Convolutional torsos of Atari agents: stacked frames to features."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Num

from curvlab.networks.layers import activate, conv, dense, layer_norm


@dataclasses.dataclass(frozen=True)
class TorsoShape:
    """Layers of a torso.

    Attributes
    ----------
    channels, sizes, strides
        Of each convolution: output channels, extent of its square window, stride.
    features
        Units of the fully connected layer on top.
    """

    channels: tuple[int, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    features: int


TORSOS = {
    # Mnih et al. 2015, for frames of 84 × 84.
    "nature": TorsoShape((32, 64, 64), (8, 4, 3), (4, 2, 1), 512),
    # For frames of 42 × 42: about a tenth of the cost.
    "small42": TorsoShape((16, 32), (6, 4), (3, 2), 128),
}


class AtariTorso(nn.Module):
    """Stacked frames ``(examples, height, width, frames)`` to features.

    Attributes
    ----------
    shape
        ``"nature"`` or ``"small42"``.
    width
        Factor on channels and features.
    padding
        ``"VALID"`` (DQN and dqn_zoo) or ``"SAME"`` (Dopamine).
    layer_norm
        Whether every hidden layer is normalised before its activation.
    norm_axes
        Axes of images that layer norm runs over: ``"HWC"``, or ``"C"`` for each pixel by itself.
    activation
        Name of the activation function.
    initial_weights
        ``"lecun_normal"`` with zero biases, or ``"uniform_fan_in"`` for weights and biases.
    top
        Whether the fully connected layer is included; agents with two streams have theirs in the
        head.
    """

    shape: str = "nature"
    width: float = 1.0
    padding: str = "VALID"
    layer_norm: bool = False
    norm_axes: str = "HWC"
    activation: str = "relu"
    initial_weights: str = "lecun_normal"
    top: bool = True

    @nn.compact
    def __call__(self, frames: Num[Array, "examples height width frames"]) -> Array:
        """Return features ``(examples, features)``; integer frames are divided by 255."""
        if self.shape not in TORSOS:
            raise ValueError(f"Unknown torso {self.shape!r}. Known: {', '.join(TORSOS)}.")
        shape = TORSOS[self.shape]
        hidden = frames / 255 if jnp.issubdtype(frames.dtype, jnp.integer) else frames
        layers = zip(shape.channels, shape.sizes, shape.strides, strict=True)
        for index, (channels, size, stride) in enumerate(layers):
            hidden = conv(
                hidden,
                round(channels * self.width),
                size=size,
                stride=stride,
                padding=self.padding,
                name=f"conv_{index}",
                init=self.initial_weights,
            )
            hidden = self._activate(hidden, f"conv_norm_{index}")
        hidden = hidden.reshape(hidden.shape[0], -1)
        if not self.top:
            return hidden
        hidden = dense(
            hidden, round(shape.features * self.width), name="features", init=self.initial_weights
        )
        return self._activate(hidden, "features_norm")

    def _activate(self, hidden: Array, name: str) -> Array:
        if self.layer_norm:
            hidden = layer_norm(hidden, axes=self.norm_axes, name=name)
        return activate(self.activation, hidden)
