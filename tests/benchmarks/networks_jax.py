"""The benchmark networks in JAX, written as a user would: with the native convolution."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.benchmarks.problems import Arrays, convolutions, residual_blocks


def _convolve(images: Any, kernel: Any, stride: int, padding: Any) -> Any:
    return jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def predictor(spec: dict[str, Any]) -> Callable[[list[Any], Any], Any]:
    """Return ``predict(params, inputs) -> logits`` for weights in the shared order."""

    def dense(hidden: Any, weights: list[Any]) -> Any:
        activation = jnp.tanh if spec.get("activation") == "tanh" else jax.nn.relu
        for index in range(0, len(weights), 2):
            hidden = hidden @ weights[index] + weights[index + 1]
            if index + 2 < len(weights):
                hidden = activation(hidden)
        return hidden

    def predict(params: list[Any], inputs: Any) -> Any:
        if spec["kind"] == "mlp":
            return dense(inputs, params)
        if spec["kind"] == "resnet18":
            return _resnet(inputs, params)
        hidden, weights = inputs, params
        for _, _, _, stride in convolutions(spec):
            kernel, bias, *weights = weights
            hidden = jax.nn.relu(_convolve(hidden, kernel, stride, "VALID") + bias)
        return dense(hidden.reshape(len(hidden), -1), weights)

    return predict


def _resnet(hidden: Any, params: list[Any]) -> Any:
    taken = iter(params)

    def convolve_and_scale(images: Any, stride: int, size: int) -> Any:
        edge = size // 2
        padding = ((edge, edge), (edge, edge))
        return _convolve(images, next(taken), stride, padding) * next(taken) + next(taken)

    hidden = jax.nn.relu(convolve_and_scale(hidden, 1, 3))
    for inside, outside, stride in residual_blocks():
        inner = jax.nn.relu(convolve_and_scale(hidden, stride, 3))
        inner = convolve_and_scale(inner, 1, 3)
        short = hidden
        if stride != 1 or inside != outside:
            short = convolve_and_scale(hidden, stride, 1)
        hidden = jax.nn.relu(inner + short)
    return hidden.mean((1, 2)) @ next(taken) + next(taken)


def mean_loss(spec: dict[str, Any]) -> Callable[[list[Any], Any, Any], Any]:
    """Return the mean cross-entropy as a function of weights, inputs and targets."""
    predict = predictor(spec)

    def loss(params: list[Any], inputs: Any, targets: Any) -> Any:
        logits = jax.nn.log_softmax(predict(params, inputs))
        return -jnp.take_along_axis(logits, targets[:, None], 1).mean()

    return loss


def on_device(arrays: Arrays) -> tuple[list[Any], Any, Any]:
    """Return weights, inputs and targets as JAX arrays."""
    params = [jnp.asarray(p) for p in arrays.params]
    return params, jnp.asarray(arrays.inputs), jnp.asarray(np.asarray(arrays.targets, np.int32))
