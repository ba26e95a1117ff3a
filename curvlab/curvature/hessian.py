"""The Hessian of the objective."""

import jax
import numpy as np
from jaxtyping import Float, PyTree
from typing_extensions import override

from curvlab.curvature.differences import compare_with_gradient
from curvlab.curvature.linear_maps import LinearMap
from curvlab.curvature.operator import CurvatureOperator
from curvlab.curvature.problem import Batch, Objective
from curvlab.curvature.sentinel import remarks


class Hessian(CurvatureOperator):
    """``H = ∇² L(θ)`` of the mean loss, penalty included.

    A product is a forward derivative of the gradient, linearised once: about the cost of one
    gradient. ReLU networks have kinks that automatic differentiation does not see: the Hessian is
    that of the piecewise smooth function.

    References
    ----------
    Pearlmutter 1994, *Fast exact multiplication by the Hessian*.
    """

    matrix = "Hessian"

    @classmethod
    @override
    def linearise(
        cls, objective: Objective, params: PyTree, batch: Batch, state: PyTree
    ) -> LinearMap:
        def gradient(point: PyTree) -> PyTree:
            return jax.grad(objective.total)(point, batch, state)

        return jax.linearize(gradient, params)[1]

    @override
    def cross_check(self, vector: PyTree, image: Float[np.ndarray, " buckets"]) -> tuple[str, ...]:
        compared = compare_with_gradient(self.problem, self._chosen, vector, image)
        return (*remarks(self.problem), *compared)
