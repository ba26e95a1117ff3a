"""Second moments of per-example gradients: uncentred (the empirical Fisher matrix) and centred.

Parameter-side matrices of rank at most ``n``; their Gram matrix on the data side, which has the
same non-zero spectrum, is :func:`curvlab.gradient_gram`. No product holds more than one gradient.
"""

from dataclasses import replace
from functools import cached_property, reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from typing_extensions import override

from curvlab.core.errors import ProblemError
from curvlab.curvature.linear_maps import LinearMap
from curvlab.curvature.operator import CurvatureOperator
from curvlab.curvature.output_maps import pull_back, weigh
from curvlab.curvature.problem import Batch, Objective, Problem
from curvlab.curvature.selection import split


class GradientSecondMoment(CurvatureOperator):
    """``(1/n) Σ_i g_i g_iᵀ`` with ``g_i`` the gradient of the loss of one example.

    Also called the empirical Fisher matrix. Uncentred; the divisor is the number of examples (the
    total weight, for weighted ones). Positive semidefinite. The penalty is not included.

    Parameters
    ----------
    problem
        The objective, with one loss per example.

    Raises
    ------
    ProblemError
        If the problem was made from a scalar loss.

    Notes
    -----
    A product is ``Σ_i w_i g_i (g_iᵀ v)``: a forward derivative of all losses, then one backward
    pass; about the cost of one gradient.
    """

    matrix = "gradient second moment (uncentred, divisor: total weight)"
    includes_penalty = False

    def __init__(self, problem: Problem):
        _require_losses(problem)
        super().__init__(problem, positive_semidefinite=True)

    @classmethod
    @override
    def linearise(
        cls, objective: Objective, params: PyTree, batch: Batch, state: PyTree
    ) -> LinearMap:
        def losses(point: PyTree) -> Array:
            return objective.losses(point, batch, state)

        _, forward = jax.linearize(losses, params)
        return jax.tree_util.Partial(
            pull_back, forward, jax.tree_util.Partial(weigh, batch.weights)
        )


class GradientCovariance(CurvatureOperator):
    """``(1/n) Σ_i (g_i - ḡ)(g_i - ḡ)ᵀ`` with ``g_i`` the gradient of one example's loss.

    Centred at the mean gradient ``ḡ``; the divisor is the number of examples (the total weight,
    for weighted ones), not one less: the covariance *of this probe set*. Positive semidefinite. The
    penalty shifts all gradients alike and does not enter.

    Parameters
    ----------
    problem
        The objective, with one loss per example.

    Raises
    ------
    ProblemError
        If the problem was made from a scalar loss.

    Notes
    -----
    Differences are taken before they are squared, so nothing cancels where ``ḡ`` is large. A
    product costs about one gradient; ``ḡ`` costs one more, once.
    """

    matrix = "gradient covariance (centred, divisor: total weight)"
    includes_penalty = False

    def __init__(self, problem: Problem):
        _require_losses(problem)
        super().__init__(problem, positive_semidefinite=True)

    @cached_property
    def _mean_gradient(self) -> PyTree:
        mean = replace(self.problem, penalty=None).gradient()
        return split(mean, self._chosen)[0]

    @override
    def state(self) -> PyTree:
        return self._mean_gradient, self.problem.state

    @classmethod
    @override
    def linearise(
        cls, objective: Objective, params: PyTree, batch: Batch, state: PyTree
    ) -> LinearMap:
        mean, inner = state

        def losses(point: PyTree) -> Array:
            return objective.losses(point, batch, inner)

        _, forward = jax.linearize(losses, params)
        return jax.tree_util.Partial(_centred, forward, mean, batch.weights)


def _centred(forward: LinearMap, mean: PyTree, weights: Array, vector: PyTree) -> PyTree:
    """Return ``Σ_i w_i (g_i - ḡ)(g_i - ḡ)ᵀ v``."""

    def deviations(tangent: PyTree) -> Array:
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), mean, tangent)
        return forward(tangent) - reduce(jnp.add, jax.tree.leaves(products))

    return pull_back(deviations, lambda values: weigh(weights, values), vector)


def _require_losses(problem: Problem) -> None:
    if problem.predict is None:
        raise ProblemError(
            "Gradients of single examples need one loss per example; this problem was made by "
            "Problem.from_loss, which knows only their mean. Use Problem(predict, loss, ...)."
        )
