"""Likelihoods: what a Fisher matrix expects over, for losses that are negative log-likelihoods.

A likelihood turns the outputs of one example into a distribution of its target. Only some losses
come from one: cross-entropy does, squared error does once a variance is named, Huber, quantile and
TD losses do not.
"""

import abc
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num
from typing_extensions import override

from curvlab.objectives.perturbation import output_perturbation
from curvlab.objectives.supervised import cross_entropy, squared_error


class Likelihood(abc.ABC):
    """A distribution of targets given outputs, compared by value and without arrays.

    ``l(f, y) = -log p(y | f)`` up to a constant. Outputs have a leading example axis.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Name with settings, for reports."""

    @abc.abstractmethod
    def negative_log(
        self, outputs: Float[Array, "examples *output"], targets: Num[Array, "examples *target"]
    ) -> Float[Array, " examples"]:
        """Return ``l(f, y)`` for each example, up to a constant."""

    @abc.abstractmethod
    def factor(
        self, outputs: Float[Array, "examples *output"], tangent: Float[Array, "examples *output"]
    ) -> Float[Array, "examples *output"]:
        """Return ``Lᵀ u`` with ``L Lᵀ = E_y[∇l ∇lᵀ]`` in the outputs, linear in ``u``.

        The expectation is over the targets that the outputs themselves predict.
        """

    @abc.abstractmethod
    def draw(self, key: Array, output: Float[Array, "*output"]) -> Num[Array, "*target"]:
        """Draw the target of one example from its outputs."""

    def fisher(
        self, outputs: Float[Array, "examples *output"], tangent: Float[Array, "examples *output"]
    ) -> Float[Array, "examples *output"]:
        """Return ``E_y[∇l ∇lᵀ] u = L Lᵀ u``."""

        def transposed(u: Array) -> Array:
            return self.factor(outputs, u)

        return jax.linear_transpose(transposed, tangent)(transposed(tangent))[0]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Categorical(Likelihood):
    """Independent integer labels with probabilities ``softmax(f)`` along the last axis.

    ``l = -Σ log softmax(f)[y]``, a sum over any axes between examples and classes. The output
    Fisher is ``diag(p) - p pᵀ``, with ``L = diag(√p) - p √pᵀ``.
    """

    @property
    @override
    def name(self) -> str:
        return "categorical likelihood"

    @override
    def negative_log(
        self, outputs: Float[Array, "examples *output"], targets: Num[Array, "examples *target"]
    ) -> Float[Array, " examples"]:
        logs = jax.nn.log_softmax(outputs)
        chosen = jnp.take_along_axis(logs, targets[..., None].astype(jnp.int32), -1)
        return -chosen.reshape(chosen.shape[0], -1).sum(axis=1)

    @override
    def factor(
        self, outputs: Float[Array, "examples *output"], tangent: Float[Array, "examples *output"]
    ) -> Float[Array, "examples *output"]:
        shares = jax.nn.softmax(outputs)
        mean = jnp.sum(shares * tangent, axis=-1, keepdims=True)
        return jnp.sqrt(shares) * (tangent - mean)

    @override
    def draw(self, key: Array, output: Float[Array, "*output"]) -> Num[Array, "*target"]:
        # In float32 whatever the precision, so that the same key gives the same labels.
        return jax.random.categorical(key, output.astype(jnp.float32))


@jax.tree_util.register_static
@dataclass(frozen=True)
class Gaussian(Likelihood):
    """Targets ``y ~ N(f, variance I)``: ``l = Σ_c (f_c - y_c)² / (2 variance)``.

    Attributes
    ----------
    variance
        Variance of each output. None stands for half the number of outputs of an example: with it
        ``l`` is :func:`curvlab.squared_error`, a mean over outputs without the factor ½.
    """

    variance: float | None = None

    @property
    @override
    def name(self) -> str:
        if self.variance is None:
            return "Gaussian likelihood of variance outputs/2"
        return f"Gaussian likelihood of variance {self.variance:g}"

    def _variance(self, output: Any) -> float:
        return self.variance if self.variance is not None else max(1, output.size) / 2

    @override
    def negative_log(
        self, outputs: Float[Array, "examples *output"], targets: Num[Array, "examples *target"]
    ) -> Float[Array, " examples"]:
        squares = jnp.square(outputs - targets).reshape(outputs.shape[0], -1)
        return squares.sum(axis=1) / (2 * self._variance(squares[0]))

    @override
    def factor(
        self, outputs: Float[Array, "examples *output"], tangent: Float[Array, "examples *output"]
    ) -> Float[Array, "examples *output"]:
        return tangent / self._variance(outputs[0]) ** 0.5

    @override
    def draw(self, key: Array, output: Float[Array, "*output"]) -> Num[Array, "*target"]:
        noise = jax.random.normal(key, output.shape, jnp.float32)
        return output + self._variance(output) ** 0.5 * noise.astype(output.dtype)


_LIKELIHOODS: dict[Any, Likelihood] = {
    cross_entropy: Categorical(),
    squared_error: Gaussian(),
    output_perturbation: Gaussian(),
}


def likelihood_of(loss: Any) -> Likelihood | None:
    """Return the likelihood of which a loss is the negative logarithm, None if none is known."""
    try:
        return _LIKELIHOODS.get(loss)
    except TypeError:  # not hashable
        return None
