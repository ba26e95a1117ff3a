"""Optimisers are rebuilt from their specs, and wrong specs are explained."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from curvlab.core.errors import RunError, UnknownNameError
from curvlab.core.specs import Spec
from curvlab.runs import OPTIMISERS, build_optimiser


def update(optimiser: optax.GradientTransformation, params: jax.Array) -> Any:
    return optimiser.update(params, optimiser.init(params), params)[0]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_listed_name_is_an_optimiser(name):
    needs = inspect.signature(getattr(optax, name)).parameters
    settings = {"learning_rate": 0.1} if "learning_rate" in needs else {}
    params = jnp.ones((3, 2))
    assert update(build_optimiser(Spec(name, settings)), params).shape == (3, 2)


def test_settings_reach_optax():
    found = build_optimiser(Spec("adam", {"learning_rate": 0.5, "b1": 0.0, "eps_root": 1e-3}))
    expected = optax.adam(0.5, b1=0.0, eps_root=1e-3)
    assert jnp.array_equal(update(found, jnp.ones(2)), update(expected, jnp.ones(2)))


def test_unknown_names_offer_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'adamw'"):
        build_optimiser(Spec("adamww"))


@pytest.mark.parametrize("settings", [{}, {"learning_rate": 1.0, "beta2": 0.9}])
def test_wrong_settings_are_explained(settings):
    with pytest.raises(RunError, match=r"keyword arguments of optax\.adam: learning_rate, b1, b2"):
        build_optimiser(Spec("adam", settings))
