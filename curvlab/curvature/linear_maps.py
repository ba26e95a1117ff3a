"""Linear maps made once and applied many times, as programs that all checkpoints share.

A map is a pytree: it is computed inside jit and then passed to the jitted product as an argument.
Closing over it would bake the parameters into the program and recompile for every checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.core import Tracer
from jax.extend.core import Var
from jaxtyping import Array, PyTree

from curvlab.core.trees import TreeLayout
from curvlab.curvature.problem import Batch, Objective
from curvlab.curvature.selection import freeze, merge, split

LinearMap = Callable[[PyTree], PyTree]
Linearise = Callable[[Objective, PyTree, Batch, PyTree], LinearMap]


@dataclass(frozen=True)
class Linearisation:
    """Everything static about a matrix, compared by value, so that checkpoints share compilations.

    Attributes
    ----------
    linearise
        The pure function of the matrix.
    objective
        The functions of the problem.
    chosen
        For each leaf of the parameters, whether the matrix has rows for it.
    """

    linearise: Linearise
    objective: Objective
    chosen: tuple[bool, ...]

    def __call__(self, params: PyTree, batch: Batch, state: PyTree) -> LinearMap:
        """Return the linear map of a batch on trees of the chosen leaves; call it inside jit."""
        free, fixed = split(params, self.chosen)
        return self.linearise(freeze(self.objective, fixed), free, batch, state)


@partial(jax.jit, static_argnames="how")
def _linearise(how: Linearisation, params: PyTree, batch: Batch, state: PyTree) -> LinearMap:
    return how(params, batch, state)


def linearised(how: Linearisation, params: PyTree, batch: Batch, state: PyTree) -> LinearMap:
    """Return the linear map of a batch, which shares with its inputs what is the same.

    A map holds weights and inputs of the network; jit returns copies of them, and a second one for
    every further batch.
    """
    made, tree = jax.tree.flatten(_linearise(how, params, batch, state))
    program = _linearise.trace(how, params, batch, state).jaxpr.jaxpr
    given = dict(zip(program.invars, jax.tree.leaves((params, batch, state)), strict=True))
    for index, variable in enumerate(program.outvars):
        same = given.get(variable) if isinstance(variable, Var) else None
        if _alike(same, made[index]):
            made[index] = same
    return jax.tree.unflatten(tree, made)


def _alike(one: Any, other: Any) -> bool:
    """Whether two arrays lie on the same devices in the same way; not while they are traced."""
    arrays = all(isinstance(x, jax.Array) and not isinstance(x, Tracer) for x in (one, other))
    return arrays and one.sharding == other.sharding


@partial(jax.jit, static_argnames=("penalty", "chosen"))
def linearise_penalty(
    penalty: Callable[[PyTree], Array], params: PyTree, chosen: tuple[bool, ...]
) -> LinearMap:
    """Return the linear map of a penalty's Hessian in the chosen leaves."""
    free, fixed = split(params, chosen)
    return jax.linearize(jax.grad(lambda point: penalty(merge(point, fixed))), free)[1]


@partial(jax.jit, static_argnames="layout")
def apply(linear: LinearMap, vector: Array, factor: Array, layout: TreeLayout) -> Array:
    """Return a multiple of the image of one flat vector, or of each row of a block."""

    def one(flat: Array) -> Array:
        return layout.ravel(linear(layout.unravel(flat))) * factor.astype(flat.dtype)

    return one(vector) if vector.ndim == 1 else jax.vmap(one)(vector)


@partial(jax.jit, static_argnames="layout", donate_argnames="total")
def add(
    linear: LinearMap, total: PyTree, vector: PyTree, factor: Array, layout: TreeLayout
) -> PyTree:
    """Return ``total`` plus a multiple of the image of one tree, in the memory of ``total``."""
    image = linear(layout.cast(vector))
    return jax.tree.map(lambda t, leaf: t + factor * leaf.astype(t.dtype), total, image)


@partial(jax.jit, static_argnames="layout")
def cut(layout: TreeLayout, vector: Array) -> PyTree:
    """Return a flat vector as a tree."""
    return layout.cut(vector)


@partial(jax.jit, static_argnames="layout")
def ravel(layout: TreeLayout, tree: PyTree) -> Array:
    """Return a tree as a flat vector."""
    return layout.ravel(tree)


@partial(jax.jit, static_argnames=("how", "layout"))
def apply_once(
    how: Linearisation,
    params: PyTree,
    batch: Batch,
    state: PyTree,
    vector: Array,
    factor: Array,
    layout: TreeLayout,
) -> Array:
    """Return the same as :func:`apply`, of a map that is used once and never leaves the program."""
    return apply(how(params, batch, state), vector, factor, layout)
