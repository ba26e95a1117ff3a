"""Fisher information matrices: exact, sampled, and the empirical one.

The exact and the sampled one expect over targets drawn from the network's own predictions, and so
exist for likelihoods only. The empirical one uses the targets of the data and is the gradient
second moment under another name.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PyTree
from typing_extensions import override

from curvlab.core.errors import OperatorError, ProblemError
from curvlab.curvature.drawn_targets import draw_targets, require_one_output
from curvlab.curvature.gradient_covariance import GradientSecondMoment
from curvlab.curvature.linear_maps import LinearMap
from curvlab.curvature.output_maps import OutputCurvature, weigh
from curvlab.curvature.problem import Batch, Objective, Problem
from curvlab.objectives.likelihoods import Likelihood, likelihood_of

EmpiricalFisher = GradientSecondMoment
"""``(1/n) Σ_i g_i g_iᵀ`` with the gradients of the data's own targets; not a Fisher matrix."""


def _likelihood(problem: Problem, given: Likelihood | None) -> Likelihood:
    if problem.predict is None:
        raise ProblemError(
            "A Fisher matrix needs the cut between prediction and loss; this problem was made by "
            "Problem.from_loss. Use Problem(predict, loss, ...)."
        )
    likelihood = given or likelihood_of(problem.loss)
    if likelihood is None:
        raise ProblemError(
            f"The Fisher matrix is defined for likelihoods; {problem.objective.name} is not known "
            "to be the negative logarithm of one. Pass likelihood=Categorical() or "
            "Gaussian(variance), or use GaussNewton or EmpiricalFisher."
        )
    require_one_output(problem)
    return likelihood


class Fisher(OutputCurvature):
    """``F = (1/n) Σ_i J_iᵀ E_{y ~ p(·|f_i)}[∇l ∇lᵀ] J_i``, the expectation in closed form.

    Positive semidefinite. Equal to the Gauss-Newton matrix for cross-entropy and squared error,
    whose likelihoods are exponential families in their natural parameters. The targets of the data
    do not enter, nor does the penalty.

    Parameters
    ----------
    problem
        The objective, with a prediction.
    likelihood
        The distribution of targets. By default that of the loss: categorical for
        :func:`curvlab.cross_entropy`; for :func:`curvlab.squared_error` the Gaussian whose negative
        log-likelihood it is (variance: half the number of outputs, ½ for one).

    Raises
    ------
    ProblemError
        If the loss is not known to be a negative log-likelihood and no likelihood is given.

    Notes
    -----
    A product costs as much as one of :class:`curvlab.GaussNewton`.

    References
    ----------
    Amari 1998, *Natural gradient works efficiently in learning*. Kunstner, Balles and Hennig 2019,
    *Limitations of the empirical Fisher approximation*.
    """

    matrix = "Fisher matrix"

    def __init__(self, problem: Problem, *, likelihood: Likelihood | None = None):
        self.likelihood = _likelihood(problem, likelihood)
        self.matrix = f"Fisher matrix ({self.likelihood.name})"
        super().__init__(problem, positive_semidefinite=True)

    @override
    def state(self) -> PyTree:
        return self.likelihood, self.problem.state

    @staticmethod
    @override
    def inner_state(state: PyTree) -> PyTree:
        return state[1]

    @staticmethod
    @override
    def middle(objective: Objective, outputs: PyTree, batch: Batch, state: PyTree) -> LinearMap:
        return jax.tree_util.Partial(_expected, state[0], outputs, batch.weights)


def _expected(likelihood: Likelihood, outputs: Array, weights: Array, tangent: Array) -> Array:
    """Return ``w_i E_y[∇l ∇lᵀ] u_i``."""
    return weigh(weights, likelihood.fisher(outputs, tangent))


@dataclass(frozen=True)
class _SampledLoss:
    """Mean negative log-likelihood over the drawn targets, on axis 1, of each example."""

    likelihood: Likelihood
    __name__: str

    def __call__(
        self,
        outputs: Float[Array, "examples *output"],
        targets: Num[Array, "examples samples *target"],
    ) -> Float[Array, " examples"]:
        each = jax.vmap(self.likelihood.negative_log, in_axes=(None, 1), out_axes=1)
        return each(outputs, targets).mean(axis=1)


@dataclass(frozen=True)
class _Sampler:
    """Draw several targets for one example."""

    likelihood: Likelihood
    samples: int

    def __call__(self, key: Array, output: Array) -> Array:
        keys = jax.random.split(key, self.samples)
        return jax.vmap(self.likelihood.draw, in_axes=(0, None))(keys, output)


class MonteCarloFisher(OutputCurvature):
    """``F = (1/nS) Σ_i Σ_s g_is g_isᵀ``: gradients for ``S`` targets drawn from the predictions.

    An unbiased estimate of :class:`Fisher`, positive semidefinite, of rank at most ``nS``. The
    targets are drawn once and stored as data, so the operator is deterministic; ``problem`` is the
    problem with these targets.

    Parameters
    ----------
    problem
        The objective, with a prediction.
    key
        Key of the draw.
    samples
        Targets drawn for each example.
    likelihood
        As for :class:`Fisher`.

    Raises
    ------
    OperatorError
        If there is no sample.
    ProblemError
        If the loss is not known to be a negative log-likelihood and no likelihood is given.

    Notes
    -----
    A product costs as much as one of :class:`Fisher`, whatever ``samples``; its use is comparison
    with methods that sample, and likelihoods without a closed form.
    """

    matrix = "Monte-Carlo Fisher matrix"

    def __init__(
        self,
        problem: Problem,
        key: Array,
        *,
        samples: int = 1,
        likelihood: Likelihood | None = None,
    ):
        if samples < 1:
            raise OperatorError(
                f"MonteCarloFisher(samples={samples}) has no sample. Use 1 or more."
            )
        self.likelihood = _likelihood(problem, likelihood)
        drawn = "1 target" if samples == 1 else f"{samples} targets"
        self.matrix = f"Monte-Carlo Fisher matrix ({self.likelihood.name}, {drawn} per example)"
        sampled = draw_targets(
            problem,
            key,
            _Sampler(self.likelihood, samples),
            _SampledLoss(self.likelihood, problem.objective.name),
        )
        super().__init__(sampled, positive_semidefinite=True)

    @staticmethod
    @override
    def middle(objective: Objective, outputs: PyTree, batch: Batch, state: PyTree) -> LinearMap:
        sampled = objective.loss
        assert isinstance(sampled, _SampledLoss)

        def gradient(targets: Array) -> Array:
            def total(point: Array) -> Array:
                return sampled.likelihood.negative_log(point, targets).sum()

            return jax.grad(total)(outputs)

        residuals = jax.vmap(gradient, in_axes=1, out_axes=1)(batch.targets)
        return jax.tree_util.Partial(_outer, residuals, batch.weights)


def _outer(residuals: Array, weights: Array, tangent: Array) -> Array:
    """Return ``w_i (1/S) Σ_s r_is r_isᵀ u_i``."""
    examples, samples = residuals.shape[:2]
    rows = residuals.reshape(examples, samples, -1)
    shares = jnp.einsum("isc,ic->is", rows, tangent.reshape(examples, -1)) / samples
    mean = jnp.einsum("isc,is->ic", rows, shares)
    return weigh(weights, mean.reshape(tangent.shape))
