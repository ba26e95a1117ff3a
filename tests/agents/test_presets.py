import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from agents.presets import PRESETS, find_preset
from curvlab.core.errors import CurvlabError, UnknownNameError
from curvlab.runs import build_optimiser


def test_the_demo_preset_is_the_case_study_of_the_paper():
    preset = find_preset("random-labels")
    default, tuned = preset.arms["default"], preset.arms["tuned"]
    assert dict(default.optimiser.settings) == {
        "learning_rate": 1e-3,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-9,
    }
    assert dict(tuned.optimiser.settings) == {
        "learning_rate": 1e-3,
        "b1": 0.9,
        "b2": 0.9,
        "eps": 1e-9,
        "eps_root": 1e-3,
    }
    assert (default.data, default.examples, default.batch) == ("digits", 1000, 128)
    assert default.network.settings["widths"] == [256, 256]
    assert (default.tasks, default.steps_per_task, default.total_steps) == (5, 8_000, 40_000)


def test_arms_differ_in_their_optimiser_alone():
    for preset in PRESETS.values():
        configs = [preset.run(arm, 0).to_json() for arm in preset.arms]
        for config in configs:
            del config["arm"], config["optimiser"]
        assert all(config == configs[0] for config in configs)


@pytest.mark.parametrize("name", PRESETS)
def test_configs_are_plain_data(name):
    for arm in PRESETS[name].arms:
        config = PRESETS[name].run(arm, 3).to_json()
        assert json.loads(json.dumps(config)) == config
        assert (config["kind"], config["preset"], config["seed"]) == ("supervised", name, 3)


def test_an_unknown_preset_offers_the_nearest_names():
    with pytest.raises(UnknownNameError, match=r"'random-lables'.*Did you mean 'random-labels'"):
        find_preset("random-lables")


def test_an_unknown_arm_and_an_impossible_seed_are_refused():
    preset = find_preset("random-labels")
    with pytest.raises(UnknownNameError, match=r"'tunned'.*Did you mean 'tuned'"):
        preset.run("tunned", 0)
    with pytest.raises(CurvlabError, match="Seed -1"):
        preset.run("tuned", -1)


def amplification(arm: str, gradient: float, steps: int) -> list[float]:
    """Step length over learning rate, k updates after a gradient of zero becomes constant."""
    optimiser = build_optimiser(find_preset("random-labels").arms[arm].optimiser)
    params = jnp.zeros(())
    state = optimiser.init(params)
    # Long before the switch the gradient was zero, and bias correction has worn off.
    state = (state[0]._replace(count=jnp.array(10_000_000, jnp.int32)), *state[1:])  # type: ignore
    lengths = []
    for _ in range(steps):
        update, state = optimiser.update(jnp.array(gradient), state, params)
        lengths.append(abs(np.asarray(update).item()) / 1e-3)
    return lengths


def test_default_adam_amplifies_a_sudden_gradient_as_the_closed_form_says():
    measured = amplification("default", gradient=1.0, steps=100)
    expected = [(1 - 0.9**k) / math.sqrt(1 - 0.999**k) for k in range(1, 101)]
    assert measured == pytest.approx(expected, rel=2e-4)
    assert measured[0] == pytest.approx(3.16, abs=0.01)
    assert max(measured) == measured[11] == pytest.approx(6.57, abs=0.01)
    assert measured[-1] == pytest.approx(3.2, abs=0.05)


def test_tuned_adam_does_not_amplify():
    large = amplification("tuned", gradient=1e3, steps=100)
    assert large == pytest.approx([math.sqrt(1 - 0.9**k) for k in range(1, 101)], rel=2e-4)
    # Far below sqrt(eps_root) it is gradient descent with a learning rate of 1e-3 / sqrt(1e-3).
    small = amplification("tuned", gradient=1e-4, steps=100)
    assert small[-1] == pytest.approx(1e-4 / math.sqrt(1e-3), rel=1e-3)
