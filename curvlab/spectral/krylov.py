"""A Krylov space that grows step by step: the recurrence behind every estimator here.

Products and rows are in the operator's dtype on the device; the recurrence coefficients are
float64 numbers on the host, fetched at every step. Every new vector is held against all earlier
ones, at every step: switching that off above some order is how ghosts (copies of converged
eigenvalues) arise. Without a stored basis (:attr:`Tier.NONE`) ghosts are accepted and reported.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64
from curvlab.spectral.basis import KrylovBasis, Tier, dot, join, scale
from curvlab.spectral.journal import Journal, Step
from curvlab.spectral.operator import SymmetricOperator

SECOND_PASS = 0.7
"""A vector that keeps less than this share of its length in a pass is orthogonalised again.

Rounding in a pass is relative to the length before it (Daniel, Gragg, Kaufman, Stewart 1976).
"""

BREAKDOWN = 32
"""A residual below this many unit roundoffs of the operator's scale ends the Krylov space."""


def without_two(image: Array, vector: Array, previous: Array, alpha: Array, beta: Array) -> Array:
    """Return ``A q_j - α q_j - β q_{j-1}``, in every pass with the same roundings."""
    return image - alpha.astype(image.dtype) * vector - beta.astype(image.dtype) * previous


@jax.jit
def _three_term(
    image: Array, vector: Array, previous: Array, beta: Array
) -> tuple[Array, Array, Array]:
    alpha = dot(vector, image)
    rest = without_two(image, vector, previous, alpha, beta)
    return rest, alpha, dot(rest, rest)


@partial(jax.jit, static_argnames="dim")
def _scaled(panels: Array, factor: Array, *, dim: int) -> Float[Array, " dim"]:
    return join(scale(panels, factor), dim=dim)


class Krylov:
    """The Krylov space of one start vector, and the projection of the operator on it.

    Without restarts the projection is tridiagonal: ``A Qᵀ = Qᵀ T + residual q e_mᵀ``. After
    :meth:`restart` its leading part is diagonal (the Ritz values that were kept) with one row that
    couples them to the rest.

    Parameters
    ----------
    op
        The matrix.
    first
        Start vector, not zero.
    tier
        Where the rows are kept.
    fresh
        Function of the step that returns a vector with which to go on after a breakdown; without
        it the space ends there.
    journal
        Where every step is saved, and from which steps that are saved already are taken.

    Raises
    ------
    OperatorError
        If the start vector is zero or not finite.
    """

    def __init__(
        self,
        op: SymmetricOperator,
        first: Any,
        *,
        tier: Tier = Tier.DEVICE,
        fresh: Callable[[int], Array] | None = None,
        journal: Journal | None = None,
    ):
        self.op = op
        self.tier = tier
        self.diagonal: list[float] = []
        self.offdiagonal: list[float] = []
        self.kept: Float[np.ndarray, " kept"] = np.zeros(0)
        self.arrow: Float[np.ndarray, " kept"] = np.zeros(0)
        self.residual = 0.0
        self.breakdown_step: int | None = None
        self.exhausted = False
        self.matvecs = 0
        self.first_restart: int | None = None  # rows at that moment
        self._fresh = fresh
        self._coupled = True  # the next row to the last one; not after a breakdown
        self._largest = 0.0  # scale of the operator as seen so far
        self._loss = _LossOfOrthogonality(op)
        # Vectors are cut and joined by a basis even where none is stored.
        spread = op.sharding()
        self._cutter = KrylovBasis(op.dim, op.dtype, sharding=spread)
        self.basis = (
            None if tier is Tier.NONE else KrylovBasis(op.dim, op.dtype, tier, sharding=spread)
        )
        with float64():
            vector = self._cutter.cut(first)
            self.start_norm2 = float(dot(vector, vector))
            if not (np.isfinite(self.start_norm2) and self.start_norm2 > 0):
                raise OperatorError(
                    f"The start vector has squared norm {self.start_norm2}. Pass a finite, "
                    "non-zero vector."
                )
            self._next = self._unit(vector, self.start_norm2**-0.5)
            self._previous = jnp.zeros_like(vector)
        self._journal = journal
        self._saved = 0 if journal is None else len(journal)

    @property
    def order(self) -> int:
        """Number of rows."""
        return len(self.kept) + len(self.diagonal)

    @property
    def coupled(self) -> bool:
        """Whether the next row continues the space, and is not a fresh vector after a breakdown."""
        return self._coupled

    def projection(self) -> Float[np.ndarray, "order order"]:
        """Return the operator projected on the rows."""
        k, m = len(self.kept), self.order
        matrix = np.zeros((m, m))
        matrix[np.arange(m), np.arange(m)] = [*self.kept, *self.diagonal]
        below = np.arange(k, m - 1)
        matrix[below, below + 1] = matrix[below + 1, below] = self.offdiagonal[: len(below)]
        if m > k:
            matrix[:k, k] = matrix[k, :k] = self.arrow
        return matrix

    @property
    def predicted_loss(self) -> float:
        """What the recurrence predicts of ``max |Q Qᵀ - I|`` without reorthogonalisation."""
        return self._loss.worst

    def orthogonality(self) -> float:
        """Return ``max |Q Qᵀ - I|`` of the rows; predicted, where they were not kept."""
        if self.basis is None:
            return self.predicted_loss
        with float64():
            return self.basis.orthogonality()

    def extend(self, order: int, tick: Callable[[int], None] | None = None) -> None:
        """Grow to ``order`` rows, or until the space is exhausted.

        Parameters
        ----------
        order
            Rows to reach; nothing happens if there are as many already.
        tick
            Called with the number of rows after each step.

        Raises
        ------
        OperatorError
            If a product is not finite, or the journal belongs to another operator.
        """
        order = min(order, self.op.dim)
        with float64():
            while self.order < order and not self.exhausted:
                self._step()
                if tick is not None:
                    tick(self.order)

    def restart(self, matrix: Float[np.ndarray, "kept order"]) -> None:
        """Keep the Ritz vectors ``matrix @ Q`` as first rows and go on from the last vector.

        Thick restart: rows of ``matrix`` are eigenvectors of :meth:`projection`.
        """
        assert self.basis is not None
        if self.first_restart is None:
            self.first_restart = self.order
        projected = self.projection()
        kept = (matrix * (matrix @ projected)).sum(1)
        last = matrix[:, -1] * self.residual
        with float64():
            rows = self.basis.combine(matrix)
            self.basis = KrylovBasis(
                self.op.dim, self.op.dtype, self.tier, sharding=self.op.sharding()
            )
            for row in rows:
                self.basis.append(self.basis.cut(row))
        self.kept, self.arrow = kept, last
        self.diagonal, self.offdiagonal = [], []
        self._previous = jnp.zeros_like(self._previous)

    def _step(self) -> None:
        flat, index = self._next, self.matvecs
        beta = self.offdiagonal[-1] if self.offdiagonal and self._coupled else 0.0
        self.matvecs += 1
        known = 0 < index < self._saved - 1
        # The panels are cut afterwards, so that they take no memory while the product runs.
        image = None if known else self._cutter.cut(self.op.matvec(flat))
        vector = self._cutter.cut(flat)
        if self.basis is not None:
            self.basis.append(vector)
        if image is None:
            assert self._journal is not None
            step, rest = self._journal[index], vector
        else:
            step, rest = self._reduced(image, vector, beta)
            self._save(index, step, flat)
        self.diagonal.append(step.alpha)
        self.residual, self._largest = step.beta, step.largest
        if self.basis is None:
            self._loss.add(step.alpha, step.beta, step.largest)
        self._coupled = True
        self._previous = vector
        self._advance(rest)
        if known and self._journal is not None:
            row = self._journal.row(index + 1)
            self._next = self._next if row is None else jnp.asarray(row)

    def _reduced(self, image: Array, vector: Array, beta: float) -> tuple[Step, Array]:
        """Take the rows off a product: the coefficients of a step, and what is left."""
        rest, *lengths = _three_term(image, vector, self._previous, jnp.asarray(beta))
        alpha, before2 = (float(x) for x in jax.device_get(lengths))
        if not np.isfinite(alpha + before2):
            raise OperatorError(
                f"The product at Lanczos step {self.matvecs} is not finite. Check the parameters "
                "and the data for NaN or overflow (Problem.value() and .gradient())."
            )
        largest = max(self._largest, (alpha**2 + beta**2 + before2) ** 0.5)
        residual = before2**0.5
        if self.basis is not None:
            rest, residual = _orthogonalised(self.basis, rest, before2)
        return Step(alpha, residual, largest), rest

    def _advance(self, rest: Array) -> None:
        """Make the next row of what is left, or end the space, or go on with a fresh vector."""
        tiny = BREAKDOWN * float(jnp.finfo(self.op.dtype).eps) * self._largest
        if self.order == self.op.dim or self.residual <= tiny:
            if self.breakdown_step is None:
                self.breakdown_step = self.order
            if self._fresh is None or self.order == self.op.dim or self.basis is None:
                self.exhausted = True
                return
            candidate = self.basis.cut(self._fresh(self.order))
            rest, length = _orthogonalised(self.basis, candidate, float(dot(candidate, candidate)))
            self.offdiagonal.append(0.0)
            self._coupled = False
            self._next = self._unit(rest, 1 / length)
            return
        self.offdiagonal.append(self.residual)
        self._next = self._unit(rest, 1 / self.residual)

    def _unit(self, panels: Array, factor: float) -> Array:
        return _scaled(panels, jnp.asarray(factor, jnp.float64), dim=self.op.dim)

    def _save(self, index: int, step: Step, flat: Array) -> None:
        """Save a step, or compare it with what was saved."""
        if self._journal is None:
            return
        if index >= self._saved:
            self._journal.record(step, self._cutter.on_host(flat))
        elif step != self._journal[index]:
            raise OperatorError(
                f"The saved Lanczos run in {self._journal.folder} belongs to another operator or "
                f"another machine: its step {index + 1} gave {self._journal[index].alpha!r}, now "
                f"it gives {step.alpha!r}. Delete the folder to start anew."
            )


def _orthogonalised(basis: KrylovBasis, panels: Array, before2: float) -> tuple[Array, float]:
    """Orthogonalise, again while cancellation costs digits; return the vector and its length."""
    short = BREAKDOWN * float(jnp.finfo(basis.dtype).eps)
    panels, after2 = basis.remove_from(panels, before2)
    for _ in range(2):
        if after2 > SECOND_PASS**2 * before2 or after2 <= short**2 * before2:
            break
        before2 = after2
        panels, after2 = basis.remove_from(panels, before2)
    return panels, after2**0.5


class _LossOfOrthogonality:
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
