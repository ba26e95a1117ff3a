"""The oracle set against two routes, and the scorer against distances known in closed form."""

import jax
import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from curvlab.core.precision import float64
from curvlab.curvature import Hessian, Problem
from curvlab.objectives import cross_entropy
from curvlab.spectral import lanczos
from tests.oracles import dense_mlp, make_set, score

SIZES = make_set.SIZES


@pytest.fixture(scope="module", params=score.NAMES)
def checkpoint(request):
    return score.load_checkpoint(request.param)


def predict_of(activation):
    unit = jax.numpy.tanh if activation == "tanh" else jax.nn.relu

    def predict(params, inputs):
        hidden = inputs
        for index in range(0, len(params), 2):
            hidden = hidden @ params[index] + params[index + 1]
            if index + 2 < len(params):
                hidden = unit(hidden)
        return hidden

    return predict


def test_products_agree_between_complex_step_and_automatic_differentiation(checkpoint):
    theta = checkpoint["params"].astype(np.float64)
    data = (checkpoint["inputs"], checkpoint["targets"].astype(int), SIZES)
    activation = str(checkpoint["activation"])
    vectors = np.random.default_rng(make_set.PROBES).normal(size=(3, len(theta)))
    with float64():
        params = [jax.numpy.asarray(a) for a in dense_mlp.unflatten(theta, SIZES)]
        targets = checkpoint["targets"].astype(np.int32)
        batch = (checkpoint["inputs"], targets)
        op = Hessian(Problem(predict_of(activation), cross_entropy, params, batch))
    for vector, stored in zip(vectors, checkpoint["products"], strict=True):
        step = theta + 1e-30j * vector
        complex_step = np.imag(dense_mlp.gradient(step, *data, activation)) / 1e-30
        automatic = np.asarray(op.matvec(vector))
        for product in (complex_step, automatic):
            assert np.linalg.norm(product - stored) <= 1e-9 * np.linalg.norm(stored)
    # All eigenvalues in one number each: the first moment seen by the fixed vectors, and the ends.
    run = lanczos(op, jax.random.key(0), order=60)
    values, truth = run.ritz()[0], checkpoint["eigenvalues"]
    assert abs(values[-1] - truth[-1]) <= 1e-9 * truth[-1]
    assert values[0] >= truth[0] - 1e-9 * truth[-1]


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
