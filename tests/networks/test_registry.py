"""Networks by name: values compare, wrong names and settings say what is known."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from curvlab.core.errors import CurvlabError, UnknownNameError
from curvlab.core.specs import Spec
from curvlab.networks import MLP, Predict, build_network
from curvlab.objectives import build_objective, cross_entropy


def test_equal_specs_give_equal_functions_so_that_they_share_compilations():
    spec = Spec("mlp", {"widths": [8, 4], "outputs": 3})
    assert Predict(build_network(spec)) == Predict(build_network(spec))
    assert hash(Predict(build_network(spec))) == hash(Predict(build_network(spec)))
    assert build_network(spec) == MLP(widths=(8, 4), outputs=3)
    assert build_objective(Spec("cross_entropy")) is cross_entropy


def test_mlp_has_lecun_normal_weights_and_zero_biases():
    network = MLP(widths=(400,), outputs=10)
    params: Any = network.init(jax.random.key(0), jnp.zeros((1, 20, 20)))["params"]
    assert params["hidden_0"]["kernel"].shape == (400, 400)
    assert params["hidden_0"]["kernel"].var() == pytest.approx(1 / 400, rel=0.03)
    assert not params["hidden_0"]["bias"].any()


def test_unknown_network_offers_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"Unknown network 'mpl'. Did you mean 'mlp'"):
        build_network(Spec("mpl"))


def test_wrong_settings_say_which_exist():
    with pytest.raises(CurvlabError, match=r"'width'.*It takes widths, outputs"):
        build_network(Spec("mlp", {"width": [3]}))


def test_unknown_objective_offers_the_nearest_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'cross_entropy'"):
        build_objective(Spec("crossentropy"))
