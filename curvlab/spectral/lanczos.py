"""Lanczos tridiagonalisation on one start vector.

The recurrence is in :mod:`curvlab.spectral.krylov`; here are its result and the public function.
"""

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64
from curvlab.spectral import soundness
from curvlab.spectral.basis import KrylovBasis, Tier
from curvlab.spectral.brackets import tridiagonal_eigh
from curvlab.spectral.journal import open_journal, own_folder, saved_room
from curvlab.spectral.krylov import Krylov
from curvlab.spectral.memory import Memory
from curvlab.spectral.operator import SymmetricOperator, random_vector
from curvlab.spectral.progress import Progress, Tick
from curvlab.spectral.recurrence import ThreeTerm

GHOST = 1e-6
"""Ritz values closer than this share of the spectrum's width count as copies of one another."""


@dataclass(frozen=True)
class Tridiagonal:
    """Result of Lanczos: ``A Qᵀ = Qᵀ T + residual q e_mᵀ`` with orthonormal rows ``Q``.

    Attributes
    ----------
    diagonal
        Diagonal of ``T``, length ``m``.
    offdiagonal
        Off-diagonal of ``T``, length ``m - 1``.
    residual
        Length of the next Lanczos vector before normalisation. After a breakdown, the coupling that
        was cut: what is known then is exact for a matrix that differs by no more in norm.
    breakdown_step
        Number of steps after which the Krylov space was exhausted to rounding, or ``None``.
    tier
        Where the rows were kept.
    basis
        The rows ``Q``; ``None`` if they were not kept.
    start_norm2
        Squared norm of the start vector before normalisation; weighs the vector among others.
    random
        Whether the start vector was drawn from ``N(0, I)``.
    matvecs
        Operator products spent.
    op, first
        The matrix and the start vector, from which rows can be computed again.
    predicted_loss
        What the recurrence predicts of the orthogonality of rows that are not kept.
    """

    diagonal: Float[np.ndarray, " order"]
    offdiagonal: Float[np.ndarray, " order-1"]
    residual: float
    breakdown_step: int | None
    tier: Tier
    basis: KrylovBasis | None
    start_norm2: float
    random: bool
    matvecs: int
    op: SymmetricOperator = field(repr=False)
    first: Any = field(repr=False)
    predicted_loss: float = field(repr=False)

    @cached_property
    def smear(self) -> float:
        """How far rows that are not orthogonal smear out eigenvalues, per step and ``max |θ|``."""
        if self.tier is Tier.NONE:
            return float(jnp.finfo(self.op.dtype).eps)
        return self.orthogonality if self.tier is Tier.HALF else 0.0

    @property
    def order(self) -> int:
        """Number of steps ``m``."""
        return len(self.diagonal)

    @cached_property
    def orthogonality(self) -> float:
        """``max |Q Qᵀ - I|`` of the stored rows; without them, what the recurrence predicts.

        1 means lost: Ritz values repeat. Cost: ``2 m² n`` flops, once.
        """
        if self.basis is None:
            return self.predicted_loss if self.tier is Tier.NONE else float("nan")
        with float64():
            return self.basis.orthogonality()

    def ritz(self) -> tuple[Float[np.ndarray, " order"], Float[np.ndarray, "order order"]]:
        """Return Ritz values (ascending) and the eigenvectors of ``T`` in columns."""
        return tridiagonal_eigh(self.diagonal, self.offdiagonal)

    def ends(self, *, largest: int, smallest: int) -> Float[np.ndarray, "pairs order"]:
        """Return the eigenvectors of ``T`` at both ends as rows, Ritz values descending.

        Where the rows are not orthogonal, Ritz values within :data:`GHOST` of each other are copies
        of one. Single eigenvectors of ``T`` mean nothing then, but the part of ``e_1`` in all of
        them does: it is what the start vector has of the eigenvector.
        """
        values, small = self.ritz()
        groups = list(np.arange(self.order)[:, None])
        if self.tier is Tier.NONE:
            apart = np.diff(values) > GHOST * (values[-1] - values[0])
            groups = np.split(np.arange(self.order), np.flatnonzero(apart) + 1)
        top = groups[::-1][:largest]
        bottom = groups[: max(0, min(smallest, len(groups) - len(top)))][::-1]
        rows = np.array(
            [small[:, g] @ small[0, g] if len(g) > 1 else small[:, g[0]] for g in top + bottom]
        )
        return rows.reshape(-1, self.order) / np.linalg.norm(rows, axis=-1)[..., None]

    def released(self) -> "Tridiagonal":
        """Return this run without its rows, where only the coefficients are needed any more."""
        known = {"smear": self.smear, "orthogonality": self.orthogonality}
        released = replace(self, basis=None)
        released.__dict__.update(known)  # cached values, since the rows are gone
        return released

    def ritz_vectors(self, *, largest: int, smallest: int) -> Float[np.ndarray, "pairs dim"]:
        """Return Ritz vectors of both ends as rows, Ritz values descending.

        Without stored rows they are computed a second time: ``m`` more products.
        """
        matrix = self.ends(largest=largest, smallest=smallest)
        with float64():
            if self.basis is not None:
                return self.basis.combine(matrix)
            return self._second_pass(matrix)

    def _second_pass(
        self, matrix: Float[np.ndarray, "pairs order"]
    ) -> Float[np.ndarray, "pairs dim"]:
        """Run the recurrence again with the known coefficients, adding up ``matrix @ Q``."""
        plain = ThreeTerm(self.op, self.first)
        rows = np.zeros((len(matrix), self.op.dim), self.op.dtype)
        for step in range(self.order):
            vector = np.asarray(self.op.flatten(plain.vector))
            for row, weight in zip(rows, matrix[:, step].astype(self.op.dtype), strict=True):
                row += weight * vector
            if step + 1 < self.order:
                plain.repeat(self.diagonal[step], self.offdiagonal[step])
        return rows


def tridiagonal(krylov: Krylov, *, random: bool, first: Any) -> Tridiagonal:
    """Return the present state of a Krylov space that was never restarted."""
    m = krylov.order
    return Tridiagonal(
        diagonal=np.array(krylov.diagonal),
        offdiagonal=np.array(krylov.offdiagonal[: m - 1]),
        residual=krylov.residual,
        breakdown_step=krylov.breakdown_step,
        tier=krylov.tier,
        basis=krylov.basis,
        start_norm2=krylov.start_norm2,
        random=random,
        matvecs=krylov.matvecs,
        op=krylov.op,
        first=first,
        predicted_loss=krylov.predicted_loss,
    )


def check_order(op: SymmetricOperator, order: int, name: str) -> None:
    """Refuse an order that the operator cannot give.

    Raises
    ------
    OperatorError
        If ``order`` is below 1 or above the dimension.
    """
    if order < 1:
        raise OperatorError(f"{name}(order={order}) asks for no step. Use order >= 1.")
    if order > op.dim:
        raise OperatorError(
            f"{name}(order={order}) exceeds the operator's dimension {op.dim}. Use order <= "
            f"{op.dim}, or SymmetricOperator.to_dense() for a matrix this small."
        )


def given_start(op: SymmetricOperator, start: PyTree) -> Float[Array | np.ndarray, " dim"]:
    """Return a start vector, given flat or as a tree like the parameters, as a flat one.

    Raises
    ------
    OperatorError
        If it does not fit the operator.
    """
    if not isinstance(start, (np.ndarray, jax.Array)):
        layout = getattr(op, "layout", None)
        found = jax.tree.structure(start)
        if layout is None or found != layout.treedef:
            raise OperatorError(
                f"start= is a tree {found} that is not like the parameters of {op.estimand}. Pass "
                f"such a tree, or a flat vector of length {op.dim}."
            )
        start = layout.ravel(start)
    if np.shape(start) != (op.dim,):
        raise OperatorError(
            f"start= has shape {np.shape(start)}, the operator has {op.dim} rows. Pass one vector "
            "of this length, or a tree like the parameters."
        )
    return start


def lanczos(
    op: SymmetricOperator,
    key: Array,
    *,
    order: int,
    start: PyTree | None = None,
    memory: Memory | int | None = None,
    save: str | os.PathLike[str] | None = None,
    tick: Tick | None = None,
) -> Tridiagonal:
    """Tridiagonalise ``op`` on the Krylov space of one start vector.

    Parameters
    ----------
    op
        The matrix ``A``.
    key
        Key of the start vector ``g ~ N(0, I)``.
    order
        Number of steps ``m``; fewer are taken when the Krylov space is exhausted.
    start
        A given start vector instead of a random one: a gradient, an update, a difference of
        checkpoints; flat, or a tree like the parameters.
    memory
        What the basis may take (a number is bytes on the device); it decides where rows are kept
        (:class:`Tier`). By default half of what is free.
    save
        Folder in which every step is saved (the rows take as much space there as in memory). The
        same call goes on where a killed one stopped, with the same numbers bit for bit.
    tick
        Called with the :class:`Progress` after each step (:func:`progress_bar` shows it).

    Returns
    -------
    The tridiagonal matrix with its basis. Cost: ``m`` products, ``m² n`` flops to measure
    orthogonality and up to as many to restore it, ``m n`` numbers of memory while rows are kept.

    Raises
    ------
    OperatorError
        If the order exceeds the dimension, the start vector is zero, the products are not those of
        a symmetric matrix (:func:`curvlab.spectral.soundness.verify`, three products for each
        program), or the memory holds not even the working vectors.
    """
    check_order(op, order, "lanczos")
    given = None if start is None else given_start(op, start)
    # Of a given vector the measure itself is claimed, which rows in half precision would distort.
    folder = own_folder(save, op)

    def room() -> tuple[Tier, int]:
        share = Memory.of(memory, op.sharding())
        return share.tier(op.dim, op.dtype, order, half=given is None), order

    tier, _ = saved_room(folder, memory, room)
    soundness.verify(op, key)
    first = random_vector(key, op.dim) if given is None else given
    journal = None
    if folder is not None:
        start_sum = None if given is None else float(np.asarray(given, np.float64).sum())
        journal = open_journal(folder, op, key, tier, start=start_sum)
    krylov = Krylov(op, first, tier=tier, journal=journal)
    krylov.extend(order, None if tick is None else lambda done: tick(Progress(done, order)))
    return tridiagonal(krylov, random=start is None, first=first)
