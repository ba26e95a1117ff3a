"""A Krylov space that grows step by step, with its rows (here) or without (`recurrence.py`).

Products and rows are in the operator's dtype on the device; the recurrence coefficients are
float64 numbers on the host, fetched at every step. Where rows are stored, every new vector is held
against all earlier ones, at every step: switching that off above some order is how ghosts (copies
of converged eigenvalues) arise. Without them (:attr:`Tier.NONE`) ghosts are accepted and reported.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64
from curvlab.core.trees import inner
from curvlab.spectral.basis import KrylovBasis, Tier, join, scale
from curvlab.spectral.journal import Journal, Step
from curvlab.spectral.operator import SymmetricOperator
from curvlab.spectral.recurrence import LossOfOrthogonality, ThreeTerm, check_start

SECOND_PASS = 0.7
"""A vector that keeps less than this share of its length in a pass is orthogonalised again.

Rounding in a pass is relative to the length before it (Daniel, Gragg, Kaufman, Stewart 1976).
"""

BREAKDOWN = 32
"""A residual below this many unit roundoffs of the operator's scale ends the Krylov space."""


@jax.jit
def _three_term(
    image: Array, vector: Array, previous: Array, beta: Array
) -> tuple[Array, Array, Array]:
    """Return ``A q_j - α q_j - β q_{j-1}`` with ``α`` and its squared length."""
    alpha = inner(vector, image)
    rest = image - alpha.astype(image.dtype) * vector - beta.astype(image.dtype) * previous
    return rest, alpha, inner(rest, rest)


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
        self._loss = LossOfOrthogonality(op)
        self._journal = journal
        self._saved = 0 if journal is None else len(journal)
        self.basis: KrylovBasis | None = None
        with float64():
            if tier is Tier.NONE:
                self._plain = ThreeTerm(op, first)
                self.start_norm2 = self._plain.start_norm2
                return
            self.basis = KrylovBasis(op.dim, op.dtype, tier, sharding=op.sharding())
            vector = self.basis.cut(first)
            self.start_norm2 = float(inner(vector, vector))
            check_start(self.start_norm2)
            self._next = self._unit(vector, self.start_norm2**-0.5)
            self._previous = jnp.zeros_like(vector)

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
                if self.basis is None:
                    self._plain_step()
                else:
                    self._step(self.basis)
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

    def _begin(self) -> tuple[int, float, Step | None]:
        """Return the index of a new step, its coupling, and the step itself if it was saved."""
        index = self.matvecs
        beta = self.offdiagonal[-1] if self.offdiagonal and self._coupled else 0.0
        self.matvecs += 1
        known = self._journal is not None and 0 < index < self._saved - 1
        return index, beta, self._journal[index] if known and self._journal else None

    def _plain_step(self) -> None:
        """Take a step without a stored basis."""
        index, beta, step = self._begin()
        known = step is not None
        if step is None:
            step = self._measured(*self._plain.step(), beta)
            self._save(index, step, lambda: np.asarray(self.op.flatten(self._plain.vector)))
        self._add(step)
        self._loss.add(step.alpha, step.beta, step.largest)
        if self._ended():
            self.exhausted = True
            return
        self.offdiagonal.append(step.beta)
        if not known:
            self._plain.advance(step.beta)
        elif self._journal is not None and (row := self._journal.row(index + 1)) is not None:
            self._plain.resume(row, step.beta)

    def _step(self, basis: KrylovBasis) -> None:
        flat = self._next
        index, beta, step = self._begin()
        known = step is not None
        # The panels are cut afterwards, so that they take no memory while the product runs.
        image = None if known else basis.cut(self.op.matvec(flat))
        rest = vector = basis.cut(flat)
        basis.append(vector)
        if step is None:
            step, rest = self._reduced(basis, image, vector, beta)
            self._save(index, step, lambda: basis.on_host(flat))
        self._add(step)
        self._coupled = True
        self._previous = vector
        self._advance(basis, rest)
        if known and self._journal is not None:
            row = self._journal.row(index + 1)
            self._next = self._next if row is None else jnp.asarray(row)

    def _reduced(
        self, basis: KrylovBasis, image: Any, vector: Array, beta: float
    ) -> tuple[Step, Array]:
        """Take the rows off a product: the coefficients of a step, and what is left."""
        rest, *lengths = _three_term(image, vector, self._previous, jnp.asarray(beta))
        alpha, before2 = (float(x) for x in jax.device_get(lengths))
        step = self._measured(alpha, before2, beta)
        rest, residual = _orthogonalised(basis, rest, before2)
        return replace(step, beta=residual), rest

    def _measured(self, alpha: float, before2: float, beta: float) -> Step:
        """Return the step of which these are the coefficients, before any orthogonalisation."""
        if not np.isfinite(alpha + before2):
            raise OperatorError(
                f"The product at Lanczos step {self.matvecs} is not finite. Check the parameters "
                "and the data for NaN or overflow (Problem.value() and .gradient())."
            )
        largest = max(self._largest, (alpha**2 + beta**2 + before2) ** 0.5)
        return Step(alpha, before2**0.5, largest)

    def _add(self, step: Step) -> None:
        self.diagonal.append(step.alpha)
        self.residual, self._largest = step.beta, step.largest

    def _ended(self) -> bool:
        """Whether nothing but rounding is left of the vector."""
        tiny = BREAKDOWN * float(jnp.finfo(self.op.dtype).eps) * self._largest
        ended = self.order == self.op.dim or self.residual <= tiny
        if ended and self.breakdown_step is None:
            self.breakdown_step = self.order
        return ended

    def _advance(self, basis: KrylovBasis, rest: Array) -> None:
        """Make the next row of what is left, or end the space, or go on with a fresh vector."""
        if self._ended():
            if self._fresh is None or self.order == self.op.dim:
                self.exhausted = True
                return
            candidate = basis.cut(self._fresh(self.order))
            rest, length = _orthogonalised(basis, candidate, float(inner(candidate, candidate)))
            self.offdiagonal.append(0.0)
            self._coupled = False
            self._next = self._unit(rest, 1 / length)
            return
        self.offdiagonal.append(self.residual)
        self._next = self._unit(rest, 1 / self.residual)

    def _unit(self, panels: Array, factor: float) -> Array:
        return _scaled(panels, jnp.asarray(factor, jnp.float64), dim=self.op.dim)

    def _save(self, index: int, step: Step, row: Callable[[], np.ndarray]) -> None:
        """Save a step, or compare it with what was saved."""
        if self._journal is None:
            return
        if index >= self._saved:
            self._journal.record(step, row())
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
