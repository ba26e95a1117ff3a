"""Metrics reproduce the steps of optax, and make curvature scale-invariant."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from curvlab.core.errors import OperatorError
from curvlab.curvature import (
    Hessian,
    Metric,
    Problem,
    adam_metric,
    rmsprop_metric,
    weight_norm_metric,
)
from curvlab.curvature.metric import optimiser_metric
from curvlab.objectives import cross_entropy
from tests.oracles import dense_curvature as dense

LR = 3e-2


def run(optimiser: Any, steps: int = 4) -> tuple[Any, Any, Any]:
    """Return the last update, the gradient before it, and the state after it."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dense.PARAMS)
    state, update = optimiser.init(params), jax.jit(optimiser.update)
    rng = np.random.default_rng(0)
    updates = gradient = None
    for _ in range(steps):
        gradient = jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 1e-2, leaf.dtype), params
        )
        updates, state = update(gradient, state, params)
    return updates, gradient, state


def assert_steps_by(metric, updates, direction, rtol=2e-5):
    """Check ``update = -LR × direction / P`` leaf by leaf."""
    expected = jax.tree.map(lambda d, p: -LR * np.asarray(d) / p, direction, metric.diagonal)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol), updates, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0},
        {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "eps_root": 1e-5},
    ],
)
def test_adam_moves_by_its_first_moment_over_the_metric(settings):
    updates, _, state = run(optax.adam(LR, **settings))
    metric = adam_metric(state, **settings)
    assert_steps_by(metric, updates, state[0].mu)
    assert f"eps_root={settings['eps_root']:g}, 4 updates" in metric.name


def test_adam_is_found_inside_chains_and_wrappers():
    settings: dict[str, Any] = {"b1": 0.9, "b2": 0.99, "eps": 1e-6, "eps_root": 1e-6}
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(LR, **settings))
    plain = run(optax.adam(LR, **settings))[2]
    expected = adam_metric(plain, **settings)
    for optimiser in (inner, optax.apply_if_finite(optax.adam(LR, **settings), 3)):
        found = adam_metric(run(optimiser)[2], **settings)
        jax.tree.map(np.testing.assert_allclose, found.diagonal, expected.diagonal)


def test_a_state_restored_without_its_types():
    settings: dict[str, Any] = {"b1": 0.9, "b2": 0.99, "eps": 1e-6, "eps_root": 0.0}
    state = run(optax.adam(LR, **settings))[2]
    plain = [state[0]._asdict(), {}]
    np.testing.assert_array_equal(
        jax.tree.leaves(adam_metric(plain, **settings).diagonal)[0],
        jax.tree.leaves(adam_metric(state, **settings).diagonal)[0],
    )


@pytest.mark.parametrize("eps_in_sqrt", [True, False])
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_rmsprop_moves_by_the_gradient_over_the_metric(eps_in_sqrt, centered, bias_correction):
    optimiser = optax.rmsprop(
        LR,
        decay=0.8,
        eps=1e-3,
        eps_in_sqrt=eps_in_sqrt,
        centered=centered,
        bias_correction=bias_correction,
    )
    updates, gradient, state = run(optimiser)
    metric = rmsprop_metric(state, eps=1e-3, eps_in_sqrt=eps_in_sqrt, decay=0.8)
    assert_steps_by(metric, updates, gradient, rtol=1e-4)
    assert ("centred" in metric.name) == centered
    if bias_correction:
        with pytest.raises(OperatorError, match=r"bias-corrected.*Pass decay="):
            rmsprop_metric(state, eps=1e-3)


def test_settings_of_an_alias_and_its_defaults():
    state = run(optax.adam(LR, b2=0.9, eps_root=1e-3))[2]
    named = optimiser_metric("adam", {"learning_rate": LR, "b2": 0.9, "eps_root": 1e-3}, state)
    explicit = adam_metric(state, b1=0.9, b2=0.9, eps=1e-8, eps_root=1e-3)
    jax.tree.map(np.testing.assert_array_equal, named.diagonal, explicit.diagonal)
    state = run(optax.rmsprop(LR))[2]
    named = optimiser_metric("rmsprop", {"learning_rate": LR}, state)
    assert named.name == "RMSProp metric (eps=1e-08 inside the root)"
    for name, settings in (("sgd", {}), ("adam", {"nesterov": True})):
        with pytest.raises(OperatorError, match=rf"'{name}'.*Known: adam, adamw and rmsprop"):
            optimiser_metric(name, settings, state)


def test_states_that_give_no_metric():
    params = {"w": jnp.ones(3)}
    settings: dict[str, Any] = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0}
    with pytest.raises(OperatorError, match="before the first update"):
        adam_metric(optax.adam(LR).init(params), **settings)
    with pytest.raises(OperatorError, match="exactly one Adam state, found 0"):
        adam_metric(optax.sgd(LR).init(params), **settings)
    with pytest.raises(OperatorError, match="exactly one Adam state, found 0"):
        adam_metric(optax.adabelief(LR).init(params), **settings)
    with pytest.raises(OperatorError, match="found 2"):
        adam_metric(optax.chain(optax.adam(LR), optax.adam(LR)).init(params), **settings)


def problem(params, **changes):
    return Problem(dense.predict, cross_entropy, params, (dense.INPUTS, dense.LABELS), **changes)


def test_metrics_that_do_not_fit_the_parameters():
    op = Hessian(problem(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), dense.PARAMS)))
    ones = jax.tree.map(np.ones_like, dense.PARAMS)
    with pytest.raises(OperatorError, match=r"'head/bias' of shape \(3,\), found no such entry"):
        op.in_metric(Metric({"head": {"kernel": np.ones((3, 3))}}, "part"))
    with pytest.raises(OperatorError, match=r"shape \(3,\), found shape \(2,\)"):
        op.in_metric(Metric({**ones, "head": {**ones["head"], "bias": np.ones(2)}}, "part"))
    with pytest.raises(OperatorError, match=r"1 of 3 entries of 'head/bias'.*not positive"):
        op.in_metric(
            Metric({**ones, "head": {**ones["head"], "bias": np.array([1.0, 0, 1])}}, "zero")
        )


def test_sharpness_in_weight_norms_does_not_see_the_scale_of_the_weights(x64):
    def normalised(params, inputs):
        scaled = {
            name: {
                "kernel": layer["kernel"] / jnp.linalg.norm(layer["kernel"]),
                "bias": layer["bias"] / jnp.linalg.norm(layer["bias"]),
            }
            for name, layer in params.items()
        }
        return 3 * dense.predict(scaled, inputs)

    def both(scale):
        point = jax.tree.map(jnp.asarray, dense.PARAMS)
        point = {**point, "hidden_0": jax.tree.map(lambda leaf: scale * leaf, point["hidden_0"])}
        op = Hessian(Problem(normalised, cross_entropy, point, (dense.INPUTS, dense.LABELS)))
        raw, scaled = op.to_dense(), op.in_metric(weight_norm_metric(point)).to_dense()
        return np.linalg.eigvalsh(raw), np.linalg.eigvalsh(scaled)

    (raw, invariant), (raw_after, invariant_after) = both(1.0), both(0.2)
    np.testing.assert_allclose(invariant_after, invariant, atol=1e-12)
    assert raw_after[-1] > 2 * raw[-1]


def test_tensors_without_a_norm_have_no_rows(x64):
    point = jax.tree.map(jnp.asarray, dense.PARAMS)
    point["head"]["bias"] = jnp.zeros(3)
    dense_matrix = Hessian(problem(point)).in_metric(weight_norm_metric(point)).to_dense()
    bias = dense.rows("head/bias")
    assert not dense_matrix[bias].any()
    norms = np.concatenate(
        [np.full(leaf.size, np.linalg.norm(leaf)) for leaf in jax.tree.leaves(point)]
    )
    expected = norms[:, None] * Hessian(problem(point)).to_dense() * norms
    np.testing.assert_allclose(dense_matrix, expected, atol=1e-13)
