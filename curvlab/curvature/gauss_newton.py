"""The generalised Gauss-Newton matrix of the objective."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from typing_extensions import override

from curvlab.core.errors import ProblemError
from curvlab.curvature.operator import CurvatureOperator, LinearMap
from curvlab.curvature.output_maps import convex_in_outputs, pull_back
from curvlab.curvature.problem import Batch, Objective, Problem


class GaussNewton(CurvatureOperator):
    """``G = (1/n) Σ_i J_iᵀ B_i J_i`` with ``B_i`` the Hessian of the loss in the outputs.

    Positive semidefinite where no loss has negative curvature in the outputs, which is looked up
    or checked on the data. Depends on where the network is cut into prediction and loss. The
    penalty is not included: it has no Gauss-Newton part.

    Parameters
    ----------
    problem
        The objective, with a prediction.

    Raises
    ------
    ProblemError
        If the problem was made from a scalar loss.

    References
    ----------
    Schraudolph 2002, *Fast curvature matrix-vector products for second-order gradient descent*.
    """

    matrix = "Gauss-Newton matrix"
    includes_penalty = False

    def __init__(self, problem: Problem):
        if problem.predict is None:
            raise ProblemError(
                "The Gauss-Newton matrix needs the cut between prediction and loss; this problem "
                "was made by Problem.from_loss. Use Problem(predict, loss, ...)."
            )
        super().__init__(problem, positive_semidefinite=convex_in_outputs(problem))

    @staticmethod
    @override
    def linearise(objective: Objective, params: PyTree, batch: Batch, state: PyTree) -> LinearMap:
        def predict(point: PyTree) -> PyTree:
            return objective.outputs(point, batch.inputs, state)

        def total(outputs: PyTree) -> jax.Array:
            losses = objective.loss(outputs, batch.targets)
            return jnp.sum(batch.weights.astype(losses.dtype) * losses)

        outputs, forward = jax.linearize(predict, params)
        _, output_hessian = jax.linearize(jax.grad(total), outputs)
        return jax.tree_util.Partial(pull_back, forward, output_hessian)
