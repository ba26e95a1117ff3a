"""The functions that make the loss of a batch: the static part of a problem."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from curvlab.core.errors import ProblemError
from curvlab.curvature.data import Batch


@dataclass(frozen=True)
class Objective:
    """The static part of a problem: which functions make the loss of a batch.

    Compared by value, so that problems which differ only in arrays share every compilation. Pass
    the same function object, or a value-compared callable, for all checkpoints.

    Attributes
    ----------
    predict
        ``predict(params, inputs) -> outputs``, or ``predict(params, inputs, state)`` when the
        problem has a state; ``None`` for a scalar loss.
    loss
        ``loss(outputs, targets) -> one loss per example``; for a scalar loss
        ``loss(params, (inputs, targets)) -> mean loss``.
    penalty
        ``penalty(params) -> scalar`` added to the mean, or ``None``.
    """

    predict: Callable[..., PyTree] | None
    loss: Callable[..., Array]
    penalty: Callable[[PyTree], Array] | None = None

    def outputs(self, params: PyTree, inputs: PyTree, state: PyTree) -> PyTree:
        """Return the network's outputs on a batch."""
        assert self.predict is not None
        return (
            self.predict(params, inputs) if state is None else self.predict(params, inputs, state)
        )

    def losses(self, params: PyTree, batch: Batch, state: PyTree) -> Array:
        """Return one loss per example (the batch mean repeated, for a scalar loss).

        That it *is* one per example is checked by :class:`Problem`, not by the annotation.
        """
        if self.predict is None:
            mean = self.loss(params, (batch.inputs, batch.targets))
            return jnp.broadcast_to(mean, batch.weights.shape)
        return self.loss(self.outputs(params, batch.inputs, state), batch.targets)

    def total(self, params: PyTree, batch: Batch, state: PyTree) -> Float[Array, ""]:
        """Return the weighted sum of losses over a batch."""
        losses = self.losses(params, batch, state)
        return jnp.sum(batch.weights.astype(losses.dtype) * losses)

    @property
    def name(self) -> str:
        """Name of the loss, for reports."""
        return getattr(self.loss, "__name__", type(self.loss).__name__)

    def check_shape(self, params: PyTree, batch: Batch, state: PyTree) -> None:
        """Refuse a loss of the wrong shape; traces it once.

        Raises
        ------
        ProblemError
            If the loss is not one number per example, or a scalar where that is asked for.
        """
        if self.predict is None:
            shape = jax.eval_shape(self.loss, params, (batch.inputs, batch.targets)).shape
            if shape != ():
                raise ProblemError(
                    f"Problem.from_loss needs a scalar mean loss; {self.name} returned shape "
                    f"{shape}. Return its mean, or use Problem(predict, loss, ...)."
                )
            return
        examples = batch.weights.shape[0]
        shape = batch_losses.eval_shape(self, params, batch, state).shape
        if shape != (examples,):
            what = "a scalar" if shape == () else f"shape {shape}"
            raise ProblemError(
                f"The loss must return one value per example, shape ({examples},); {self.name} "
                f"returned {what}. Remove the reduction over examples (and reduce over outputs), "
                "or use Problem.from_loss for a scalar mean loss."
            )


@partial(jax.jit, static_argnames="objective")
def batch_losses(objective: Objective, params: PyTree, batch: Batch, state: PyTree) -> Array:
    """Return the loss of each example of a batch."""
    return objective.losses(params, batch, state)


@partial(jax.jit, static_argnames="objective")
def batch_total(objective: Objective, params: PyTree, batch: Batch, state: PyTree) -> Array:
    """Return the weighted sum of losses over a batch."""
    return objective.total(params, batch, state)


@partial(jax.jit, static_argnames="objective")
def batch_gradient(objective: Objective, params: PyTree, batch: Batch, state: PyTree) -> PyTree:
    """Return the gradient of the weighted sum of losses over a batch."""
    return jax.grad(objective.total)(params, batch, state)
