"""What all curvature matrices share: linearise once for each batch, apply many times.

A matrix supplies a pure function, ``linearise(objective, params, batch, state)``, that returns a
linear map on parameter trees for the *sum* over a batch (:mod:`curvlab.curvature.linear_maps`).

A block of a matrix is the same function with some leaves of the parameters held constant.
"""

import abc
from collections.abc import Hashable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property, reduce
from itertools import chain
from operator import add
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PyTree
from typing_extensions import override

from curvlab.core.devices import over_all, place, replicated
from curvlab.core.precision import exact_matmul, float64
from curvlab.curvature import linear_maps
from curvlab.curvature.differences import compare_with_loss
from curvlab.curvature.layers import layers_of
from curvlab.curvature.linear_maps import Linearisation, LinearMap
from curvlab.curvature.objective import batch_gradient
from curvlab.curvature.parameter_operator import ParameterOperator
from curvlab.curvature.problem import Batch, Objective, Problem
from curvlab.curvature.selection import choose, part_of
from curvlab.curvature.sentinel import (
    check_problem,
    computes_in_float64,
    explained_derivatives,
    remarks,
)
from curvlab.curvature.source import sum_over
from curvlab.spectral.operator import BLOCK, forgetful_copy

LARGE = 1 << 25
"""Parameters above which products without a basis are those of trees, with no flat copies.

Below, copies are small and the program of the flat product, which other methods need, serves both.
"""

_operations: dict[Hashable, float] = {}


class CurvatureOperator(ParameterOperator):
    """A symmetric matrix of second-order information about a :class:`Problem`.

    Products use the flat layout of the problem's parameters. Data in memory are linearised once
    and what products need is kept; streamed data are linearised anew in every product, which costs
    one forward and backward pass more and keeps nothing.

    Parameters
    ----------
    problem
        The objective. The matrix belongs to its *mean* over examples.

    Raises
    ------
    ProblemError
        If the loss is not finite, or differs between two evaluations on the same input.
    """

    matrix: str
    """Name of the matrix, for reports."""

    includes_penalty: ClassVar[bool] = True
    """Whether the Hessian of the penalty is part of the matrix."""

    _is_reference = False

    def __init__(self, problem: Problem, *, positive_semidefinite: bool = False):
        check_problem(problem)
        super().__init__(
            problem.layout.dim,
            problem.layout.dtype,
            "",
            positive_semidefinite=positive_semidefinite,
        )
        self._set(problem, (True,) * len(problem.layout.names))

    def _set(self, problem: Problem, chosen: tuple[bool, ...]) -> None:
        """Make this the matrix of ``problem`` in the chosen leaves."""
        self.problem = problem
        self._chosen = chosen
        self.layout = part_of(problem.layout, chosen)
        """Where each leaf lies in the flat vectors; leaves outside a block are None."""
        self.dim, self.dtype = self.layout.dim, self.layout.dtype

    @property
    @override
    def estimand(self) -> str:
        parts = None if all(self._chosen) else self.layout
        return f"{self.matrix} of {self.problem.describe(self.includes_penalty, parts)}"

    def _with(self, problem: Problem, chosen: tuple[bool, ...]) -> "CurvatureOperator":
        """Return this matrix, settings and all, of another problem or of other leaves."""
        other = forgetful_copy(self)
        other._set(problem, chosen)
        return other

    @classmethod
    @abc.abstractmethod
    def linearise(
        cls, objective: Objective, params: PyTree, batch: Batch, state: PyTree
    ) -> LinearMap:
        """Return the linear map of this matrix for the sum of losses over one batch."""

    def linearisation(self) -> Linearisation:
        """Return the static part of this matrix."""
        return Linearisation(type(self).linearise, self.problem.objective, self._chosen)

    @property
    def _how(self) -> Linearisation:
        """The static part of what products go through."""
        return self.linearisation()

    def state(self) -> PyTree:
        """Return what the linearisation takes besides parameters and data."""
        return self.problem.state

    @cached_property
    def _maps(self) -> tuple[LinearMap, ...]:
        """The maps of data in memory."""
        return self._mapped(self._how)

    def _mapped(self, how: Linearisation) -> tuple[LinearMap, ...]:
        problem, state = self.problem, self.state()
        with self.precision(), exact_matmul():  # whoever asks first
            return tuple(
                linear_maps.linearised(how, problem.params, batch, state)
                for batch in problem.placed()
            )

    @cached_property
    def _penalty_map(self) -> LinearMap | None:
        problem = self.problem
        if problem.penalty is None or not self.includes_penalty:
            return None
        return linear_maps.linearise_penalty(problem.penalty, problem.params, self._chosen)

    @property
    def _mean(self) -> Float[Array, ""]:
        """What makes a mean over examples of a sum."""
        return jnp.asarray(1 / self.problem.total_weight, self.dtype)

    def _terms(self) -> Iterator[tuple[LinearMap, Float[Array, ""]]]:
        """Yield the maps that add up to a product, but for streamed data, with their factors."""
        if not self.problem.streamed:
            yield from ((linear, self._mean) for linear in self._maps)
        if self._penalty_map is not None:
            yield self._penalty_map, jnp.ones((), self.dtype)

    @override
    def sharding(self) -> NamedSharding | None:
        mesh = self.problem.mesh
        return None if mesh is None else over_all(mesh)

    @override
    def program(self) -> Hashable:
        how = self._how
        # Whether it pays to go another way depends on the number of examples.
        examples = None if how == self.linearisation() else self.problem.examples
        return type(self), how, self.problem.layout, examples

    @override
    def cross_check(self, vector: PyTree, image: Float[np.ndarray, " buckets"]) -> tuple[str, ...]:
        compare_with_loss(self.problem, self._chosen, vector)
        return remarks(self.problem)

    @override
    def precision(self) -> AbstractContextManager[Any]:
        return self.problem.precision()

    @override
    def gradients_per_product(self) -> float:
        """Return the operations of a product in those of a gradient of the same data.

        Counted by XLA on the first batch before it optimises, once for each program. Streamed data
        are linearised anew in every product.
        """
        how, batch = self._how, next(iter(self.problem.placed()))
        shapes = tuple((jnp.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(batch))
        key = (how, self.problem.layout, self.problem.streamed, shapes)
        if key not in _operations:
            problem = self.problem
            with self.precision():
                vector = jax.ShapeDtypeStruct((self.dim,), self.dtype)
                factor = jax.ShapeDtypeStruct((), self.dtype)
                if problem.streamed:
                    product = linear_maps.apply_once.lower(
                        how, problem.params, batch, self.state(), vector, factor, self.layout
                    )
                else:
                    product = linear_maps.apply.lower(self._maps[0], vector, factor, self.layout)
                gradient = batch_gradient.lower(how.objective, problem.params, batch, self.state())
            ours, theirs = (
                float((lowered.cost_analysis() or {}).get("flops", float("nan")))
                for lowered in (product, gradient)
            )
            _operations[key] = ours / theirs
        return _operations[key]

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self._push(vector)

    @override
    def unflatten(self, vector: Float[Any, " dim"]) -> PyTree:
        """Return a flat vector as a tree like the parameters, in this operator's dtype."""
        with self.precision():
            return linear_maps.cut(self.layout, self._cast(vector))

    @override
    def flatten(self, vector: PyTree) -> Float[Array, " dim"]:
        with self.precision():
            return linear_maps.ravel(self.layout, vector)

    @override
    def add_product(self, total: PyTree, vector: PyTree) -> PyTree:
        """Return ``total + A v`` for trees like the parameters, in the memory of ``total``.

        By way of a flat product for streamed data, and for up to :data:`LARGE` parameters.
        """
        problem = self.problem
        if problem.streamed or self.dim <= LARGE:
            return super().add_product(total, vector)
        with self.precision(), exact_matmul(), explained_derivatives():
            for linear, times in self._terms():
                total = linear_maps.add(linear, total, vector, times, self.layout)
        return total if problem.mesh is None else place(total, replicated(problem.mesh))

    @override
    def matmat(self, rows: Float[Any, "vectors dim"]) -> Float[np.ndarray, "vectors dim"]:
        """Return ``A v`` for each row ``v``, on the host; as many products as rows.

        Streamed data are read and linearised once for every :data:`BLOCK` rows.
        """
        if not self.problem.streamed:
            return super().matmat(rows)
        found = []
        with self.precision(), exact_matmul():
            for start in range(0, len(rows), BLOCK):
                some = np.asarray(rows[start : start + BLOCK], self.dtype)
                block = np.zeros((BLOCK, self.dim), self.dtype)  # always of one shape
                block[: len(some)] = some
                found.append(np.asarray(self._push(jnp.asarray(block)))[: len(some)])
        return np.concatenate(found)

    def _push(self, vectors: Float[Array, "*block dim"]) -> Float[Array, "*block dim"]:
        """Return the image of a vector, or of every row of a block, in one pass over the data."""
        with explained_derivatives():
            return self._pushed(vectors)

    def _pushed(self, vectors: Float[Array, "*block dim"]) -> Float[Array, "*block dim"]:
        problem, layout = self.problem, self.layout
        if problem.mesh is not None:
            vectors = place(vectors, replicated(problem.mesh))
        images = (
            linear_maps.apply(linear, vectors, times, layout) for linear, times in self._terms()
        )
        if problem.streamed:
            how, state, mean = self.linearisation(), self.state(), self._mean
            streamed = sum_over(
                problem.placed(),
                lambda batch: linear_maps.apply_once(
                    how, problem.params, batch, state, vectors, mean, layout
                ),
            )
            images = chain([streamed], images)
        total = reduce(add, images)
        return total if problem.mesh is None else place(total, replicated(problem.mesh))

    @property
    @override
    def layers(self) -> tuple[str, ...]:
        return self._layers

    @cached_property
    def _layers(self) -> tuple[str, ...]:
        return layers_of(self.problem, self._chosen)

    @override
    def block(
        self, paths: str | Iterable[str] = (), *, last: int | None = None
    ) -> "CurvatureOperator":
        """Return the principal block of some parameters, with the cross blocks between them.

        The other parameters are constants. The block has a linearisation of its own, in its
        parameters only: products cost less than those of the whole, down to a small fraction for
        layers near the output. Its ``layout`` unravels vectors to trees like the parameters with
        None in the place of constants.

        Parameters
        ----------
        paths
            A path or several: leaves (``"hidden_0/kernel"``) or all leaves below (``"hidden_0"``).
        last
            Instead of paths, a number of layers at the output end (see :attr:`layers`).

        Raises
        ------
        OperatorError
            If neither or both are given, or there are fewer layers.
        UnknownNameError
            If no parameter has such a path.
        """
        inside = choose(self.layout.names, self.layers, paths, last)
        names = self.problem.layout.names
        return self._with(self.problem, tuple(name in inside for name in names))

    @override
    def reference(self) -> "CurvatureOperator | None":
        """Return this matrix in float64.

        If it is there already, or the user's code casts to something narrower, return it with its
        sums in another order.
        """
        return self._reference

    @cached_property
    def _reference(self) -> "CurvatureOperator | None":
        found = None
        if self.dtype != np.float64:
            with float64():
                promoted = self.problem.promoted()
                if computes_in_float64(promoted):
                    found = self._with(promoted, self._chosen)
        if found is None:
            reordered = self.problem.reordered()
            if reordered is self.problem:
                return None
            found = self._with(reordered, self._chosen)
        found._is_reference = True
        return found
