"""The oracle set against two routes, and the scorer against distances known in closed form."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from curvlab.core.precision import float64
from curvlab.curvature import GaussNewton, Hessian, Problem
from curvlab.objectives import cross_entropy
from curvlab.spectral import lanczos
from tests.oracles import dense_mlp, make_set, score

SIZES = make_set.SIZES
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=score.NAMES)
def checkpoint(request):
    return score.load_checkpoint(request.param)


UNITS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def predict_of(activation):
    def predict(params, inputs):
        hidden = inputs
        for index in range(0, len(params), 2):
            hidden = hidden @ params[index] + params[index + 1]
            if index + 2 < len(params):
                hidden = UNITS[activation](hidden)
        return hidden

    return predict


def problem_at(checkpoint):
    """Return the problem of a checkpoint in float64."""
    theta = checkpoint["params"].astype(np.float64)
    with float64():
        params = [jnp.asarray(array) for array in dense_mlp.unflatten(theta, SIZES)]
        batch = (checkpoint["inputs"], checkpoint["targets"].astype(np.int32))
        return Problem(predict_of(str(checkpoint["activation"])), cross_entropy, params, batch)


def test_products_agree_between_complex_step_and_automatic_differentiation(checkpoint):
    theta = checkpoint["params"].astype(np.float64)
    data = (checkpoint["inputs"], checkpoint["targets"].astype(int), SIZES)
    activation = str(checkpoint["activation"])
    vectors = np.random.default_rng(make_set.PROBES).normal(size=(3, len(theta)))
    op = Hessian(problem_at(checkpoint))
    for vector, stored in zip(vectors, checkpoint["products"], strict=True):
        step = theta + 1e-30j * vector
        complex_step = np.imag(dense_mlp.gradient(step, *data, activation)) / 1e-30
        automatic = np.asarray(op.matvec(vector))
        for product in (complex_step, automatic):
            assert np.linalg.norm(product - stored) <= 1e-9 * np.linalg.norm(stored)


@pytest.mark.parametrize(
    ("matrix", "name"), [(Hessian, "eigenvalues"), (GaussNewton, "gauss_newton_eigenvalues")]
)
def test_both_ends_are_those_of_a_krylov_space(checkpoint, matrix, name):
    truth = checkpoint[name]
    values = lanczos(matrix(problem_at(checkpoint)), jax.random.key(0), order=150).ritz()[0]
    scale = np.abs(truth).max()
    assert abs(values[-1] - truth[-1]) <= 1e-9 * scale
    assert values[0] >= truth[0] - 1e-9 * scale
    # The null space of a Gauss-Newton matrix has no gap that so few steps could resolve.
    assert matrix is GaussNewton or values[0] <= truth[0] + 1e-9 * scale


@partial(jax.jit, static_argnames="activation")
def layer_traces(arrays, inputs, targets, activation):
    """Return the traces of Hessian and Gauss-Newton matrix, layer by layer.

    The block of a layer is ``(h hᵀ) ⊗ ∂²`` for each example, with ``h`` what the layer sees (a one
    for the bias included) and ``∂²`` the second derivatives by its pre-activations.
    """
    unit = UNITS[activation]

    def onwards(layer, z):
        for weight, bias in list(zip(arrays[::2], arrays[1::2], strict=True))[layer + 1 :]:
            z = unit(z) @ weight + bias
        return z

    def loss(layer, label, z):
        return -jax.nn.log_softmax(onwards(layer, z))[label]

    def of_example(hidden, label):
        traces = jnp.zeros(2)
        for layer in range(len(arrays) // 2):
            z = hidden @ arrays[2 * layer] + arrays[2 * layer + 1]
            jacobian = jax.jacfwd(partial(onwards, layer))(z)
            p = jax.nn.softmax(onwards(layer, z))
            positive = jacobian.T @ (jnp.diag(p) - jnp.outer(p, p)) @ jacobian
            full = jax.hessian(partial(loss, layer, label))(z)
            traces += (hidden @ hidden + 1) * jnp.array([jnp.trace(full), jnp.trace(positive)])
            hidden = unit(z)
        return traces

    return jax.vmap(of_example)(inputs, targets).mean(0)


def test_sums_of_all_eigenvalues_are_the_traces(checkpoint):
    arrays = dense_mlp.unflatten(checkpoint["params"].astype(np.float64), SIZES)
    inputs, targets = checkpoint["inputs"], checkpoint["targets"].astype(np.int32)
    with float64():
        traces = np.asarray(layer_traces(arrays, inputs, targets, str(checkpoint["activation"])))
    for trace, name in zip(traces, ("eigenvalues", "gauss_newton_eigenvalues"), strict=True):
        truth = checkpoint[name]
        assert abs(truth.sum() - trace) <= 1e-11 * np.abs(truth).sum()


@pytest.mark.long
@pytest.mark.parametrize(
    ("matrix", "name"), [(Hessian, "eigenvalues"), (GaussNewton, "gauss_newton_eigenvalues")]
)
def test_all_eigenvalues_are_those_of_the_products(checkpoint, matrix, name):
    dense, truth = matrix(problem_at(checkpoint)).to_dense(), checkpoint[name]
    assert abs(truth.sum() - np.trace(dense)) <= 1e-11 * np.abs(truth).sum()
    assert (truth**2).sum() == pytest.approx((dense**2).sum(), rel=1e-11)
    found = np.linalg.eigvalsh(dense)
    # At the saddle the examples' terms cancel, which leaves 2e-12 of λ_max to rounding.
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-11 * np.abs(truth).max())


def test_loss_and_gradient_are_those_at_the_point(checkpoint):
    problem = problem_at(checkpoint)
    assert problem.value() == pytest.approx(checkpoint["loss"], rel=1e-12)
    gradient = np.concatenate([np.ravel(leaf) for leaf in problem.gradient()])
    assert np.linalg.norm(gradient) == pytest.approx(checkpoint["gradient_norm"], rel=1e-9)


def test_points_are_what_their_names_say():
    found = {name: score.load_checkpoint(name) for name in score.NAMES}
    assert all(len(c["eigenvalues"]) == 3466 for c in found.values())
    assert all(c["route_gap"] <= 1e-9 for c in found.values())
    assert found["healthy"]["eigenvalues"][-1] > 0
    saddle = found["saddle"]
    # What L-BFGS and the rounding to float32 leave of an exact stationary point.
    assert saddle["gradient_norm"] <= 1e-3 * saddle["eigenvalues"][-1]
    assert saddle["eigenvalues"][0] < -1e-4 * saddle["eigenvalues"][-1]
    stability = found["edge"]["eigenvalues"][-1] * make_set.EDGE_RATE / 2
    assert 0.99 <= stability <= 1.01
    dead = found["dead"]
    counted = make_set.dead_units(dead["params"].astype(float), dead["inputs"])
    assert counted == dead["dead_units"].tolist()
    assert sum(counted) > 0
    # A dead unit has no gradient, so its row and column of the Hessian are exactly zero.
    nullity = counted[0] * (64 + 1 + 32) + counted[1] * (32 - counted[0] + 1 + 10)
    zeros = np.abs(dead["eigenvalues"]) <= 1e-13 * dead["eigenvalues"][-1]
    assert zeros.sum() >= nullity


def test_the_truth_scores_zero():
    truth = np.random.default_rng(0).normal(size=300)
    found = score.score_measure(truth, np.full(300, 1 / 300), truth)
    assert max(found.values()) <= 1e-12
    found = score.score_eigenvalues(truth, truth)
    assert found == {"largest": [0.0] * 5, "smallest": 0.0, "ghosts": 0}


def test_distances_are_those_of_the_definitions():
    rng = np.random.default_rng(1)
    truth, nodes = rng.normal(size=200), rng.normal(size=30)
    weights = rng.dirichlet(np.ones(30))
    found = score.score_measure(nodes, weights, truth)
    scale = np.abs(truth).max()
    expected = wasserstein_distance(nodes, truth, weights) / scale
    assert found["wasserstein"] == pytest.approx(expected, rel=1e-9)
    x = np.sort(np.concatenate([nodes, truth]))
    f = np.array([weights[nodes <= point].sum() for point in x])
    g = np.array([(truth <= point).mean() for point in x])
    assert found["kolmogorov"] == pytest.approx(np.abs(f - g).max(), abs=2e-2)


def test_ghosts_are_counted_and_unconverged_values_are_not():
    truth = np.arange(100.0)
    assert score.score_eigenvalues([99, 98, 97.5, 3.3], truth)["ghosts"] == 0
    assert score.score_eigenvalues([99, 99 - 1e-7, 98, 98, 98], truth)["ghosts"] == 3
    repeated = np.repeat(truth, 2)
    assert score.score_eigenvalues([99, 99, 98], repeated)["ghosts"] == 0


def test_a_smoothed_answer_is_scored_from_its_grid():
    truth = np.linspace(-1, 1, 500)
    grid = np.linspace(-1, 1, 2001)
    exact = score.score_cdf(grid, (grid + 1) / 2, truth)
    shifted = score.score_cdf(grid + 0.1, (grid + 1) / 2, truth)
    assert exact["kolmogorov"] <= 2e-3
    assert shifted["wasserstein"] == pytest.approx(0.1, rel=2e-2)
    assert shifted["kolmogorov"] == pytest.approx(0.05, abs=3e-3)


def test_trace_scores():
    assert score.score_trace(9.0, [4.0, 6.0], 8.0, 9.5) == {"error": 0.1, "covered": False}
    assert score.score_trace(9.0, [4.0, 6.0])["covered"] is None
    assert score.score_trace(0.5, [-4.0, 4.0])["error"] == 0.0625


def test_the_command_scores_a_file_of_answers(tmp_path):
    truths = {name: score.load_checkpoint(name)["eigenvalues"] for name in score.NAMES}
    healthy, saddle, edge = truths["healthy"], truths["saddle"], truths["edge"]
    grid = np.linspace(saddle[0], saddle[-1], 500)
    share = np.full(len(edge), 1 / len(edge))
    answers: Any = {
        "healthy.eigenvalues": np.r_[healthy[-5:], healthy[-1]],
        "healthy.trace": np.array([1.1, 0.9, 1.2]) * healthy.sum(),
        "saddle.grid": grid,
        "saddle.cdf": np.searchsorted(saddle, grid) / len(saddle),
        "edge.nodes": edge + 0.01 * edge[-1],
        "edge.weights": share,
    }
    np.savez(tmp_path / "answers.npz", **answers)
    command = [sys.executable, "-m", "tests.oracles.score", str(tmp_path / "answers.npz")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.keys() == {"healthy", "saddle", "edge"}  # nothing was said of the fourth
    assert found["healthy"].keys() == {"eigenvalues", "trace"}
    assert found["healthy"]["eigenvalues"]["ghosts"] == 1
    assert found["healthy"]["trace"] == {"error": pytest.approx(0.1), "covered": True}
    assert found["edge"]["measure"]["wasserstein"] == pytest.approx(0.01, rel=1e-6)
    assert found["saddle"]["cdf"] == score.score_cdf(grid, answers["saddle.cdf"], saddle)
