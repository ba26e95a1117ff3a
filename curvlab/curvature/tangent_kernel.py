"""The tangent kernel: inner products of output gradients, a matrix on the data side.

It is built from the same Jacobian as the Gauss-Newton matrix, multiplied the other way round; with
the factor of the output Hessian between, the two share their non-zero spectrum.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from typing_extensions import override

from curvlab.core.errors import ProblemError, UnknownNameError
from curvlab.core.precision import float64
from curvlab.curvature.drawn_targets import require_one_output
from curvlab.curvature.layers import layers_of
from curvlab.curvature.linear_maps import LinearMap
from curvlab.curvature.metric import Metric
from curvlab.curvature.output_maps import convex_in_outputs, output_hessians, weigh
from curvlab.curvature.problem import Batch, Objective, Problem
from curvlab.curvature.selection import choose, merge, part_of, split
from curvlab.curvature.sentinel import check_problem, computes_in_float64
from curvlab.objectives import likelihood_of
from curvlab.spectral.operator import SymmetricOperator, forgetful_copy

OUTPUTS = ("full", "gauss_newton", "trace", "logit-sum", "target")
"""Which outputs make the rows of a kernel, see :class:`TangentKernel`."""


@dataclass(frozen=True)
class Rows:
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


@partial(jax.jit, static_argnames=("rows", "chosen"))
def _linearise(
    rows: Rows, chosen: tuple[bool, ...], params: PyTree, batch: Batch, state: PyTree
) -> LinearMap:
    free, fixed = split(params, chosen)
    return jax.linearize(lambda point: rows(merge(point, fixed), batch, state), free)[1]


@jax.jit
def _pull(forward: LinearMap, params: PyTree, cotangent: Array) -> PyTree:
    return jax.linear_transpose(forward, params)(cotangent)[0]


@jax.jit
def _push(forward: LinearMap, tangent: PyTree) -> Array:
    return forward(tangent)


class TangentKernel(SymmetricOperator):
    """``K = J Jᵀ`` with ``J`` the Jacobian of outputs in the parameters; positive semidefinite.

    Parameters
    ----------
    problem
        The prediction, the parameters and the examples. Rows are in the order of the data, which
        must be in memory: every vector has an entry for each of them, and streams promise no
        order.
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

    :meth:`block` and :meth:`in_metric` change the parameters that ``J`` has columns for, not the
    rows of the matrix: what they leave shares its spectrum with the Gauss-Newton matrix as above if
    the same is done to that.

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
            problem.examples * rows, problem.layout.dtype, "", positive_semidefinite=True
        )
        self.formula = {
            "full": f"J J^T over {int(np.prod(shape))} outputs, not normalised",
            "gauss_newton": f"L^T J J^T L of mean {problem.objective.name}",
            "trace": f"sum over {int(np.prod(shape))} outputs, not normalised",
            "logit-sum": "gradients of the sum of outputs, not normalised",
            "target": "gradients of the target's output, not normalised",
        }[outputs]
        """Which inner products of which rows."""
        self._set(problem, (True,) * len(problem.layout.names), ())

    def _set(self, problem: Problem, chosen: tuple[bool, ...], metrics: tuple[Metric, ...]) -> None:
        """Make this the kernel of ``problem`` in the chosen leaves, in all of the metrics."""
        self.problem = problem
        self._chosen = chosen
        self._part = part_of(problem.layout, chosen)
        self.metrics = metrics
        self.dtype = self._part.dtype

    @property
    @override
    def estimand(self) -> str:
        problem = self.problem
        parts = [
            f"tangent kernel ({self.formula}) of {problem.examples} examples",
            problem.describe_parameters(None if all(self._chosen) else self._part),
            *problem.describe_data(),
            *(f"in the {metric.name}" for metric in self.metrics),
        ]
        return ", ".join(parts)

    def _with(
        self, problem: Problem, chosen: tuple[bool, ...], metrics: tuple[Metric, ...]
    ) -> "TangentKernel":
        other = forgetful_copy(self)
        other._set(problem, chosen, metrics)
        return other

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the layers that ``J`` has columns for, from the input to the output."""
        return layers_of(self.problem, self._chosen)

    def block(self, paths: str | Iterable[str] = (), *, last: int | None = None) -> "TangentKernel":
        """Return ``J_b J_bᵀ`` with the Jacobian in some parameters; the others are constants.

        The kernels of all layers sum to the whole.

        Parameters
        ----------
        paths, last
            As for :meth:`CurvatureOperator.block`.

        Raises
        ------
        OperatorError
            If neither or both are given, or there are fewer layers.
        UnknownNameError
            If no parameter has such a path.
        """
        inside = choose(self._part.names, self.layers, paths, last)
        names = self.problem.layout.names
        return self._with(self.problem, tuple(name in inside for name in names), self.metrics)

    def in_metric(self, metric: Metric) -> "TangentKernel":
        """Return ``J P⁻¹ Jᵀ``: the kernel of the parameters in which ``P`` is the identity.

        It describes steps ``-η P⁻¹ g`` in the space of outputs.

        Raises
        ------
        OperatorError
            If the metric has no positive entry for some parameter, or another shape.
        """
        metric.inverse_root(self._part.names, self._part.shapes)  # refuses one that does not fit
        return self._with(self.problem, self._chosen, (*self.metrics, metric))

    @property
    def rows(self) -> Rows:
        """The function whose Jacobian makes the kernel."""
        return Rows(self.outputs, self.problem.objective)

    @cached_property
    def _maps(self) -> tuple[LinearMap, ...]:
        problem, rows = self.problem, self.rows
        return tuple(
            _linearise(rows, self._chosen, problem.params, batch, problem.state)
            for batch in problem.batches()
        )

    @cached_property
    def _inverse_metric(self) -> Array | None:
        """The diagonal of ``P⁻¹``, with several metrics that of their product."""
        if not self.metrics:
            return None
        names, shapes = self._part.names, self._part.shapes
        roots = [metric.inverse_root(names, shapes) for metric in self.metrics]
        with self.precision():
            return jnp.asarray(np.prod(roots, axis=0) ** 2, self.dtype)

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
        """Return ``J P⁻¹ Jᵀ u`` over all batches."""
        free, tangent, start = split(self.problem.params, self._chosen)[0], None, 0
        for forward, batch in zip(self._maps, self.problem.batches(), strict=True):
            end = start + batch.weights.size
            part = _pull(forward, free, cotangent[start:end])
            tangent = part if tangent is None else jax.tree.map(jnp.add, tangent, part)
            start = end
        if self._inverse_metric is not None:
            tangent = self._part.unravel(self._inverse_metric * self._part.ravel(tangent))
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
            return self._with(promoted, self._chosen, self.metrics)


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
