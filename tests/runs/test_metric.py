"""A checkpoint's metric comes from its optimiser state and the settings in its spec."""

import jax
import numpy as np
import pytest

from curvlab.core.errors import OperatorError, RunError
from curvlab.core.specs import Spec
from curvlab.curvature import adam_metric
from curvlab.runs import RunWriter, build_optimiser, open_run
from tests.runs.example import NETWORK, OBJECTIVE


def store(path, spec, params, updates, with_state=True):
    """Write a run with one checkpoint after some updates; return its optimiser state."""
    optimiser = build_optimiser(spec)
    state = optimiser.init(params)
    for _ in range(updates):
        _, state = optimiser.update(jax.tree.map(np.ones_like, params), state, params)
    with RunWriter.create(
        path, config={}, network=NETWORK, objective=OBJECTIVE, optimiser=spec
    ) as writer:
        writer.save_checkpoint(updates, params, state if with_state else None)
    return state


def test_adam_with_the_settings_of_the_run(tmp_path, params):
    spec = Spec("adam", {"learning_rate": 1e-3, "b2": 0.9, "eps_root": 1e-3})
    state = store(tmp_path / "run", spec, params, updates=2)
    found = open_run(tmp_path / "run").checkpoint(2).metric()
    expected = adam_metric(state, b1=0.9, b2=0.9, eps=1e-8, eps_root=1e-3)
    jax.tree.map(np.testing.assert_array_equal, found.diagonal, expected.diagonal)
    assert found.name == expected.name


def test_checkpoints_without_a_metric(tmp_path, params, stored_run):
    with pytest.raises(OperatorError, match="before the first update"):
        open_run(stored_run).checkpoint(0).metric()
    store(tmp_path / "sgd", Spec("sgd", {"learning_rate": 1e-3}), params, updates=1)
    with pytest.raises(OperatorError, match=r"'sgd'.*Known: adam, adamw and rmsprop"):
        open_run(tmp_path / "sgd").checkpoint(1).metric()
    adam = Spec("adam", {"learning_rate": 1e-3})
    store(tmp_path / "bare", adam, params, updates=1, with_state=False)
    with pytest.raises(RunError, match=r"holds no optimiser state.*Save it with the checkpoint"):
        open_run(tmp_path / "bare").checkpoint(1).metric()
