"""The tangent kernel: inner products of output gradients, a matrix on the data side.

It is built from the same Jacobian as the Gauss-Newton matrix, multiplied the other way round; with
the factor of the output Hessian between, the two share their non-zero spectrum.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from typing_extensions import override

from curvlab.core.errors import OperatorError, ProblemError, UnknownNameError
from curvlab.core.precision import exact_matmul, float64
from curvlab.curvature.drawn_targets import require_one_output
from curvlab.curvature.operator import LinearMap
from curvlab.curvature.output_maps import convex_in_outputs, output_hessians, weigh
from curvlab.curvature.problem import Batch, Objective, Problem
from curvlab.curvature.sentinel import check_problem, computes_in_float64
from curvlab.objectives import likelihood_of
from curvlab.spectral.operator import SymmetricOperator

OUTPUTS = ("full", "gauss_newton", "trace", "logit-sum", "target")
"""Which outputs make the rows of a kernel, see :class:`TangentKernel`."""


@dataclass(frozen=True)
class _Rows:
    """The function of parameters whose Jacobian's rows make the kernel; compared by value."""

    outputs: str
    objective: Objective

    def __call__(self, params: PyTree, batch: Batch, state: PyTree) -> Float[Array, "examples _"]:
        """Return the rows of each example."""
        found = self.objective.outputs(params, batch.inputs, state)
        flat = found.reshape(found.shape[0], -1)
        if self.outputs == "logit-sum":
            return flat.sum(axis=1, keepdims=True)
        if self.outputs == "target":
            return jnp.take_along_axis(flat, batch.targets.reshape(-1, 1), axis=1)
        if self.outputs == "gauss_newton":
            point = jax.lax.stop_gradient(found)
            return weigh(jnp.sqrt(batch.weights), self._factor(point, found, batch.targets))
        return flat

    def _factor(self, point: Array, outputs: Array, targets: PyTree) -> Float[Array, "examples _"]:
        """Return ``Lᵀ f`` with the output Hessian ``L Lᵀ`` taken at ``point``."""
        likelihood = likelihood_of(self.objective.loss)
        if likelihood is not None:
            return likelihood.factor(point, outputs).reshape(outputs.shape[0], -1)
        values, vectors = jnp.linalg.eigh(output_hessians(self.objective, point, targets))
        roots = jnp.sqrt(jnp.maximum(values, 0))
        flat = outputs.reshape(outputs.shape[0], -1)
        return roots * jnp.einsum("icd,ic->id", vectors, flat)


@partial(jax.jit, static_argnames="rows")
def _linearise(rows: _Rows, params: PyTree, batch: Batch, state: PyTree) -> LinearMap:
    return jax.linearize(lambda point: rows(point, batch, state), params)[1]


@jax.jit
def _pull(forward: LinearMap, params: PyTree, cotangent: Array) -> PyTree:
    return jax.linear_transpose(forward, params)(cotangent)[0]


@jax.jit
def _push(forward: LinearMap, tangent: PyTree) -> Array:
    return forward(tangent)


@partial(jax.jit, static_argnames="rows")
def _jacobian(rows: _Rows, params: PyTree, batch: Batch, state: PyTree) -> PyTree:
    """Return leaves of shape (examples, rows of an example, entries)."""

    def one(inputs: PyTree, targets: PyTree, weight: Array) -> PyTree:
        single = Batch(inputs, targets, weight)
        return jax.jacrev(lambda point: rows(point, single, state)[0])(params)

    parts = (batch.inputs, batch.targets, batch.weights)
    gradients = jax.vmap(one)(*jax.tree.map(lambda leaf: leaf[:, None], parts))
    return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:2], -1), gradients)


@partial(jax.jit, static_argnames="traced")
def _gram(left: PyTree, right: PyTree, traced: bool) -> Array:
    formula = "acp,bcp->ab" if traced else "acp,bdp->acbd"
    parts = [
        jnp.einsum(formula, a, b)
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    ]
    total = sum(parts[1:], parts[0])
    return total if traced else total.reshape(total.shape[0] * total.shape[1], -1)


class TangentKernel(SymmetricOperator):
    """``K = J Jᵀ`` with ``J`` the Jacobian of outputs in the parameters; positive semidefinite.

    Parameters
    ----------
    problem
        The prediction, the parameters and the examples, which must be in memory. Rows are in the
        order of the data.
    outputs
        Which outputs make the rows. None of the last three is comparable with the Gauss-Newton
        matrix.

        ``"full"``
            Every output of every example, ``nC`` rows, example by example; no normalisation. With
            :func:`curvlab.squared_error` and no weights ``(2/nC) K`` shares its non-zero spectrum
            with the Gauss-Newton matrix.
        ``"gauss_newton"``
            ``(1/n) Lᵀ J Jᵀ L`` with the output Hessian ``B = L Lᵀ`` of each example (weighted, for
            weighted examples): shares its non-zero spectrum with the Gauss-Newton matrix, for any
            loss that is convex in the outputs.
        ``"trace"``
            ``K_ij = Σ_c ⟨∇f_ic, ∇f_jc⟩``, ``n`` rows.
        ``"logit-sum"``
            The sum of the outputs of each example, ``n`` rows.
        ``"target"``
            The output that the example's integer target names (its label, the action taken), ``n``
            rows.

    Raises
    ------
    ProblemError
        If the problem has no prediction, its outputs are not one array, the data are streamed,
        ``"target"`` meets targets that are not one integer per example, or ``"gauss_newton"`` a
        loss that is not known to be convex in the outputs.
    UnknownNameError
        If ``outputs`` is none of these.

    Notes
    -----
    A product is one transposed Jacobian product and one Jacobian product, about one gradient;
    ``"trace"`` takes as many as there are outputs. Example weights enter ``"gauss_newton"`` only.

    References
    ----------
    Jacot, Gabriel and Hongler 2018, *Neural tangent kernel*.
    """

    def __init__(self, problem: Problem, *, outputs: str = "full"):
        if outputs not in OUTPUTS:
            raise UnknownNameError("kind of tangent kernel", outputs, OUTPUTS)
        if problem.predict is None or problem.streamed:
            reason = "was made by Problem.from_loss" if problem.predict is None else "is streamed"
            raise ProblemError(
                "The tangent kernel needs a prediction and examples in a fixed order; this problem "
                f"{reason}. Use Problem(predict, loss, params, batch) with data in memory."
            )
        shape = require_one_output(problem)
        self.columns = int(np.prod(shape)) if outputs != "logit-sum" else 1
        if outputs == "target":
            self.columns = 1
            _check_targets(problem, int(np.prod(shape)))
        if outputs == "gauss_newton" and not convex_in_outputs(problem):
            raise ProblemError(
                f"tangent_kernel(outputs='gauss_newton') needs a loss convex in the outputs, and "
                f"{problem.objective.name} is not known to be. Use outputs='full'."
            )
        check_problem(problem)
        self.problem = problem
        self.outputs: str = outputs
        rows = 1 if outputs == "trace" else self.columns
        super().__init__(
            problem.examples * rows,
            problem.layout.dtype,
            f"tangent kernel ({self._formula(shape)}) of {problem.examples} examples, "
            f"{problem.layout.dim} parameters{', ' if problem.data else ''}{problem.data}",
            positive_semidefinite=True,
        )

    def _formula(self, shape: tuple[int, ...]) -> str:
        loss = self.problem.objective.name
        return {
            "full": f"J J^T over {int(np.prod(shape))} outputs, not normalised",
            "gauss_newton": f"L^T J J^T L of mean {loss}",
            "trace": f"sum over {int(np.prod(shape))} outputs, not normalised",
            "logit-sum": "gradients of the sum of outputs, not normalised",
            "target": "gradients of the target's output, not normalised",
        }[self.outputs]

    @property
    def rows(self) -> _Rows:
        """The function whose Jacobian makes the kernel."""
        return _Rows(self.outputs, self.problem.objective)

    @cached_property
    def _maps(self) -> tuple[LinearMap, ...]:
        problem, rows = self.problem, self.rows
        return tuple(
            _linearise(rows, problem.params, batch, problem.state) for batch in problem.batches()
        )

    @property
    def scale(self) -> float:
        """What multiplies the inner products of rows."""
        return 1 / self.problem.total_weight if self.outputs == "gauss_newton" else 1.0

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        if self.outputs != "trace":
            return self._gram(vector.reshape(-1, self.columns)).reshape(-1) * self.scale
        total = jnp.zeros_like(vector)
        for chosen in jnp.eye(self.columns, dtype=vector.dtype):
            total = total + self._gram(jnp.outer(vector, chosen)) @ chosen
        return total

    def _gram(self, cotangent: Float[Array, "examples _"]) -> Float[Array, "examples _"]:
        """Return ``J Jᵀ u`` over all batches."""
        params, tangent, start = self.problem.params, None, 0
        for forward, batch in zip(self._maps, self.problem.batches(), strict=True):
            end = start + batch.weights.size
            part = _pull(forward, params, cotangent[start:end])
            tangent = part if tangent is None else jax.tree.map(jnp.add, tangent, part)
            start = end
        return jnp.concatenate([_push(forward, tangent) for forward in self._maps])

    @override
    def reference(self) -> "TangentKernel | None":
        """Return the kernel in float64, or None where it is there already."""
        return self._reference

    @cached_property
    def _reference(self) -> "TangentKernel | None":
        if self.dtype == np.float64:
            return None
        with float64():
            promoted = self.problem.promoted()
            if not computes_in_float64(promoted):
                return None
            return TangentKernel(promoted, outputs=self.outputs)


def _check_targets(problem: Problem, outputs: int) -> None:
    for batch in problem.batches():
        targets = batch.targets
        kind = getattr(targets, "dtype", np.dtype(object)).kind
        if kind not in "iu" or targets.shape != batch.weights.shape:
            raise ProblemError(
                "tangent_kernel(outputs='target') needs one integer target per example that names "
                f"an output; got {getattr(targets, 'dtype', type(targets).__name__)} of shape "
                f"{getattr(targets, 'shape', None)}. Use another reduction."
            )
        low, high = int(np.min(targets)), int(np.max(targets))
        if low < 0 or high >= outputs:
            raise ProblemError(
                f"tangent_kernel(outputs='target') found targets from {low} to {high}, but the "
                f"network has {outputs} outputs. Give targets from 0 to {outputs - 1}."
            )


def tangent_kernel(
    problem: Problem, *, outputs: str = "full", memory: int = 2**30
) -> Float[np.ndarray, "rows rows"]:
    """Return the entries of a tangent kernel.

    Parameters
    ----------
    problem, outputs
        As for :class:`TangentKernel`.
    memory
        Bytes for two blocks of output gradients; with fewer bytes gradients are computed again.

    Returns
    -------
    The symmetric matrix on the host, ``nC`` or ``n`` rows in the order of the data, not normalised
    (``"gauss_newton"``: divided by the total weight). Cost: one backward pass over the data for
    each output, times half the number of blocks.

    Raises
    ------
    OperatorError
        If the output gradients of two examples do not fit in ``memory``.
    """
    kernel = TangentKernel(problem, outputs=outputs)
    columns = kernel.columns
    each = columns * problem.layout.dim * problem.layout.dtype.itemsize
    size = memory // (2 * each)
    if size < 1:
        raise OperatorError(
            f"tangent_kernel(memory={memory}) cannot hold the output gradients of two examples, "
            f"{2 * each} bytes. Allow more, or use TangentKernel, whose products need none of them."
        )
    whole = problem.together()
    cuts = [slice(start, start + size) for start in range(0, problem.examples, size)]
    rows, per_example = kernel.rows, kernel.dim // problem.examples
    entries = np.empty((kernel.dim, kernel.dim), kernel.dtype)

    def gradients(cut: slice) -> PyTree:
        part: Batch = jax.tree.map(lambda leaf: leaf[cut], whole)
        return _jacobian(rows, problem.params, part, problem.state)

    with problem.precision(), exact_matmul():
        for index, left in enumerate(cuts):
            first = gradients(left)
            for right in cuts[index:]:
                second = first if right is left else gradients(right)
                block = np.asarray(_gram(first, second, outputs == "trace"))
                above, below = (
                    slice(cut.start * per_example, min(cut.stop, problem.examples) * per_example)
                    for cut in (left, right)
                )
                entries[above, below] = block
                entries[below, above] = block.T
    return (entries + entries.T) / 2 * kernel.scale
