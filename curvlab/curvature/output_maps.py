"""Linear maps between parameters and outputs, and the loss as a function of the outputs."""

import abc
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree
from typing_extensions import override

from curvlab.curvature.linear_maps import Linearisation, LinearMap
from curvlab.curvature.operator import CurvatureOperator
from curvlab.curvature.output_jacobian import (
    Linearised,
    is_right,
    linearise_once,
    linearise_outputs,
)
from curvlab.curvature.problem import Batch, Objective, Problem
from curvlab.objectives import likelihood_of

LARGEST_OUTPUT = 64
"""Up to this many outputs of an example their Hessian is looked at as a dense matrix."""


class OutputCurvature(CurvatureOperator):
    """A matrix ``Σ_i J_iᵀ B_i J_i`` with the Jacobian ``J`` of the outputs."""

    includes_penalty = False

    @staticmethod
    @abc.abstractmethod
    def middle(objective: Objective, outputs: PyTree, batch: Batch, state: PyTree) -> LinearMap:
        """Return ``B`` for all examples of a batch, with their weights."""

    @staticmethod
    def inner_state(state: PyTree) -> PyTree:
        """Return what the prediction takes of :meth:`state`."""
        return state

    @classmethod
    @override
    def linearise(
        cls, objective: Objective, params: PyTree, batch: Batch, state: PyTree
    ) -> LinearMap:
        return cls._through(linearise_once, objective, params, batch, state)

    @classmethod
    def linearise_to_keep(
        cls, objective: Objective, params: PyTree, batch: Batch, state: PyTree
    ) -> LinearMap:
        """Return the same map for many products, where making it may cost more."""
        return cls._through(linearise_outputs, objective, params, batch, state)

    @property
    def _to_keep(self) -> Linearisation:
        return replace(self.linearisation(), linearise=type(self).linearise_to_keep)

    @cached_property
    def _kept_maps(self) -> tuple[LinearMap, ...] | None:
        # Several batches are there to save memory; a reference makes a few products of its own.
        if len(self.problem.source.listed or ()) != 1 or self._is_reference:
            return None
        maps: Any = self._mapped(self._to_keep)
        return maps if is_right(maps[0].args[0]) else None

    @property
    @override
    def _how(self) -> Linearisation:
        return self.linearisation() if self._kept_maps is None else self._to_keep

    @cached_property
    @override
    def _maps(self) -> tuple[LinearMap, ...]:
        return super()._maps if self._kept_maps is None else self._kept_maps

    @classmethod
    def _through(
        cls,
        derive: Callable[..., Linearised],
        objective: Objective,
        params: PyTree,
        batch: Batch,
        state: PyTree,
    ) -> LinearMap:
        def predict(point: PyTree, inputs: PyTree) -> PyTree:
            return objective.outputs(point, inputs, cls.inner_state(state))

        outputs, forward = derive(predict, params, batch.inputs)
        return jax.tree_util.Partial(
            pull_back, forward, cls.middle(objective, outputs, batch, state)
        )


def pull_back(forward: LinearMap, middle: LinearMap, vector: PyTree) -> PyTree:
    """Return ``Jᵀ B J v``; the transpose shares the residuals of the forward map."""
    backward = jax.linear_transpose(forward, vector)
    return backward(middle(forward(vector)))[0]


def weigh(weights: Array, values: Array) -> Array:
    """Multiply what belongs to each example by its weight."""
    return weights.astype(values.dtype).reshape(-1, *(1,) * (values.ndim - 1)) * values


def output_hessians(objective: Objective, outputs: PyTree, targets: PyTree) -> Array:
    """Return the dense Hessian of each example's loss in its own outputs."""

    def one(output: PyTree, target: PyTree) -> Array:
        # Eigenvalues of the result are wanted, which half precision does not have.
        flat, unravel = ravel_pytree(
            jax.tree.map(
                lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), output
            )
        )

        def loss(point: Array) -> Array:
            example = jax.tree.map(lambda leaf: leaf[None], (unravel(point), target))
            return objective.loss(*example)[0]

        return jax.hessian(loss)(flat)

    return jax.vmap(one)(outputs, targets)


@partial(jax.jit, static_argnames="objective")
def _extremes(objective: Objective, params: PyTree, batch: Batch, state: PyTree) -> Array:
    outputs = objective.outputs(params, batch.inputs, state)
    values = jnp.linalg.eigvalsh(output_hessians(objective, outputs, batch.targets))
    return jnp.stack([values.min(), jnp.abs(values).max()])


def convex_in_outputs(problem: Problem) -> bool:
    """Whether no example's loss has negative curvature in its outputs, at these outputs.

    Known for negative log-likelihoods of exponential families; for other losses the output
    Hessian of every example is looked at (one forward pass). False where there are more than
    :data:`LARGEST_OUTPUT` outputs, or the loss needs examples side by side.
    """
    if likelihood_of(problem.loss) is not None:
        return True
    objective, state = problem.objective, problem.state
    first = next(iter(problem.batches()))
    with problem.precision():
        outputs = jax.eval_shape(objective.outputs, problem.params, first.inputs, state)
        size = sum(leaf.size for leaf in jax.tree.leaves(outputs)) // first.weights.size
        if size > LARGEST_OUTPUT:
            return False
        for batch in problem.placed():
            low, largest = _extremes(objective, problem.params, batch, state)
            rounding = 10 * size * jnp.finfo(largest.dtype).eps * largest
            if not low >= -rounding:
                return False
    return True
