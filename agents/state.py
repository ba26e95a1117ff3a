"""What a learner carries from one step to the next, as registered pytrees.

A state holds everything that a resumed run needs to continue bit for bit, including the sums from
which the next metrics row is made. A learner with more to carry (target parameters, replay) wraps
:class:`TrainState` in a state of its own.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tally:
    """Sums over the steps since the last metrics row.

    Attributes
    ----------
    steps
        Number of steps summed.
    loss
        Sum over steps of the mean loss of the batch.
    accuracy
        Sum over steps of the fraction of the batch that was classified correctly.
    update_norm
        Sum over steps of the Euclidean norm of the whole update.
    diverged_at
        First step whose loss was not finite, -1 if none; never cleared.
    """

    steps: Int[Array, ""]
    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    update_norm: Float[Array, ""]
    diverged_at: Int[Array, ""]

    @classmethod
    def empty(cls, diverged_at: Int[Array, ""] | None = None) -> "Tally":
        """Return zero sums that remember when the run diverged."""
        never = jnp.array(-1, jnp.int32)
        return cls(
            steps=jnp.array(0, jnp.int32),
            loss=jnp.array(0, jnp.float32),
            accuracy=jnp.array(0, jnp.float32),
            update_norm=jnp.array(0, jnp.float32),
            diverged_at=never if diverged_at is None else diverged_at,
        )

    def add(
        self,
        step: Int[Array, ""],
        loss: Float[Array, ""],
        accuracy: Float[Array, ""],
        update_norm: Float[Array, ""],
    ) -> "Tally":
        """Add the figures of the step that has just been taken, the ``step``-th of the run."""
        first: Bool[Array, ""] = (self.diverged_at < 0) & ~jnp.isfinite(loss)
        return Tally(
            steps=self.steps + 1,
            loss=self.loss + loss,
            accuracy=self.accuracy + accuracy,
            update_norm=self.update_norm + update_norm,
            diverged_at=jnp.where(first, step, self.diverged_at),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Parameters, optimiser state and randomness after ``step`` updates.

    Attributes
    ----------
    step
        Updates done so far.
    key
        Key of the run. It never changes: the key of a step is ``fold_in(key, step)``, so that a
        step draws the same batch wherever a segment began.
    params, opt_state
        Trees of the network and of the optax optimiser.
    tally
        Sums for the next metrics row.
    """

    step: Int[Array, ""]
    key: Key[Array, ""]
    params: PyTree
    opt_state: optax.OptState
    tally: Tally
