"""Loss, accuracy and weight norms against NumPy."""

import jax
import numpy as np
import pytest

from curvlab.core.errors import UnknownNameError
from curvlab.curvature import Problem
from curvlab.objectives import cross_entropy, squared_error
from curvlab.plasticity import DIAGNOSTICS, Diagnostic, performance, weights


def linear(params: jax.Array, inputs: jax.Array) -> jax.Array:
    return inputs @ params


def test_loss_and_accuracy_over_uneven_batches() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(20, 3)).astype(np.float32)
    labels = rng.integers(0, 4, 20)
    params = rng.normal(size=(3, 4)).astype(np.float32)
    outputs = inputs.astype(np.float64) @ params
    expected = np.log(np.exp(outputs).sum(axis=1)) - outputs[np.arange(20), labels]
    batches = [(inputs[a:b], labels[a:b]) for a, b in ((0, 7), (7, 8), (8, 20))]
    for batch in ((inputs, labels), batches):
        found = performance(Problem(linear, cross_entropy, params, batch))
        assert found.loss == pytest.approx(expected.mean(), rel=1e-6)
        assert found.accuracy == pytest.approx((outputs.argmax(axis=1) == labels).mean())
        assert (found.examples, found.reason) == (20, "")


def test_regression_has_no_accuracy() -> None:
    data = (np.ones((5, 3), np.float32), np.zeros((5, 2), np.float32))
    found = performance(Problem(linear, squared_error, np.ones((3, 2), np.float32), data))
    assert found.loss == pytest.approx(9)
    assert np.isnan(found.accuracy)
    assert "no class labels" in found.reason


def test_weight_norms() -> None:
    params = {"a": {"kernel": np.full((2, 2), 2, np.float32)}, "b": np.full(9, 1e-30, np.float32)}
    found = weights(params)
    assert found.norm == pytest.approx(4)
    assert found.norm_by_path == {"a/kernel": pytest.approx(4), "b": pytest.approx(3e-30)}


def test_registry() -> None:
    for name in ("performance", "units", "weights", "ranks"):
        diagnostic = DIAGNOSTICS[name]()
        assert isinstance(diagnostic, Diagnostic)
        assert diagnostic.name == name
        assert diagnostic.products(10**6) == 0
    with pytest.raises(UnknownNameError, match="Did you mean 'units'"):
        DIAGNOSTICS["unit"]
