"""Uneven batches are weighted by their examples: the defect of several tools, in float32."""

import jax
import numpy as np
import pytest

from curvlab.curvature import GaussNewton, Hessian, Problem
from curvlab.objectives import cross_entropy, squared_error
from tests import problems


@pytest.mark.parametrize("matrix", [Hessian, GaussNewton])
@pytest.mark.parametrize("streamed", [False, True])
def test_uneven_batches_give_the_full_batch_product(matrix, streamed):
    inputs, targets = problems.digits(1024)
    params = problems.trained(60)
    ends = np.cumsum((300, 300, 300, 124))
    parts = [
        (inputs[e - s : e], targets[e - s : e])
        for s, e in zip((300, 300, 300, 124), ends, strict=True)
    ]
    whole = matrix(Problem(problems.predict, cross_entropy, params, (inputs, targets)))
    pieces = matrix(
        Problem(
            problems.predict, cross_entropy, params, (lambda: iter(parts)) if streamed else parts
        )
    )
    for seed in range(3):
        vector = jax.random.normal(jax.random.key(seed), (whole.dim,))
        product = np.asarray(whole.matvec(vector), np.float64)
        gap = np.asarray(pieces.matvec(vector), np.float64) - product
        assert np.linalg.norm(gap) <= 1e-6 * np.linalg.norm(product)


def test_keys_in_the_data_survive_a_subset():
    keys = jax.random.split(jax.random.key(0), 6)

    def predict(params, inputs):
        x, key = inputs
        return jax.vmap(lambda row, k: row @ params + jax.random.normal(k))(x, key)

    x = np.random.default_rng(0).normal(size=(6, 3))
    problem = Problem(predict, squared_error, np.ones(3), ((x, keys), np.zeros(6)))
    chosen = problem.subset(np.array([1, 4]))
    assert chosen.losses() == pytest.approx(problem.losses()[[1, 4]])


def test_parameters_changed_in_place_are_not_the_problems():
    weights, x = np.ones(64, np.float32), np.ones((4, 64), np.float32)
    problem = Problem(lambda p, x: x @ p, squared_error, weights, (x, np.zeros(4, np.float32)))
    before = problem.value()
    weights[:] = 7
    assert problem.value() == before
