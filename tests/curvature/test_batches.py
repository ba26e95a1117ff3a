"""Uneven batches are weighted by their examples: the defect of several tools, in float32."""

import jax
import numpy as np
import pytest

from curvlab.curvature import GaussNewton, Hessian, Problem
from curvlab.objectives import cross_entropy
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
