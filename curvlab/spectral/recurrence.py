"""Lanczos without a stored basis: a three-term recurrence in the memory of two vectors.

Vectors are as the operator keeps them (:meth:`SymmetricOperator.unflatten`), from step to step: a
tree like the parameters is never made flat. Every program writes into the memory of an argument.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from curvlab.core.errors import OperatorError
from curvlab.core.trees import inner, zeros_like
from curvlab.spectral.operator import SymmetricOperator


@jax.jit
def _copied(tree: PyTree) -> PyTree:
    """Return a vector whose memory is nobody else's."""
    return jax.tree.map(jnp.copy, tree)


@partial(jax.jit, donate_argnames="tree")
def _times(tree: PyTree, factor: Array) -> PyTree:
    """Return ``factor × tree``, multiplied in float64 and rounded to the dtype of the leaves."""
    return jax.tree.map(lambda x: (x.astype(jnp.float64) * factor).astype(x.dtype), tree)


@partial(jax.jit, donate_argnames="total")
def _without(total: PyTree, vector: PyTree, alpha: Array) -> PyTree:
    return jax.tree.map(lambda x, v: x - alpha.astype(x.dtype) * v, total, vector)


def check_start(norm2: float) -> None:
    """Refuse a start vector by its squared norm.

    Raises
    ------
    OperatorError
        If it is zero or not finite.
    """
    if not (np.isfinite(norm2) and norm2 > 0):
        raise OperatorError(
            f"The start vector has squared norm {norm2}. Pass a finite, non-zero vector."
        )


class ThreeTerm:
    """The recurrence ``β_j q_{j+1} = A q_j - β_{j-1} q_{j-1} - α_j q_j``.

    The product is added to ``-β_{j-1} q_{j-1}``, and ``α_j`` is taken of that sum: one vector less,
    and the more accurate order (Paige 1972). All methods must be called inside
    :func:`curvlab.core.precision.float64`.

    Parameters
    ----------
    op
        The matrix ``A``.
    first
        Start vector, flat.

    Raises
    ------
    OperatorError
        If the start vector is zero or not finite.
    """

    def __init__(self, op: SymmetricOperator, first: Any):
        self._op = op
        self.vector = _copied(op.unflatten(first))
        self._behind = zeros_like(self.vector)
        self._rest: PyTree = None
        self.start_norm2 = float(inner(self.vector, self.vector))
        check_start(self.start_norm2)
        self.vector = _times(self.vector, jnp.asarray(self.start_norm2**-0.5))

    def step(self) -> tuple[float, float]:
        """Take one product; return ``α_j`` and ``β_j²``."""
        alpha = self._reduce(None)
        return float(alpha), float(inner(self._rest, self._rest))

    def repeat(self, alpha: float, beta: float) -> None:
        """Take a step whose coefficients are known, and go on to the next vector."""
        self._reduce(jnp.asarray(alpha))
        self.advance(beta)

    def _reduce(self, alpha: Array | None) -> Array:
        total = self._op.add_product(self._behind, self.vector)
        alpha = inner(self.vector, total) if alpha is None else alpha
        self._behind, self._rest = None, _without(total, self.vector, alpha)
        return alpha

    def advance(self, beta: float) -> None:
        """Make the next vector of what is left."""
        rest, self._rest = self._rest, None
        self._follow(_times(rest, jnp.asarray(1 / beta)), beta)

    def resume(self, row: Float[np.ndarray, " dim"], beta: float) -> None:
        """Go on with a next vector that was saved."""
        self._behind = None
        self._follow(_copied(self._op.unflatten(row)), beta)

    def _follow(self, following: PyTree, beta: float) -> None:
        self._behind = _times(self.vector, jnp.asarray(-beta))
        self.vector = following


class LossOfOrthogonality:
    """Predict ``max |q_i · q_j|`` of plain Lanczos from its coefficients (Simon 1984)."""

    def __init__(self, op: SymmetricOperator):
        self._eps = float(jnp.finfo(op.dtype).eps)
        self._start = self._eps * op.dim**0.5
        self._alpha: list[float] = []
        self._beta: list[float] = []
        self._now, self._before = np.ones(1), np.zeros(0)
        self.worst = self._eps

    def add(self, alpha: float, beta: float, largest: float) -> None:
        """Advance the recurrence by one step."""
        self._alpha.append(alpha)
        j = len(self._alpha) - 1
        self._beta.append(beta)
        if beta <= 0:
            return
        now = np.append(np.zeros(j + 1), 0.0)
        if j:
            w, before = self._now, np.append(self._before, [1.0] * (j - len(self._before)))
            a, b = np.array(self._alpha), np.array(self._beta)
            k = np.arange(j)
            left = np.where(k > 0, b[k - 1] * w[np.maximum(k - 1, 0)], 0)
            now[:j] = b[k] * w[k + 1] + (a[k] - alpha) * w[k] + left - b[j - 1] * before[:j]
            now[:j] = (now[:j] + np.sign(now[:j]) * 2 * self._eps * largest) / beta
        now[j], now[j + 1] = self._start, 1.0
        self.worst = float(min(1.0, max(self.worst, np.abs(now[: j + 1]).max())))
        self._before, self._now = self._now, np.clip(now, -1e6, 1e6)
