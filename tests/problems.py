"""Small problems shared by tests: an MLP of 3,466 parameters on digits, with a dense oracle."""

import itertools
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from curvlab.curvature import Problem
from curvlab.objectives import cross_entropy
from tests.oracles import dense_mlp

SIZES = (64, 32, 32, 10)


def predict(params, inputs):
    """Apply an MLP with tanh units given as a list of (weight, bias)."""
    hidden = inputs
    for index, (weight, bias) in enumerate(params):
        hidden = hidden @ weight + bias
        if index < len(params) - 1:
            hidden = jnp.tanh(hidden)
    return hidden


def init(sizes, seed=0):
    """Draw LeCun-normal weights and zero biases in float32."""
    rng = np.random.default_rng(seed)
    return [
        (
            jnp.asarray(rng.normal(size=(i, o)) / np.sqrt(i), jnp.float32),
            jnp.zeros(o, jnp.float32),
        )
        for i, o in itertools.pairwise(sizes)
    ]


@cache
def digits(examples):
    """Return the first scikit-learn digits, scaled to [0, 1], in float32."""
    data: Any = load_digits()
    return (data.data[:examples] / 16).astype(np.float32), data.target[:examples]


@cache
def trained(steps, examples=100):
    """Return parameters after full-batch Adam on digits."""
    inputs, targets = digits(examples)
    params = init(SIZES)
    optimiser = optax.adam(1e-2)

    def loss(point):
        return cross_entropy(predict(point, inputs), targets).mean()

    @jax.jit
    def step(carry, _):
        point, state = carry
        updates, state = optimiser.update(jax.grad(loss)(point), state)
        return (optax.apply_updates(point, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), length=steps)
    return params


def problem(steps=60, examples=100, dtype: Any = np.float32):
    """Return the digits problem at a trained point; call it inside `float64()` for float64."""
    inputs, targets = digits(examples)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf), dtype), trained(steps, examples)
    )
    return Problem(predict, cross_entropy, params, (inputs.astype(dtype), targets))


def flat(params):
    """Return parameters as one float64 vector on the host, weight and bias layer by layer."""
    return np.concatenate(
        [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)]
    )


@cache
def dense(steps, examples=100, sizes=SIZES):
    """Return eigenvalues (ascending) and matrix of the dense Hessian, built without JAX."""
    inputs, targets = digits(examples)
    matrix = dense_mlp.hessian(
        flat(trained(steps, examples)), inputs.astype(np.float64), targets, sizes, "tanh"
    )
    return np.linalg.eigvalsh(matrix), matrix
