"""Sharpness and stability against dense matrices and against optimisers that run away."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from curvlab.analysis import DIAGNOSTICS, Stability, analyze, stability, stability_limit
from curvlab.core.errors import OperatorError
from curvlab.core.specs import Spec
from curvlab.curvature import Hessian
from curvlab.networks import Predict, build_network
from curvlab.objectives import cross_entropy
from curvlab.runs import Run, RunWriter, open_run

NETWORK = Spec("mlp", {"widths": [6], "outputs": 3})
ADAM = {"learning_rate": 0.02, "b1": 0.8, "b2": 0.95, "eps": 1e-3}


def train(path: Path, optimiser: Spec, steps: tuple[int, ...]) -> Run:
    """Train a tiny network with an optax alias and store checkpoints with optimiser states."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(40, 5)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 3, 40), jnp.int32)
    predict = Predict(build_network(NETWORK))
    params: Any = predict.module.init(jax.random.key(0), inputs)["params"]
    transform = getattr(optax, optimiser.name)(**optimiser.settings)
    state = transform.init(params)
    gradient = jax.jit(jax.grad(lambda p: cross_entropy(predict(p, inputs), targets).mean()))
    objective = Spec("cross_entropy")
    with RunWriter.create(
        path, config={}, network=NETWORK, objective=objective, optimiser=optimiser
    ) as writer:
        writer.write_probe_set("data", np.asarray(inputs), np.asarray(targets))
        for step in range(max(steps) + 1):
            if step in steps:
                writer.save_checkpoint(step, params, state, probes={"current": "data"})
            updates, state = transform.update(gradient(params), state, params)
            params = optax.apply_updates(params, updates)
    return open_run(path)


@pytest.fixture(scope="module")
def adam(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("adam") / "run", Spec("adam", ADAM), (0, 15))


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def largest(matrix: np.ndarray) -> float:
    return float(np.linalg.eigvalsh(matrix)[-1])


def test_all_three_against_dense_matrices(adam: Run) -> None:
    checkpoint = adam.checkpoint(15)
    found = stability(checkpoint, jax.random.key(1))
    dense = Hessian(checkpoint.problem()).to_dense().astype(np.float64)
    assert found.sharpness.low <= largest(dense) <= found.sharpness.high
    norms = jax.tree.map(lambda w: np.full(w.shape, np.linalg.norm(w)), checkpoint.params)
    scaled = flat(norms)[:, None] * dense * flat(norms)
    invariant = found.scale_invariant_sharpness
    assert invariant.low <= largest(scaled) <= invariant.high
    state: Any = checkpoint.opt_state
    second = flat(state[0].nu) / (1 - ADAM["b2"] ** 15)
    metric = (1 - ADAM["b1"] ** 15) * (np.sqrt(second) + ADAM["eps"])
    truth = largest(dense / np.sqrt(np.outer(metric, metric))) / found.limit
    assert found.ratio is not None
    assert found.ratio.low <= truth <= found.ratio.high
    for estimate in (found.sharpness, invariant, found.ratio):
        assert estimate.high - estimate.low < 1e-2 * estimate.value
    assert found.limit == pytest.approx(3.6 / (0.2 * 0.02))
    assert found.converged
    assert 0 < found.miss < 1


def test_few_steps_are_said_not_to_have_found_the_largest(adam: Run) -> None:
    found = stability(adam.checkpoint(15), jax.random.key(1), order=4)
    assert not found.converged
    assert found.miss == 1


OPTIMISERS = [
    Spec("sgd", {"learning_rate": 0.1}),
    Spec("sgd", {"learning_rate": 0.1, "momentum": 0.9}),
    Spec("sgd", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    Spec("adam", {"learning_rate": 0.1, "b1": 0.9}),
    Spec("rmsprop", {"learning_rate": 0.1, "momentum": 0.5}),
]


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=str)
def test_steps_diverge_just_above_the_limit(optimiser: Spec) -> None:
    """On ``λ x²/2`` with the metric frozen at 1, which leaves Adam its average of gradients."""
    limit = stability_limit(optimiser)
    settings = dict(optimiser.settings)
    if optimiser.name == "adam":
        transform = optax.chain(
            optax.ema(settings["b1"], debias=False), optax.scale(-settings["learning_rate"])
        )
    else:
        transform = optax.sgd(**settings)

    def distance(curvature: float) -> float:
        def step(carry: Any, _: None) -> Any:
            x, state = carry
            update, state = transform.update(curvature * x, state)
            return (x + update, state), None

        start = jnp.float32(1e-3)
        (x, _), _ = jax.lax.scan(step, (start, transform.init(start)), length=1200)
        return float(abs(x)) if np.isfinite(x) else np.inf

    assert distance(0.98 * limit) < 1e-3
    assert distance(1.02 * limit) > 1.0


def test_sgd_needs_no_state_and_adam_needs_an_update(adam: Run, tmp_path: Path) -> None:
    sgd = train(tmp_path / "sgd", Spec("sgd", {"learning_rate": 0.5}), (3,)).checkpoint(3)
    found = stability(sgd, jax.random.key(0))
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(found.sharpness.value * 0.5 / 2)
    before = stability(adam.checkpoint(0), jax.random.key(0))
    assert before.ratio is None
    assert "before the first update" in before.reason
    with pytest.raises(OperatorError, match="known for adam, adamw, rmsprop, sgd"):
        stability_limit(Spec("lion", {"learning_rate": 0.1}))


def test_the_diagnostic_stores_values_with_intervals(adam: Run) -> None:
    assert DIAGNOSTICS["stability"] is Stability
    dataset = analyze(adam, [Stability(order=20)], probe_sets=["current"])
    assert list(dataset["status"].values) == ["ok", "ok"]
    one = dataset.sel(probe_set="current")
    assert np.isfinite(one["stability_ratio"].values).tolist() == [False, True]
    for name in ("sharpness", "scale_invariant_sharpness"):
        assert (one[f"{name}_low"] <= one[name]).all()
        assert (one[name] <= one[f"{name}_high"]).all()
    assert ((one["stability_miss"] > 0) & (one["stability_miss"] <= 1)).all()
    assert set(one["stability_converged"].values) <= {0, 1}
    assert one["stability_miss"].attrs["gap"] == 0.01
