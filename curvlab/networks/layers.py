"""What the networks of this package are put together from: dense, convolution, norm, activation."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from curvlab.networks.convolution import convolution

# torch's value, and the paper's; flax's own default is 1e-6.
NORM_EPSILON = 1e-5


def crelu(values: Float[Array, "*axes units"]) -> Float[Array, "*axes twice_units"]:
    """Return the rectified values and the rectified negative values side by side.

    References
    ----------
    Shang et al. 2016; Abbas et al. 2023, *Loss of plasticity in continual deep RL*.
    """
    return jnp.concatenate([nn.relu(values), nn.relu(-values)], axis=-1)


def sine_pair(values: Float[Array, "*axes units"]) -> Float[Array, "*axes twice_units"]:
    """Return sine and cosine side by side, so that one of each pair is always near linear.

    References
    ----------
    Lewandowski et al. 2024, *Plastic learning with deep Fourier features*.
    """
    return jnp.concatenate([jnp.sin(values), jnp.cos(values)], axis=-1)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "tanh": jnp.tanh,
    "crelu": crelu,
    "sine_pair": sine_pair,
}


def activate(name: str, values: Array) -> Array:
    """Apply the activation function called ``name``.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"Unknown activation {name!r}. Known: {', '.join(sorted(ACTIVATIONS))}.")
    return ACTIVATIONS[name](values)


def dense(
    values: Float[Array, "examples inputs"],
    units: int,
    *,
    name: str,
    init: str = "lecun_normal",
) -> Float[Array, "examples units"]:
    """Apply a fully connected layer; call it inside a compact module."""
    kernel, bias = _initialisers(init, values.shape[-1])
    return nn.Dense(units, kernel_init=kernel, bias_init=bias, name=name)(values)


def conv(
    images: Float[Array, "examples height width inputs"],
    channels: int,
    *,
    size: int,
    stride: int = 1,
    padding: str | int = "SAME",
    bias: bool = True,
    name: str,
    init: str = "lecun_normal",
) -> Float[Array, "examples rows columns channels"]:
    """Apply a convolution with square windows; call it inside a compact module.

    ``padding`` is ``"SAME"``, ``"VALID"``, or the pixels added on every side. With a stride
    ``"SAME"`` is another network than the latter: it pads an even image after its end only.
    """
    kernel_init, bias_init = _initialisers(init, size * size * images.shape[-1])
    return nn.Conv(
        channels,
        (size, size),
        strides=stride,
        padding=padding,
        use_bias=bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        conv_general_dilated=convolution,
        name=name,
    )(images)


def layer_norm(values: Array, *, axes: str = "HWC", name: str) -> Array:
    """Normalise each example, with one gain and bias per channel; call it in a compact module.

    Parameters
    ----------
    values
        ``(examples, units)`` or ``(examples, height, width, channels)``.
    axes
        Of images: ``"HWC"`` for mean and variance over the whole map (as PyTorch networks do), or
        ``"C"`` for each pixel by itself (flax's default).
    name
        Name of the layer.

    Raises
    ------
    ValueError
        If ``axes`` is neither.
    """
    if axes not in ("HWC", "C"):
        raise ValueError(f"Layer norm over axes {axes!r} was asked for. Use 'HWC' or 'C'.")
    over = tuple(range(1, values.ndim)) if axes == "HWC" else (-1,)
    return nn.LayerNorm(epsilon=NORM_EPSILON, reduction_axes=over, feature_axes=-1, name=name)(
        values
    )


def _initialisers(init: str, fan_in: int) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Return initialisers of kernel and bias.

    ``"lecun_normal"``: variance ``1 / fan_in`` and zero biases. ``"uniform_fan_in"``: both uniform
    in ``± 1 / sqrt(fan_in)``, as in the first Atari networks.
    """
    if init == "lecun_normal":
        return nn.initializers.lecun_normal(), nn.initializers.zeros_init()
    if init == "uniform_fan_in":
        bound = 1 / math.sqrt(fan_in)

        def uniform(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return uniform, uniform
    raise ValueError(f"Unknown init {init!r}. Known: lecun_normal, uniform_fan_in.")
