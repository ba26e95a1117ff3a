"""Matrices by name, those of other packages included."""

from importlib import metadata

import jax.numpy as jnp
import pytest

import curvlab.core.registry
from curvlab.core.errors import UnknownNameError
from curvlab.curvature import OPERATORS, GaussNewton, Problem, operator_of
from curvlab.objectives import squared_error

PROBLEM = Problem(
    lambda w, x: x @ w, squared_error, jnp.ones((3, 2)), (jnp.eye(3), jnp.ones((3, 2)))
)


def test_every_built_in_matrix_that_this_loss_allows_is_made():
    for name in ("empirical_fisher", "gauss_newton", "gradient_covariance", "hessian", "residual"):
        assert name in OPERATORS
        assert operator_of(name, PROBLEM).dim == 6


def test_another_package_offers_a_matrix_by_entry_point(monkeypatch):
    class Offered(GaussNewton):
        pass

    point = metadata.EntryPoint("theirs", "a:b", "curvlab.operators")
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda self: Offered)
    monkeypatch.setattr(
        curvlab.core.registry,
        "entry_points",
        lambda **wanted: metadata.EntryPoints([point]).select(**wanted),
    )
    monkeypatch.setattr(OPERATORS, "_entries", dict(OPERATORS._entries))
    assert "theirs" in OPERATORS
    assert isinstance(operator_of("theirs", PROBLEM), Offered)


def test_an_unknown_matrix_offers_the_nearest_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'hessian'"):
        operator_of("hesian", PROBLEM)
