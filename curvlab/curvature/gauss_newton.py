"""The generalised Gauss-Newton matrix of the objective."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from typing_extensions import override

from curvlab.core.errors import ProblemError
from curvlab.curvature.linear_maps import LinearMap
from curvlab.curvature.output_maps import OutputCurvature, convex_in_outputs
from curvlab.curvature.problem import Batch, Objective, Problem


class GaussNewton(OutputCurvature):
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

    Notes
    -----
    A product costs one Jacobian product and one transposed, about one gradient. Of data in memory
    as one batch less, where there are few outputs beside the widths of the layers
    (:mod:`curvlab.curvature.output_jacobian`): the first product then costs a backward pass more
    for each output.

    References
    ----------
    Schraudolph 2002, *Fast curvature matrix-vector products for second-order gradient descent*.
    """

    matrix = "Gauss-Newton matrix"

    def __init__(self, problem: Problem):
        if problem.predict is None:
            raise ProblemError(
                "The Gauss-Newton matrix needs the cut between prediction and loss; this problem "
                "was made by Problem.from_loss. Use Problem(predict, loss, ...)."
            )
        super().__init__(problem, positive_semidefinite=convex_in_outputs(problem))

    @staticmethod
    @override
    def middle(objective: Objective, outputs: PyTree, batch: Batch, state: PyTree) -> LinearMap:
        def total(point: PyTree) -> jax.Array:
            losses = objective.loss(point, batch.targets)
            return jnp.sum(batch.weights.astype(losses.dtype) * losses)

        return jax.linearize(jax.grad(total), outputs)[1]
