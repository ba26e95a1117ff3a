"""What all curvature matrices share: linearise once for each batch, apply many times.

A matrix supplies one pure function, ``linearise(objective, params, batch, state)``, that returns a
linear map on parameter trees for the *sum* over a batch. The map is a pytree: it is computed once
inside jit and then passed to the jitted product as an argument. Closing over it would bake the
parameters into the program and recompile for every checkpoint.
"""

import abc
from collections.abc import Callable
from functools import cached_property, partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from typing_extensions import override

from curvlab.core.precision import exact_matmul, float64
from curvlab.core.trees import TreeLayout
from curvlab.curvature.problem import Batch, Objective, Problem
from curvlab.curvature.sentinel import check_deterministic, computes_in_float64
from curvlab.spectral.operator import SymmetricOperator

LinearMap = Callable[[PyTree], PyTree]
Linearise = Callable[[Objective, PyTree, Batch, PyTree], LinearMap]


@partial(jax.jit, static_argnames=("linearise", "objective"))
def _linearise(
    linearise: Linearise, objective: Objective, params: PyTree, batch: Batch, state: PyTree
) -> LinearMap:
    return linearise(objective, params, batch, state)


@partial(jax.jit, static_argnames="penalty")
def _linearise_penalty(penalty: Callable[[PyTree], Array], params: PyTree) -> LinearMap:
    return jax.linearize(jax.grad(penalty), params)[1]


@partial(jax.jit, static_argnames="layout")
def _apply(linear: LinearMap, vector: Array, factor: Array, layout: TreeLayout) -> Array:
    return layout.ravel(linear(layout.unravel(vector))) * factor.astype(vector.dtype)


@partial(jax.jit, static_argnames=("linearise", "objective", "layout"))
def _apply_once(
    linearise: Linearise,
    objective: Objective,
    params: PyTree,
    batch: Batch,
    state: PyTree,
    vector: Array,
    factor: Array,
    layout: TreeLayout,
) -> Array:
    linear = linearise(objective, params, batch, state)
    return layout.ravel(linear(layout.unravel(vector))) * factor.astype(vector.dtype)


class CurvatureOperator(SymmetricOperator):
    """A symmetric matrix of second-order information about a :class:`Problem`.

    Products use the flat layout of the problem's parameters. Data in memory are linearised once
    and the residuals kept; streamed data are linearised anew in every product, which costs one
    forward and backward pass more and keeps nothing.

    Parameters
    ----------
    problem
        The objective. The matrix belongs to its *mean* over examples.

    Raises
    ------
    ProblemError
        If the loss is not finite, or differs between two evaluations on the same input.
    """

    matrix: ClassVar[str]
    """Name of the matrix, for reports."""

    includes_penalty: ClassVar[bool] = True
    """Whether the Hessian of the penalty is part of the matrix."""

    def __init__(self, problem: Problem, *, positive_semidefinite: bool = False):
        check_deterministic(problem)
        super().__init__(
            problem.layout.dim,
            problem.layout.dtype,
            f"{self.matrix} of {problem.estimand}",
            positive_semidefinite=positive_semidefinite,
        )
        self.problem = problem

    @staticmethod
    @abc.abstractmethod
    def linearise(objective: Objective, params: PyTree, batch: Batch, state: PyTree) -> LinearMap:
        """Return the linear map of this matrix for the sum of losses over one batch."""

    @property
    def layout(self) -> TreeLayout:
        """Where each parameter leaf lies in the flat vectors."""
        return self.problem.layout

    @cached_property
    def _maps(self) -> tuple[LinearMap, ...]:
        problem = self.problem
        return tuple(
            _linearise(
                type(self).linearise, problem.objective, problem.params, batch, problem.state
            )
            for batch in problem.batches()
        )

    @cached_property
    def _penalty_map(self) -> LinearMap | None:
        problem = self.problem
        if problem.penalty is None or not self.includes_penalty:
            return None
        return _linearise_penalty(problem.penalty, problem.params)

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        problem, layout = self.problem, self.layout
        factor = jnp.asarray(1 / problem.total_weight, vector.dtype)
        if problem.streamed:
            parts = (
                _apply_once(
                    type(self).linearise,
                    problem.objective,
                    problem.params,
                    batch,
                    problem.state,
                    vector,
                    factor,
                    layout,
                )
                for batch in problem.batches()
            )
        else:
            parts = (_apply(linear, vector, factor, layout) for linear in self._maps)
        total = next(iter(parts))
        for part in parts:
            total = total + part
        if self._penalty_map is not None:
            total = total + _apply(self._penalty_map, vector, jnp.ones_like(factor), layout)
        return total

    def matvec_tree(self, tree: PyTree) -> PyTree:
        """Return the product with a tree shaped like the parameters, as such a tree."""
        with self.precision(), exact_matmul():
            return self.layout.unravel(self.product(self.layout.ravel(tree)))

    @override
    def reference(self) -> "CurvatureOperator | None":
        """Return this matrix in float64.

        If it is there already, or the user's code casts to something narrower, return it with its
        sums in another order.
        """
        return self._reference

    @cached_property
    def _reference(self) -> "CurvatureOperator | None":
        if self.dtype != np.float64:
            with float64():
                promoted = self.problem.promoted()
                if computes_in_float64(promoted):
                    return type(self)(promoted)
        reordered = self.problem.reordered()
        return None if reordered is self.problem else type(self)(reordered)
