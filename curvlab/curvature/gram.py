"""Inner products of per-example gradients: which examples help each other and which interfere.

The n × n matrix on the data side, without ever holding n × parameters; how the gradients are kept
is in :mod:`curvlab.curvature.example_gradients`. The matrices on the parameter side are
:class:`curvlab.GradientSecondMoment` and :class:`curvlab.GradientCovariance`.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from curvlab.core.errors import ProblemError
from curvlab.core.precision import exact_matmul
from curvlab.curvature.cosines import CosineSummary, clusters_of, summary_of
from curvlab.curvature.data import Batch
from curvlab.curvature.example_gradients import (
    Features,
    GradientProgram,
    gradient_program,
    inner_products,
)
from curvlab.curvature.objective import Objective
from curvlab.curvature.problem import Problem

REDUCTIONS = ("trace", "logit-sum")

# What is kept of gradients at a time, and what one block of examples may hold, in bytes.
PANEL_BYTES = 2**31
BLOCK_BYTES = 2**27


@dataclass(frozen=True, eq=False)
class GradientGram:
    """The matrix of inner products (or cosines) of per-example gradients.

    Attributes
    ----------
    matrix
        ``⟨g_i, g_j⟩``, or its cosine, in the order of the data. The cosine of an example whose
        gradient is zero is undefined: NaN.
    cosines
        The cosines, whether or not they are :attr:`matrix`.
    norms
        ``‖g_i‖`` (of the centred gradients, if centred).
    outputs
        Cosines of the gradients of the *outputs*, ``Σ_c ⟨∇f_ic, ∇f_jc⟩`` normalised, or of their
        sum. Under temporal-difference and perturbation losses the sign of each residual randomises
        the cosines of the gradients; these are free of it. None if not asked for, or without a cut
        between prediction and loss.
    weights
        Weight of each example; one of weight zero does not count and its entries are NaN.
    centred
        Whether the (weighted) mean gradient was subtracted.
    estimand
        Which gradients of what.
    factored, explicit, generic
        Parameters whose gradients were kept as factors, formed from factors, or formed by
        differentiation.
    """

    matrix: Float[np.ndarray, "examples examples"]
    cosines: Float[np.ndarray, "examples examples"]
    norms: Float[np.ndarray, " examples"]
    outputs: Float[np.ndarray, "examples examples"] | None
    weights: Float[np.ndarray, " examples"]
    centred: bool
    estimand: str
    factored: tuple[str, ...]
    explicit: tuple[str, ...]
    generic: tuple[str, ...]

    @property
    def counted(self) -> Bool[np.ndarray, " examples"]:
        """Examples with positive weight and a gradient that is not zero."""
        return np.isfinite(np.diagonal(self.cosines))

    @property
    def zero_gradients(self) -> int:
        """Number of examples of positive weight whose gradient is zero."""
        return int(((self.weights > 0) & ~self.counted).sum())

    @cached_property
    def clusters(self) -> Int[np.ndarray, " examples"]:
        """Cluster of each example: 0 is the largest; −1 for examples that do not count.

        k-means on the rows of the cosine matrix, from centres that lie far apart: no random
        numbers.
        """
        return clusters_of(self.cosines)

    @cached_property
    def order(self) -> Int[np.ndarray, " examples"]:
        """Examples by cluster, then by mean cosine with their cluster; uncounted ones last."""
        labels = self.clusters
        alike = [
            np.nanmean(self.cosines[i, labels == label]) if label >= 0 else 0.0
            for i, label in enumerate(labels)
        ]
        last = np.where(labels < 0, len(labels), labels)
        return np.lexsort((-np.asarray(alike), last))

    @cached_property
    def summary(self) -> CosineSummary:
        """Scalar summaries of the cosines of the gradients."""
        return summary_of(self.cosines, self.clusters)

    @cached_property
    def output_summary(self) -> CosineSummary | None:
        """Scalar summaries of the cosines of the output gradients."""
        return None if self.outputs is None else summary_of(self.outputs, clusters_of(self.outputs))


@dataclass(frozen=True)
class _Scalar:
    """The function whose gradient is taken; compared by value."""

    objective: Objective
    of_outputs: bool

    def __call__(self, params: PyTree, state: PyTree, example: PyTree) -> Array:
        """Return the loss of one example times a factor, or its outputs along a direction."""
        inputs, targets, direction = example
        inputs, targets = jax.tree.map(lambda leaf: leaf[None], (inputs, targets))
        batch = Batch(inputs, targets, jnp.ones(1))
        if self.of_outputs:
            values = _flat_outputs(self.objective, params, batch, state)
        else:
            values = self.objective.losses(params, batch, state)
        return jnp.sum(values.astype(direction.dtype) * direction)


def gradient_gram(
    problem: Problem,
    *,
    cosine: bool = True,
    centred: bool = False,
    outputs: str | None = "trace",
) -> GradientGram:
    """Return ``C_ij = ⟨g_i, g_j⟩ / (‖g_i‖ ‖g_j‖)`` with ``g_i = ∇_θ loss(f(θ, x_i), y_i)``.

    Gradients are of the loss of each example, neither multiplied by its weight nor with the
    penalty.

    Parameters
    ----------
    problem
        The loss, the parameters and the examples. With a scalar loss (:meth:`Problem.from_loss`)
        the loss of an example is that of a batch of one.
    cosine
        Whether :attr:`GradientGram.matrix` holds cosines or inner products.
    centred
        Whether the weighted mean gradient is subtracted from each.
    outputs
        Which cosines of output gradients to report beside them: ``"trace"`` adds the kernels of all
        outputs, ``"logit-sum"`` takes the gradient of the sum of the outputs, None leaves them out.

    Returns
    -------
        The matrix with its ordering and summaries, on the host.

    Raises
    ------
    ProblemError
        If ``outputs`` is unknown, or a gradient is NaN or infinite.

    Notes
    -----
    Cost: one gradient per example and n² products of what is kept for each, all over again for each
    output with ``outputs="trace"``. What is kept is one number per input and output of a dense
    layer and the gradient of a convolution; for parameters used in any other way it is their
    gradient. Beyond 2 GiB of it the examples are taken in panels, and gradients are computed more
    than once. All examples are brought into memory, as the matrix is.

    References
    ----------
    Lyle et al. 2023, *Understanding plasticity in neural networks*, Eq. 3.
    """
    if outputs is not None and outputs not in REDUCTIONS:
        raise ProblemError(
            f"gradient_gram(outputs={outputs!r}) was asked for; cosines of output gradients are "
            "reduced by 'trace' or 'logit-sum'. Use one of these, or None to leave them out."
        )
    objective = problem.objective
    with problem.precision(), exact_matmul():
        whole = problem.together()
        weights = np.asarray(whole.weights, np.float64)
        gram, scale, program = _gram(problem, whole, _Scalar(objective, False), np.ones(()))
        _check_finite(gram, weights)
        rounding = float(jnp.finfo(problem.layout.dtype).eps)
        cosines, norms = _cosines(gram, scale, weights, centred, rounding)
        beside = None
        if outputs is not None and problem.predict is not None:
            beside = _output_cosines(problem, whole, outputs, weights)
    shares = np.outer(norms, norms)
    inner = np.where(shares > 0, cosines * shares, 0.0)
    inner[weights == 0] = inner[:, weights == 0] = np.nan
    return GradientGram(
        cosines if cosine else inner,
        cosines,
        norms,
        beside,
        weights,
        centred,
        f"{'centred ' if centred else ''}gradients of {problem.describe(penalty=False)}",
        program.factored,
        program.explicit,
        program.generic,
    )


def _output_cosines(
    problem: Problem, whole: Batch, outputs: str, weights: Float[np.ndarray, " examples"]
) -> Float[np.ndarray, "examples examples"]:
    first: Batch = jax.tree.map(lambda leaf: leaf[:1], whole)
    shape = jax.eval_shape(
        partial(_flat_outputs, problem.objective), problem.params, first, problem.state
    ).shape
    directions = np.ones((1, *shape)) if outputs == "logit-sum" else np.eye(prod(shape))
    total, largest = np.zeros((len(weights),) * 2), np.ones(len(weights))
    for number, direction in enumerate(directions):
        gram, scale, _ = _gram(
            problem, whole, _Scalar(problem.objective, True), direction.reshape(shape)
        )
        if not number:
            largest = scale
        ratio = scale / largest
        total += gram * np.outer(ratio, ratio)
    return _cosines(total, largest, weights, centred=False)[0]


def _gram(
    problem: Problem, whole: Batch, scalar: _Scalar, direction: Float[np.ndarray, "..."]
) -> tuple[Float[np.ndarray, "examples examples"], Float[np.ndarray, " examples"], GradientProgram]:
    """Return inner products of scaled gradients, the scales, and how they were computed."""
    count = len(whole.weights)
    direction = np.broadcast_to(direction.astype(problem.layout.dtype), (count, *direction.shape))
    leaves = jax.tree.leaves((whole.inputs, whole.targets, direction))
    one = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),
        (whole.inputs, whole.targets, direction),
    )
    program = gradient_program(scalar, problem.params, problem.state, one)
    params, state = jax.tree.leaves(problem.params), jax.tree.leaves(problem.state)
    each = problem.layout.dtype.itemsize
    block = max(1, min(count, BLOCK_BYTES // (each * (program.held + program.kept))))

    def features(start: int) -> Features:
        some = np.minimum(np.arange(start, start + block), count - 1)
        return _features(program, params, state, [leaf[some] for leaf in leaves])

    starts = list(range(0, count, block))
    panel = max(1, PANEL_BYTES // (each * program.kept * block))
    gram, scale = np.zeros((len(starts) * block,) * 2), np.zeros(len(starts) * block)
    for first in range(0, len(starts), panel):
        inside: list[Features] = []
        for number, start in enumerate(starts[first:], first):
            new = features(start)
            scale[start : start + block] = np.asarray(new.scale)
            if number < first + panel:
                inside.append(new)
            for other, old in zip(starts[first:], inside, strict=False):
                part = np.asarray(inner_products(old, new), np.float64)
                gram[other : other + block, start : start + block] = part
                gram[start : start + block, other : other + block] = part.T
    gram = gram[:count, :count]
    return (gram + gram.T) / 2, scale[:count], program


@partial(jax.jit, static_argnames="program")
def _features(
    program: GradientProgram, params: list[Array], state: list[Any], example: list[Any]
) -> Features:
    return program.features(params, state, example)


def _flat_outputs(
    objective: Objective, params: PyTree, batch: Batch, state: PyTree
) -> Float[Array, " outputs"]:
    """Return all outputs of a batch of one example."""
    outputs = jax.tree.leaves(objective.outputs(params, batch.inputs, state))
    return jnp.concatenate([leaf.reshape(-1) for leaf in outputs])


def _check_finite(
    gram: Float[np.ndarray, "examples examples"], weights: Float[np.ndarray, " examples"]
) -> None:
    bad = int((~np.isfinite(np.diagonal(gram)) & (weights > 0)).sum())
    if bad:
        raise ProblemError(
            f"gradient_gram found {bad} of {len(weights)} gradients that are NaN or infinite. Look "
            "at problem.losses() for the examples, and leave them out with problem.subset(mask)."
        )


def _cosines(
    gram: Float[np.ndarray, "examples examples"],
    scale: Float[np.ndarray, " examples"],
    weights: Float[np.ndarray, " examples"],
    centred: bool,
    rounding: float = 0.0,
) -> tuple[Float[np.ndarray, "examples examples"], Float[np.ndarray, " examples"]]:
    """Return cosines, NaN where undefined, and norms."""
    some = weights > 0
    gram = np.where(np.outer(some, some), gram, 0.0)
    floor = np.zeros(len(gram))
    if centred:
        # The mean mixes examples, so all need one scale.
        scale = np.where(some, scale, 0.0)
        top = scale.max(initial=0.0) or 1.0
        gram = gram * np.outer(scale / top, scale / top)
        shares = weights / weights.sum()
        mean = gram @ shares
        floor = 64 * rounding * (np.diagonal(gram) + abs(shares @ mean))
        gram = gram - mean[:, None] - mean[None, :] + shares @ mean
        scale = np.full(len(gram), top)
    squares = np.diagonal(gram)
    found = some & (squares > floor)
    norms = np.where(found, np.sqrt(np.where(found, squares, 1.0)), 0.0)
    safe = np.where(found, norms, np.nan)
    cosines = np.clip(gram / np.outer(safe, safe), -1.0, 1.0)
    return cosines, np.where(some, norms * scale, np.nan)
