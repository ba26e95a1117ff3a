"""The output-perturbation loss of the plasticity paper: closed forms at the point of the draw."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from curvlab.core.errors import ProblemError
from curvlab.curvature import GaussNewton, Hessian, Problem, perturb_outputs
from curvlab.objectives import OBJECTIVES, cross_entropy
from tests.oracles import dense_curvature as dense
from tests.oracles.dense_curvature import Oracle

BATCH = (dense.INPUTS, dense.LABELS)


def make(params=dense.PARAMS, batch=BATCH):
    return Problem(dense.predict, cross_entropy, params, batch)


def noise(problem):
    """Return the drawn ``ε``: outputs less targets at the point of the draw."""
    outputs = jax.jit(dense.predict)
    return np.concatenate(
        [
            np.asarray(outputs(problem.params, batch.inputs)) - np.asarray(batch.targets)
            for batch in problem.batches()
        ]
    )


def test_hessian_is_gauss_newton_plus_noise_times_output_curvature(x64):
    problem = perturb_outputs(make(), jax.random.key(0))
    epsilon = noise(problem)
    jacobian = Oracle("squared_error").jacobian
    scale = 2 / epsilon.size
    gauss_newton = scale * np.einsum("icp,icq->pq", jacobian, jacobian)
    np.testing.assert_allclose(GaussNewton(problem).to_dense(), gauss_newton, atol=1e-14)

    flat, unravel = jax.flatten_util.ravel_pytree(problem.params)
    second = np.asarray(
        jax.jit(jax.hessian(lambda theta: dense.predict(unravel(theta), dense.INPUTS)))(flat)
    )
    expected = gauss_newton + scale * np.einsum("ic,icpq->pq", epsilon, second)
    np.testing.assert_allclose(Hessian(problem).to_dense(), expected, atol=1e-13)


def test_noise_is_standard_normal_and_the_loss_starts_at_its_square(x64):
    many = (np.tile(dense.INPUTS, (200, 1)), np.tile(dense.LABELS, 200))
    problem = perturb_outputs(make(batch=many), jax.random.key(1))
    epsilon = noise(problem)
    assert problem.value() == pytest.approx((epsilon**2).mean())
    assert abs(epsilon.mean()) < 4 / np.sqrt(epsilon.size)
    assert abs((epsilon**2).mean() - 1) < 4 * np.sqrt(2 / epsilon.size)
    assert abs(np.corrcoef(epsilon.T)[0, 1]) < 4 / np.sqrt(len(epsilon))


def test_twins_see_the_same_noise_however_the_data_are_batched(x64):
    here = perturb_outputs(make(), jax.random.key(2))
    parts = [(dense.INPUTS[:4], dense.LABELS[:4]), (dense.INPUTS[4:], dense.LABELS[4:])]
    twin = perturb_outputs(make(dense.init(9), parts), jax.random.key(2))
    np.testing.assert_allclose(noise(twin), noise(here), atol=1e-15)
    other = perturb_outputs(make(), jax.random.key(3))
    assert not np.allclose(noise(other), noise(here))


def test_targets_are_data(x64):
    # The stop-gradient form of the paper has the same gradient at the point of the draw.
    problem = perturb_outputs(make(), jax.random.key(0))
    epsilon = jnp.asarray(noise(problem))

    def paper(params):
        outputs = dense.predict(params, dense.INPUTS)
        return ((outputs - jax.lax.stop_gradient(outputs) + epsilon) ** 2).mean()

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14),
        problem.gradient(),
        jax.jit(jax.grad(paper))(problem.params),
    )
    assert "output_perturbation" in problem.estimand
    assert "output_perturbation" in OBJECTIVES


def test_scalar_losses_have_no_outputs_to_perturb():
    def mean(params, batch):
        return cross_entropy(dense.predict(params, batch[0]), batch[1]).mean()

    with pytest.raises(ProblemError, match="from_loss"):
        perturb_outputs(Problem.from_loss(mean, dense.PARAMS, BATCH), jax.random.key(0))
