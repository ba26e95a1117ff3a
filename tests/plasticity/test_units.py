"""Dead, dormant and linearised units of networks whose answer is known by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvlab.curvature import Problem
from curvlab.objectives import squared_error
from curvlab.plasticity import activations, units

EXAMPLES, INPUTS, WIDTH = 12, 3, 8


def two_layers(params: dict, inputs: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(inputs @ params["a"]["kernel"] + params["a"]["bias"])
    hidden = jax.nn.relu(hidden @ params["b"]["kernel"] + params["b"]["bias"])
    return hidden @ params["out"]


def problem_of(predict, params, inputs) -> Problem:
    targets = np.zeros(jax.eval_shape(predict, params, inputs).shape, np.float32)
    return Problem(predict, squared_error, params, (inputs, targets))


def parameters(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return {
        "a": {"kernel": draw(INPUTS, WIDTH), "bias": draw(WIDTH)},
        "b": {"kernel": draw(WIDTH, WIDTH), "bias": draw(WIDTH)},
        "out": draw(WIDTH, 2),
    }


def probe(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (EXAMPLES, INPUTS)).astype(np.float32)


@given(st.integers(0, 2**16), st.integers(0, WIDTH), st.integers(0, WIDTH))
def test_dead_fraction_is_exact(seed: int, dead_a: int, dead_b: int) -> None:
    params = parameters(seed)
    for layer, count in (("a", dead_a), ("b", dead_b)):
        # |inputs| ≤ 1 and weights of a few units: a bias of ∓1000 kills or linearises for certain.
        params[layer]["bias"] = np.where(np.arange(WIDTH) < count, -1e3, 1e3).astype(np.float32)
        params[layer]["kernel"] = np.clip(params[layer]["kernel"], -0.01, 0.01)
    found = units(problem_of(two_layers, params, probe()))
    assert [entry.dead for entry in found.layers] == [dead_a, dead_b]
    assert found.dead_fraction == (dead_a + dead_b) / (2 * WIDTH)
    assert found.linearised_fraction == 1 - found.dead_fraction
    assert found.reason == ""


def test_one_example_makes_a_unit_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "EXAMPLES_PER_CALL", 5)  # 12 examples in three pieces
    predict = lambda weights, inputs: jax.nn.relu(inputs @ weights) @ jnp.ones((2, 1))  # noqa: E731
    for position in range(EXAMPLES):
        inputs = -np.ones((EXAMPLES, 2), np.float32)
        inputs[position, 0] = 1e-6
        found = units(problem_of(predict, np.eye(2, dtype=np.float32), inputs))
        assert found.layers[0].dead == 1
        expected = np.array([1e-6 / EXAMPLES, 0])
        np.testing.assert_allclose(found.layers[0].mean_magnitude, expected, rtol=1e-5)


@given(st.integers(0, 2**16), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_dormancy_ignores_positive_layer_scales(seed: int, one: float, two: float) -> None:
    params = parameters(seed)
    scaled = {
        "a": {name: np.float32(one) * leaf for name, leaf in params["a"].items()},
        "b": {
            "kernel": np.float32(two / one) * params["b"]["kernel"],
            "bias": np.float32(two) * params["b"]["bias"],
        },
        "out": params["out"],
    }
    # tau = 0.5 puts many units near enough to matter, unlike the default at random weights.
    before = units(problem_of(two_layers, params, probe(seed)), tau=0.5)
    after = units(problem_of(two_layers, scaled, probe(seed)), tau=0.5)
    for left, right in zip(before.layers, after.layers, strict=True):
        scores = left.mean_magnitude / left.mean_magnitude.mean()
        if np.abs(scores - 0.5).min() > 1e-4:
            assert left.dormant(0.5) == right.dormant(0.5)
        assert left.dead == right.dead


def test_dormancy_by_hand() -> None:
    predict = lambda weights, inputs: jax.nn.relu(inputs @ weights) @ jnp.ones((4, 1))  # noqa: E731
    # E|h| = 0, 0.02, 1, 2.98: mean 1, scores the same; tau = 0.025 takes the first two.
    weights = np.diag(np.array([-1, 0.02, 1, 2.98], np.float32))
    found = units(problem_of(predict, weights, np.ones((EXAMPLES, 4), np.float32)))
    assert (found.dormant_fraction, found.dead_fraction) == (0.5, 0.25)
    nothing = units(problem_of(predict, 0 * weights, np.ones((EXAMPLES, 4), np.float32)))
    assert (nothing.dormant_fraction, nothing.dead_fraction) == (1.0, 1.0)


def test_a_channel_is_dead_only_if_dead_at_all_positions() -> None:
    def predict(params: dict, inputs: jax.Array) -> jax.Array:
        window = ("NHWC", "HWIO", "NHWC")
        hidden = jax.lax.conv_general_dilated(
            inputs, params["kernel"], (1, 1), "SAME", dimension_numbers=window
        )
        return jax.nn.relu(hidden + params["bias"]).mean(axis=(1, 2))

    params = {
        "kernel": np.ones((1, 1, 1, 3), np.float32),
        "bias": np.array([0, -0.5, -2], np.float32),
    }
    inputs = np.zeros((EXAMPLES, 4, 4, 1), np.float32)
    inputs[7, 3, 2, 0] = 1.0  # one pixel of one example: channels 0 and 1 answer there alone
    found = units(problem_of(predict, params, inputs))
    assert found.layers[0].layer.name == "kernel"
    assert found.layers[0].dead == 1
    assert found.dead_fraction == 1 / 3


def test_networks_without_rectifiers_say_so() -> None:
    tanh = lambda weights, inputs: jnp.tanh(inputs @ weights) @ jnp.ones((2, 1))  # noqa: E731
    found = units(problem_of(tanh, np.eye(2, dtype=np.float32), np.ones((4, 2), np.float32)))
    assert np.isnan(found.dead_fraction)
    assert found.dormant_fraction == 0
    assert "tanh" in found.reason
    linear = lambda weights, inputs: inputs @ weights  # noqa: E731
    found = units(problem_of(linear, np.eye(2, dtype=np.float32), np.ones((4, 2), np.float32)))
    assert np.isnan([found.dead_fraction, found.dormant_fraction]).all()
    assert "holds none" in found.reason
