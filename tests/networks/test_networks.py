"""Networks: known parameter counts, shapes, state as data, and every example by itself."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.specs import Spec
from curvlab.curvature import Problem
from curvlab.networks import (
    CNN,
    MLP,
    AtariNetwork,
    AtariTorso,
    Predict,
    ResNet,
    build_network,
    initialise,
)
from curvlab.networks.atari_heads import NoisyDense
from curvlab.networks.layers import ACTIVATIONS
from curvlab.objectives import squared_error
from curvlab.plasticity import units

FRAMES, SMALL, IMAGES = (2, 84, 84, 4), (2, 42, 42, 4), (2, 32, 32, 3)


def shapes(network, inputs):
    return jax.eval_shape(
        lambda key: initialise(network, key, jnp.zeros(inputs)), jax.random.key(0)
    )


def parameters(network, inputs):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(network, inputs)[0]))


def draw(network, inputs) -> Any:
    """Return random parameters and state without compiling the network's own initialisers."""
    rng = np.random.default_rng(0)

    def leaf(shape):
        return jnp.asarray(rng.uniform(-1, 1, shape.shape) * shape.size**-0.25, jnp.float32)

    params, state = jax.tree.map(leaf, shapes(network, inputs))
    if state is not None and "batch_stats" in state:
        state = jax.tree.map(lambda leaf: 1 + 0.1 * jnp.abs(leaf), state)
    return params, state


def apply(network, params, inputs, state=None) -> Any:
    return jax.jit(Predict(network))(params, inputs, state)


TORSO = 8 * 8 * 4 * 32 + 32 + 4 * 4 * 32 * 64 + 64 + 3 * 3 * 64 * 64 + 64 + 3136 * 512 + 512


@pytest.mark.parametrize(
    ("network", "inputs", "expected"),
    [
        (AtariTorso(), FRAMES, 1_684_128),
        (AtariNetwork(), FRAMES, TORSO + 512 * 6 + 6),
        (AtariNetwork(shared_bias=True), FRAMES, TORSO + 512 * 6 + 1),
        (AtariNetwork(atoms=51), FRAMES, TORSO + 513 * 6 * 51),
        (AtariNetwork(dueling=True), FRAMES, TORSO + 3136 * 512 + 512 + 513 * 7),
        (
            AtariNetwork(dueling=True, noisy=True, atoms=51),
            FRAMES,
            TORSO - 3137 * 512 + 2 * (2 * 3137 * 512 + 513 * 7 * 51),
        ),
        (AtariNetwork(padding="SAME", actions=4), FRAMES, TORSO + (7744 - 3136) * 512 + 513 * 4),
        (
            AtariNetwork(torso="small42"),
            SMALL,
            145 * 16 + (16 * 16 + 1) * 32 + (5 * 5 * 32 + 1) * 128 + 129 * 6,
        ),
        (AtariTorso(layer_norm=True), FRAMES, TORSO + 2 * (32 + 64 + 64 + 512)),
        (ResNet(), IMAGES, 11_173_962),
        (ResNet(norm="group"), IMAGES, 11_173_962),
        (CNN(), IMAGES, 76 * 64 + 577 * 64 + 4097 * 256 + 257 * 256 + 257 * 10),
    ],
)
def test_parameter_counts(network, inputs, expected):
    assert parameters(network, inputs) == expected


@pytest.mark.parametrize(
    ("spec", "inputs", "outputs"),
    [
        (Spec("mlp", {"widths": [8], "layer_norm": True}), (2, 8, 8), (2, 10)),
        (Spec("cnn", {"channels": [4, 4], "widths": [8]}), (2, 8, 8, 1), (2, 10)),
        (Spec("resnet", {"width": 8, "blocks": [1, 1], "norm": "layer"}), (2, 8, 8, 3), (2, 10)),
        (Spec("atari", {"torso": "small42", "atoms": 51}), SMALL, (2, 6, 51)),
        (Spec("atari", {"torso": "small42", "dueling": True, "width": 0.5}), SMALL, (2, 6)),
    ],
)
def test_specs_build_networks_whose_values_compare(spec, inputs, outputs):
    network = build_network(spec)
    assert Predict(network) == Predict(build_network(spec))
    params, state = draw(network, inputs)
    assert state is None
    assert apply(network, params, jnp.ones(inputs)).shape == outputs


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_gives_finite_outputs(activation):
    network = CNN(channels=(4,), sizes=(3,), strides=(2,), widths=(6,), activation=activation)
    params, _ = draw(network, (1, 8, 8, 1))
    assert jnp.isfinite(apply(network, params, jnp.ones((3, 8, 8, 1)))).all()


def test_uniform_weights_and_biases_fill_their_range():
    network = AtariTorso(initial_weights="uniform_fan_in", shape="small42")
    params: Any = initialise(network, jax.random.key(0), jnp.zeros(SMALL))[0]
    for layer, fan_in in (("conv_1", 4 * 4 * 16), ("features", 5 * 5 * 32)):
        for leaf in params[layer].values():
            assert 0.8 < float(jnp.abs(leaf).max()) * fan_in**0.5 <= 1


def test_integer_frames_are_scaled():
    network = AtariNetwork(torso="small42")
    params, _ = draw(network, SMALL)
    frames = np.random.default_rng(0).integers(0, 256, SMALL).astype(np.uint8)
    expected = apply(network, params, jnp.asarray(frames / 255, jnp.float32))
    np.testing.assert_allclose(apply(network, params, frames), expected, atol=1e-6)


def test_batch_norm_uses_running_statistics_so_that_examples_do_not_mix():
    network = ResNet(blocks=(1,), width=4)
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8, 8, 3)), jnp.float32)
    params, state = draw(network, inputs.shape)
    variables = {"params": params, **state}
    step = jax.jit(partial(network.apply, train=True, mutable=["batch_stats"]))
    trained, update = step(variables, inputs)
    outputs = apply(network, params, inputs, update)
    np.testing.assert_allclose(outputs[:1], apply(network, params, inputs[:1], update), atol=1e-5)
    assert float(jnp.abs(outputs - apply(network, params, inputs, state)).max()) > 1e-3
    assert float(jnp.abs(outputs - trained).max()) > 1e-3


def test_strided_residual_blocks_pad_every_side():
    # "SAME" would pad an even image after its end only, which is another network.
    network = ResNet(blocks=(0, 1), width=4, norm="none")
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    params, _ = draw(network, inputs.shape)
    found: Any = network.apply({"params": params}, inputs, capture_intermediates=True)
    layers = found[1]["intermediates"]
    hidden = jax.nn.relu(layers["stem_conv"]["__call__"][0])
    for unit, pad in (("first", 1), ("shortcut", 0)):
        layer = params[f"stage_1_block_0_{unit}_conv"]
        expected = jax.lax.conv_general_dilated(
            hidden,
            layer["kernel"],
            (2, 2),
            ((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        outputs = layers[f"stage_1_block_0_{unit}_conv"]["__call__"][0]
        np.testing.assert_allclose(outputs, expected + layer["bias"], atol=1e-5)


def test_noise_is_data_and_its_absence_the_mean():
    network = AtariNetwork(torso="small42", dueling=True, noisy=True, width=0.25)
    inputs = jnp.ones(SMALL)
    params, state = draw(network, inputs.shape)
    noisy = apply(network, params, inputs, state)
    silent = apply(network, params, inputs, jax.tree.map(jnp.zeros_like, state))
    np.testing.assert_array_equal(apply(network, params, inputs), silent)
    np.testing.assert_array_equal(apply(network, params, inputs, state), noisy)
    assert float(jnp.abs(noisy - silent).max()) > 1e-3
    # Against the definition, on one layer.
    layer, noise = params["head"]["value"], state["noise"]["head"]["value"]
    kernel = layer["kernel"] + layer["kernel_sigma"] * np.outer(noise["in"], noise["out"])
    bias = layer["bias"] + layer["bias_sigma"] * noise["out"]
    values = np.random.default_rng(1).normal(size=(5, kernel.shape[0])).astype(np.float32)
    found: Any = NoisyDense(1).apply({"params": layer, "noise": noise}, jnp.asarray(values))
    np.testing.assert_allclose(found, values @ kernel + bias, atol=1e-5)


def test_a_dueling_head_centres_its_advantages():
    network = AtariNetwork(torso="small42", dueling=True)
    params, _ = draw(network, SMALL)
    params = dict(params)
    params["head"] = {
        name: jax.tree.map(jnp.zeros_like, leaf) if name == "value" else leaf
        for name, leaf in params["head"].items()
    }
    outputs = apply(network, params, jnp.ones(SMALL))
    np.testing.assert_allclose(outputs.mean(axis=1), 0, atol=1e-6)


def test_settings_that_contradict_each_other_are_refused():
    for network in (AtariNetwork(noisy=True), AtariNetwork(shared_bias=True, atoms=3)):
        with pytest.raises(ValueError, match="Noise goes with a dueling head"):
            shapes(network, FRAMES)
    with pytest.raises(ValueError, match="Use 'batch', 'group', 'layer' or 'none'"):
        shapes(ResNet(norm="instance"), IMAGES)


def test_layer_norm_runs_over_the_stated_axes():
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    for axes, over in (("HWC", (1, 2, 3)), ("C", (3,))):
        network = CNN(channels=(4,), sizes=(3,), strides=(1,), layer_norm=True, norm_axes=axes)
        params, _ = draw(network, inputs.shape)
        record = jax.jit(partial(network.apply, capture_intermediates=True))
        _, seen = record({"params": params}, inputs)
        normal = seen["intermediates"]["conv_norm_0"]["__call__"][0]
        gain, shift = params["conv_norm_0"]["scale"], params["conv_norm_0"]["bias"]
        normal = (normal - shift) / gain
        np.testing.assert_allclose(normal.mean(axis=over), 0, atol=1e-4)
        np.testing.assert_allclose(normal.var(axis=over), 1, atol=2e-2)


def test_hidden_units_of_convolutions_are_found_and_named():
    network = CNN(channels=(4, 6), sizes=(4, 3), widths=(8,), outputs=2)
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 12, 12, 1)), jnp.float32)
    params, _ = draw(network, inputs.shape)
    params["conv_1"]["bias"] = jnp.asarray([-1e3, -1e3, 1e3, 0, 0, 0])
    found = units(Problem(Predict(network), squared_error, params, (inputs, jnp.zeros((5, 2)))))
    assert [(entry.layer.name, entry.layer.units) for entry in found.layers] == [
        ("conv_0", 4),
        ("conv_1", 6),
        ("hidden_0", 8),
    ]
    assert found.layers[1].dead == 2


def test_mlp_normalises_before_its_activation():
    network = MLP(widths=(5,), layer_norm=True, activation="tanh")
    params: Any = draw(network, (1, 3))[0]
    inputs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    host = jax.tree.map(np.asarray, params)
    before = inputs @ host["hidden_0"]["kernel"] + host["hidden_0"]["bias"]
    normal = (before - before.mean(1, keepdims=True)) / np.sqrt(before.var(1, keepdims=True) + 1e-5)
    normal = normal * host["norm_0"]["scale"] + host["norm_0"]["bias"]
    expected = np.tanh(normal) @ host["output"]["kernel"] + host["output"]["bias"]
    np.testing.assert_allclose(apply(network, params, inputs), expected, atol=1e-5)
