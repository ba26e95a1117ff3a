"""Losses of classification and regression, one value per example."""

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Num

from curvlab.objectives.registry import OBJECTIVES


@OBJECTIVES.register("cross_entropy")
def cross_entropy(
    outputs: Float[Array | np.ndarray, "examples classes"],
    targets: Int[Array | np.ndarray, " examples"],
) -> Float[Array, " examples"]:
    """Softmax cross-entropy ``-log softmax(outputs)[target]`` of integer class labels."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


@OBJECTIVES.register("squared_error")
def squared_error(
    outputs: Float[Array | np.ndarray, "examples *output"],
    targets: Num[Array | np.ndarray, "examples *output"],
) -> Float[Array, " examples"]:
    """Squared error ``mean_c (f_c - y_c)²``: mean over outputs, without a factor ½."""
    squares = jnp.square(jnp.asarray(outputs) - targets)
    return squares.reshape(squares.shape[0], -1).mean(axis=1)


def accuracy(
    outputs: Float[Array | np.ndarray, "examples classes"],
    targets: Int[Array | np.ndarray, " examples"],
) -> Float[Array, " examples"]:
    """Return 1 for each example whose largest output is its label, else 0."""
    return (jnp.argmax(outputs, axis=-1) == targets).astype(outputs.dtype)
