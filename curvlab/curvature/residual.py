"""The residual curvature: what the Hessian has and the Gauss-Newton matrix has not."""

from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from typing_extensions import override

from curvlab.core.errors import ProblemError
from curvlab.curvature.linear_maps import LinearMap
from curvlab.curvature.operator import CurvatureOperator
from curvlab.curvature.problem import Batch, Objective, Problem


class ResidualCurvature(CurvatureOperator):
    """``R = (1/n) Σ_i Σ_c (∂l_i/∂f_ic) ∇² f_ic``, the Hessian minus the Gauss-Newton matrix.

    All negative curvature of a loss convex in the outputs lies here. Computed directly as the
    Hessian of ``Σ_c (∂l/∂f_c) f_c`` with the first factor constant: nothing cancels where ``R`` is
    small. A penalty is part of neither; with one, ``Hessian = GaussNewton + R + ∇² penalty``.

    Parameters
    ----------
    problem
        The objective, with a prediction.

    Raises
    ------
    ProblemError
        If the problem was made from a scalar loss.

    Notes
    -----
    A product costs about one gradient.

    References
    ----------
    Papyan 2018, *The full spectrum of deepnet Hessians at scale*.
    """

    matrix = "residual curvature (Hessian - Gauss-Newton)"
    includes_penalty = False

    def __init__(self, problem: Problem):
        if problem.predict is None:
            raise ProblemError(
                "The residual curvature needs the cut between prediction and loss; this problem "
                "was made by Problem.from_loss. Use Problem(predict, loss, ...)."
            )
        super().__init__(problem)

    @classmethod
    @override
    def linearise(
        cls, objective: Objective, params: PyTree, batch: Batch, state: PyTree
    ) -> LinearMap:
        def total(outputs: PyTree) -> Array:
            losses = objective.loss(outputs, batch.targets)
            return jnp.sum(batch.weights.astype(losses.dtype) * losses)

        residuals = jax.grad(total)(objective.outputs(params, batch.inputs, state))

        def weighted_outputs(point: PyTree) -> Array:
            outputs = objective.outputs(point, batch.inputs, state)
            products = jax.tree.map(lambda a, b: jnp.sum(a * b), residuals, outputs)
            return reduce(jnp.add, jax.tree.leaves(products))

        return jax.linearize(jax.grad(weighted_outputs), params)[1]
