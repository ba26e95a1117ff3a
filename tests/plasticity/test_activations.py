"""Activations found in traced programs, against flax's own capture and hand-written networks."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.errors import ProblemError
from curvlab.networks import MLP, Predict
from curvlab.plasticity import hidden_activations
from curvlab.plasticity.activations import recorder


class Convolutional(nn.Module):
    """Two normalised convolutions, pooling, a rematerialised layer, ReLU as a module."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = nn.Conv(8, (3, 3), name="first")(inputs)
        hidden = self.rectify(nn.LayerNorm(name="norm")(hidden), "relu_first")
        hidden = nn.max_pool(hidden, (2, 2), (2, 2))
        hidden = self.rectify(nn.Conv(6, (3, 3), name="second")(hidden), "relu_second")
        hidden = hidden.reshape(hidden.shape[0], -1)
        hidden = self.rectify(nn.remat(nn.Dense)(7, name="third")(hidden), "relu_third")
        return nn.Dense(3, name="output")(hidden)

    def rectify(self, hidden: jax.Array, name: str) -> jax.Array:
        """Apply ReLU and leave it where the test can see it."""
        hidden = nn.relu(hidden)
        self.sow("intermediates", name, hidden)
        return hidden


def images(examples: int = 5) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (examples, 8, 8, 2))


def test_equals_flax_intermediates() -> None:
    module = Convolutional()
    params = jax.jit(module.init)(jax.random.key(1), images())["params"]
    capture = jax.jit(partial(module.apply, mutable=["intermediates"]))
    _, state = capture({"params": params}, images())
    found = hidden_activations(Predict(module), params, images())
    assert list(found) == ["first", "second", "third"]
    for name, values in found.items():
        (expected,) = state["intermediates"][f"relu_{name}"]
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)


@jax.custom_vjp
def custom_relu(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, 0)


custom_relu.defvjp(lambda x: (jnp.maximum(x, 0), x), lambda x, g: (g * (x > 0),))

SPELLINGS = {
    "jax.nn.relu": jax.nn.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum, zero first": lambda x: jnp.maximum(0.0, x),
    "maximum of an array": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "maximum of a constant": lambda x: jnp.maximum(x, np.zeros(x.shape, np.float32)),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "clip": lambda x: jnp.clip(x, 0),
    "custom_vjp": custom_relu,
    "nested": jax.jit(jax.checkpoint(jax.jit(jax.nn.relu))),
    "vmap": jax.vmap(jax.nn.relu),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_rectifier(spelling: str) -> None:
    def predict(params: dict, inputs: jax.Array) -> jax.Array:
        return SPELLINGS[spelling](inputs @ params["one"]) @ params["two"]

    keys = jax.random.split(jax.random.key(0), 3)
    params = {"one": jax.random.normal(keys[0], (3, 5)), "two": jax.random.normal(keys[1], (5, 2))}
    inputs = jax.random.normal(keys[2], (7, 3))
    found = recorder(predict, (params, inputs))
    assert [(layer.kind, layer.units) for layer in found.layers] == [("rectifier", 5)]
    expected = np.maximum(np.asarray(inputs @ params["one"]), 0)
    np.testing.assert_allclose(found((params, inputs))[0], expected, rtol=1e-6, atol=1e-6)


SMOOTH = {
    "tanh": jnp.tanh,
    "logistic": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
    "tanh-gated": jax.nn.gelu,
    "erfc-gated": lambda x: jax.nn.gelu(x, approximate=False),
}


@pytest.mark.parametrize("kind", SMOOTH)
def test_smooth_activations_are_recorded_whole(kind: str) -> None:
    def predict(weights: jax.Array, inputs: jax.Array) -> jax.Array:
        return SMOOTH[kind](inputs @ weights) @ jnp.ones((4, 2))

    weights = jax.random.normal(jax.random.key(0), (3, 4))
    inputs = jax.random.normal(jax.random.key(1), (6, 3))
    found = recorder(predict, (weights, inputs))
    assert [layer.kind for layer in found.layers] == [kind]
    expected = SMOOTH[kind](inputs @ weights)
    np.testing.assert_allclose(found((weights, inputs))[0], expected, rtol=1e-5, atol=1e-6)


def test_what_is_no_hidden_unit() -> None:
    def predict(params: dict, inputs: jax.Array) -> jax.Array:
        scale = jnp.maximum(params["scale"], 0)  # parameters, not units
        hidden = inputs @ params["weights"]
        variance = jnp.maximum(0.0, jnp.mean(hidden**2, axis=(1,), keepdims=True) - 1.0)
        hidden = hidden / jnp.sqrt(variance + 1.0)  # guards a root
        return jax.nn.relu(jax.nn.softmax(hidden * scale))  # the output itself

    params = {"scale": jnp.ones((3, 3)), "weights": jnp.ones((4, 3))}
    assert recorder(predict, (params, jnp.ones((3, 4)))).layers == ()
    with pytest.raises(ProblemError, match="holds none"):
        hidden_activations(predict, params, jnp.ones((3, 4)))


def test_loops_are_named_as_not_seen() -> None:
    def predict(weights: jax.Array, inputs: jax.Array) -> jax.Array:
        step = lambda hidden, _: (jax.nn.relu(hidden @ weights), None)  # noqa: E731
        return jax.lax.scan(step, inputs, None, length=3)[0]

    with pytest.raises(ProblemError, match="inside scan"):
        hidden_activations(predict, jnp.eye(3), jnp.ones((2, 3)))


def test_one_trace_for_all_checkpoints() -> None:
    traces = []
    predict = Predict(MLP(widths=(4, 5), outputs=2))

    def counted(params: dict, inputs: jax.Array) -> jax.Array:
        traces.append(None)
        return predict(params, inputs)

    inputs = jax.random.normal(jax.random.key(0), (6, 3))
    params = predict.module.init(jax.random.key(0), inputs)["params"]
    for seed in range(4):
        params = predict.module.init(jax.random.key(seed), inputs)["params"]
        found = recorder(counted, (params, inputs))
        assert [layer.name for layer in found.layers] == ["hidden_0", "hidden_1"]
        found((params, inputs))
    assert len(traces) == 1
    # Equal networks share the recorder even when built anew, as they are for every checkpoint.
    again = Predict(MLP(widths=(4, 5), outputs=2))
    assert recorder(again, (params, inputs)) is recorder(predict, (params, inputs))
