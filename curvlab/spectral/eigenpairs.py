"""Eigenpairs at both ends of the spectrum, certified by true residuals."""

import os
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64
from curvlab.core.trees import TreeLayout
from curvlab.spectral import soundness
from curvlab.spectral.basis import Tier
from curvlab.spectral.certify import clustered_intervals, coupling, miss_bound
from curvlab.spectral.cost import Cost, Stopwatch
from curvlab.spectral.journal import open_journal, own_folder, saved_room
from curvlab.spectral.lanczos import Tridiagonal, check_order
from curvlab.spectral.memory import Memory
from curvlab.spectral.noise import noise_floor_at
from curvlab.spectral.operator import SymmetricOperator, random_vector
from curvlab.spectral.progress import Tick
from curvlab.spectral.ritz import extreme_pairs, pairs_of, plan
from curvlab.spectral.verification import GAP, fresh_vector, verified


@dataclass(frozen=True)
class Eigenpairs:
    """Approximate eigenpairs with intervals, largest first.

    Each interval ``[low, high]`` contains an eigenvalue: disjoint ones contain different
    eigenvalues. Pairs whose intervals overlap form a cluster of ``c`` pairs, and the intervals of a
    cluster contain ``c`` eigenvalues counted with multiplicity. That a value is the *k-th* largest
    is certified by no residual: :attr:`miss` bounds the probability that it is not.

    Attributes
    ----------
    values
        Rayleigh-Ritz values, descending: first the largest, then the smallest of the spectrum.
    vectors
        Orthonormal eigenvectors in float64, one row per pair.
    residuals
        ``‖A v - θ v‖`` by explicit products, never the recurrence's estimate.
    residual_gram
        Inner products of the residuals; ``‖A Q - Q Θ‖₂`` of any subset follows from it.
    low, high
        Interval ends; for a cluster ``θ ± (‖A Q - Q Θ‖₂ + √c η)``.
    clusters
        Number of the cluster of each pair.
    converged
        Whether the residual is at most ``tolerance × max |θ|``.
    miss
        Bound on the probability that an eigenvalue further out than this one by more than
        ``gap × (λ₁ - λ_n)`` was overlooked. NaN where nothing is known: for all but the outermost
        pair unless deflated runs verified that end, for warm starts, and after deflated runs where
        the residuals of the pairs are themselves larger than the gap.
    gap
        The share of the spectrum's width in :attr:`miss`.
    largest
        How many of the pairs belong to the upper end.
    tolerance
        Relative tolerance behind ``converged``.
    noise_floor
        ``η``; a value below it is indistinguishable from zero.
    order
        Lanczos steps.
    matvecs
        Operator products spent.
    estimand
        The matrix.
    layout
        Layout of the parameter tree, if the operator has one.
    notes
        What the check of the operator found that belongs beside its spectrum (ReLU kinks).
    tier
        Where the Lanczos vectors were kept.
    orthogonality
        ``max |Q Qᵀ - I|`` of the Lanczos vectors at the end; predicted where they were not kept,
        and on the host that of the last block of rows with all others.
    cost
        What was spent; not part of comparisons, since times differ.
    """

    values: Float[np.ndarray, " pairs"]
    vectors: Float[np.ndarray, "pairs dim"]
    residuals: Float[np.ndarray, " pairs"]
    residual_gram: Float[np.ndarray, "pairs pairs"]
    low: Float[np.ndarray, " pairs"]
    high: Float[np.ndarray, " pairs"]
    clusters: Int[np.ndarray, " pairs"]
    converged: Bool[np.ndarray, " pairs"]
    miss: Float[np.ndarray, " pairs"]
    gap: float
    largest: int
    tolerance: float
    noise_floor: float
    order: int
    matvecs: int
    estimand: str
    layout: TreeLayout | None
    notes: tuple[str, ...] = ()
    tier: Tier | None = None
    orthogonality: float = float("nan")
    cost: Cost | None = field(default=None, compare=False)

    def __str__(self) -> str:
        lines = [self.estimand]
        for i, value in enumerate(self.values):
            end = f"largest-{i + 1}" if i < self.largest else f"smallest-{len(self.values) - i}"
            flags = "" if self.converged[i] else ", not converged"
            flags += ", indistinguishable from zero" if self.indistinguishable_from_zero[i] else ""
            lines.append(
                f"  {end:<12} {value:12.5g}  [{self.low[i]:.5g}, {self.high[i]:.5g}], cluster "
                f"{self.clusters[i]}, miss {self.miss[i]:.1e}{flags}"
            )
        if self.tier:
            lines.append(f"  {self.tier.said}, orthogonal to {self.orthogonality:.0e}")
        lines += [f"  {self.cost}"] if self.cost else []
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    @property
    def indistinguishable_from_zero(self) -> Bool[np.ndarray, " pairs"]:
        """Whether a value lies below the noise floor of the products."""
        return np.abs(self.values) <= self.noise_floor

    def tree(self, index: int) -> PyTree:
        """Return eigenvector ``index`` as a tree like the parameters (float64 leaves).

        Raises
        ------
        OperatorError
            If the operator has no parameter tree.
        """
        layout = self._layout()
        with float64():
            return layout.unravel(jnp.asarray(self.vectors[index]))

    def mass_by_path(self) -> dict[str, Float[np.ndarray, " pairs"]]:
        """Return the squared norm of each eigenvector on each parameter leaf; they sum to 1."""
        return {
            name: (self.vectors[:, where] ** 2).sum(1)
            for name, where in self._layout().slices().items()
        }

    def mass_by_layer(self) -> dict[str, Float[np.ndarray, " pairs"]]:
        """Return the same for each layer: the module that holds the leaves, or the leaf itself."""
        layers: dict[str, Float[np.ndarray, " pairs"]] = {}
        for name, mass in self.mass_by_path().items():
            layer = name.rpartition("/")[0] or name
            layers[layer] = layers.get(layer, 0) + mass
        return layers

    def forms(self, op: SymmetricOperator) -> Float[np.ndarray, " pairs"]:
        """Return ``vᵀ B v`` of every vector for another operator ``B``; one product for each.

        With the Gauss-Newton matrix ``G`` of the same problem it splits an eigenvalue of the
        Hessian: ``θ = vᵀ G v + vᵀ R v``, where ``R`` is the residual curvature. Each is uncertain
        by the noise floor of ``B``.
        """
        images = np.asarray(op.matmat(self.vectors.astype(op.dtype)), np.float64)
        return (self.vectors * images).sum(1)

    def coupling(self, chosen: Any = None) -> float:
        """Return ``‖A Q - Q Θ‖₂`` of the chosen pairs (all by default)."""
        every = np.arange(len(self.values))
        return coupling(self.residual_gram, every if chosen is None else every[chosen])

    def check_dimension(self, op: SymmetricOperator) -> None:
        """Refuse an operator that these cannot be eigenpairs of.

        Raises
        ------
        OperatorError
            If it has another dimension.
        """
        if self.vectors.shape[1] != op.dim:
            raise OperatorError(
                f"The eigenvectors given have length {self.vectors.shape[1]}, the operator has "
                f"{op.dim} rows. Pass eigenpairs of the same operator."
            )

    def _layout(self) -> TreeLayout:
        if self.layout is None:
            raise OperatorError(
                f"{self.estimand} has no parameter tree; use .vectors, whose rows are flat."
            )
        return self.layout


def eigenpairs(
    op: SymmetricOperator,
    key: Array,
    *,
    largest: int = 5,
    smallest: int = 5,
    tolerance: float = 1e-3,
    order: int | None = None,
    start: Eigenpairs | Float[Any, "..."] | None = None,
    verify: int = 0,
    noise_floor: float | None = None,
    krylov: Tridiagonal | None = None,
    memory: Memory | int | None = None,
    save: str | os.PathLike[str] | None = None,
    tick: Tick | None = None,
) -> Eigenpairs:
    """Approximate the largest and the smallest eigenpairs of ``op``.

    Lanczos until every wanted pair meets the tolerance, a Rayleigh-Ritz step in float64 on the
    chosen Ritz vectors, and one explicit product for each to obtain the true residual. When the
    basis reaches its memory, the wanted Ritz vectors are kept and Lanczos goes on from them (thick
    restart).

    Parameters
    ----------
    op
        The matrix.
    key
        Key of the start vector.
    largest, smallest
        Number of pairs at the upper and the lower end.
    tolerance
        A pair counts as converged when its residual is at most ``tolerance × max |θ|`` over all
        Ritz values.
    order
        Exactly so many Lanczos steps, instead of as many as the tolerance needs. After a breakdown
        they go on with a fresh vector, so repeated eigenvalues are found.
    start
        Eigenvectors of a similar operator (another checkpoint) for a warm start. A random component
        of the same size is always added.
    verify
        Steps of further Lanczos runs, with fresh vectors, on the operator without the pairs found.
        They find repeated eigenvalues, and give :attr:`Eigenpairs.miss` for every pair.
    noise_floor
        ``η`` if known; measured otherwise.
    krylov
        A Lanczos run on ``op`` to take the vectors from, instead of a new one.
    memory
        What the basis may take.
    save
        Folder in which every step of the search is saved (a row of the basis for each); the same
        call goes on where a killed one stopped, with the same numbers bit for bit.
    tick
        Called with the :class:`Progress` after each step (:func:`progress_bar` shows it).

    Returns
    -------
    The pairs. Cost: the Lanczos steps and ``largest + smallest`` products for the residuals, plus
    ``verify`` and those of the noise floor (four, and four of the reference) if it is measured.
    After 3,000 products the search ends: :attr:`Eigenpairs.converged` says which pairs are short.

    Raises
    ------
    OperatorError
        If more pairs are asked for than the order or the dimension can give, or a setting makes no
        sense.

    References
    ----------
    Parlett 1998, *The Symmetric Eigenvalue Problem*, theorems 4.5.1 and 11.5.1; Wu and Simon 2000,
    *Thick-restart Lanczos method for large symmetric eigenvalue problems*.
    """
    _check(op, largest, smallest, tolerance, order, verify, krylov)
    if krylov is not None and save is not None:
        raise OperatorError(
            "eigenpairs(krylov=, save=) takes no step of its own that could be saved. Leave one "
            "out, or save the run itself with lanczos(..., save=)."
        )
    watch = Stopwatch()
    folder = own_folder(save, op)
    # Before any product: it refuses a budget that is too small.
    room = saved_room(folder, memory, lambda: plan(op, largest + smallest, order, memory))
    known = soundness.verify(op, key)
    wanted = (largest, smallest)
    if krylov is not None:
        found = pairs_of(op, krylov, wanted)
        cold = krylov.random
    else:
        first, cold = _start_vector(op, key, start)
        journal = None
        if folder is not None:
            restarts = {"wanted": wanted, "rows": None if order else room[1]}
            journal = open_journal(folder, op, key, room[0], start=float(first.sum()), **restarts)
        found = extreme_pairs(
            op,
            first,
            wanted,
            tolerance=tolerance,
            order=order,
            fresh=lambda count: fresh_vector(op, key, count),
            room=room,
            journal=journal,
            tick=tick,
        )
    # Both ends: [upper, lower]; a warm start says nothing, and a run only of its outermost values.
    miss = np.full(2, np.nan)
    if verify:
        found, miss = verified(op, key, found, wanted, verify, memory)
    spent, references = found.matvecs, 0
    if noise_floor is None:
        ends = found.vectors[[0, -1]][: len(found.values)]
        noise_floor, products, references = noise_floor_at(op, ends, key)
        spent += products
    values, vectors = found.values, found.vectors
    differences = values[:, None] * vectors
    np.subtract(found.images, differences, out=differences)
    gram = differences @ differences.T
    residuals = np.sqrt(np.diag(gram))
    low, high, clusters = clustered_intervals(values, gram, noise_floor)
    upper = min(largest, len(values))
    # What is verified is the complement: it says something about the spectrum only as far as the
    # pairs found are decoupled from it.
    loose = coupling(gram, np.arange(len(values))) + len(values) ** 0.5 * noise_floor
    if loose > GAP * found.width:
        miss = np.full(2, np.nan)
    misses = np.where(np.arange(len(values)) < upper, *miss)
    if cold and not verify:
        edge = miss_bound(op.dim, found.single_order, GAP)
        misses[[0] if upper else []] = edge
        misses[[-1] if upper < len(values) else []] = edge
    return Eigenpairs(
        values=values,
        vectors=vectors,
        residuals=residuals,
        residual_gram=gram,
        low=low,
        high=high,
        clusters=clusters,
        converged=residuals <= tolerance * found.scale,
        miss=misses,
        gap=GAP,
        largest=upper,
        tolerance=tolerance,
        noise_floor=noise_floor,
        order=found.order,
        matvecs=spent,
        estimand=op.estimand,
        layout=getattr(op, "layout", None),
        notes=known.notes,
        tier=found.tier,
        orthogonality=found.orthogonality,
        cost=watch.cost(op, spent, found.nbytes, checks=known.products, references=references),
    )


def _check(
    op: SymmetricOperator,
    largest: int,
    smallest: int,
    tolerance: float,
    order: int | None,
    verify: int,
    krylov: Tridiagonal | None,
) -> None:
    pairs = largest + smallest
    if order is not None:
        check_order(op, order, "eigenpairs")
    limit = op.dim if order is None else order
    if min(largest, smallest) < 0 or not 1 <= pairs <= limit:
        bound = f"the dimension {op.dim}" if order is None else f"order={order}"
        raise OperatorError(
            f"eigenpairs(largest={largest}, smallest={smallest}) needs between 1 and {bound} "
            f"pairs in total. {'Ask' if order is None else 'Raise the order or ask'} for fewer."
        )
    if not tolerance > 0 or verify < 0:
        raise OperatorError(
            f"eigenpairs(tolerance={tolerance}, verify={verify}) needs a positive relative "
            "tolerance, such as 1e-3, and a number of steps."
        )
    if krylov is not None and (krylov.order < pairs or len(krylov.first) != op.dim):
        raise OperatorError(
            f"The given Krylov run has {krylov.order} steps on dimension {len(krylov.first)}; "
            f"{pairs} pairs of an operator with {op.dim} rows were asked for. Ask for fewer pairs, "
            "or leave krylov= out."
        )


def _start_vector(op: SymmetricOperator, key: Array, start: Any) -> tuple[Any, bool]:
    """Return the first vector of Lanczos and whether it is purely random."""
    random = np.asarray(random_vector(key, op.dim), np.float64)
    if start is None:
        return random, True
    rows = np.asarray(start.vectors if isinstance(start, Eigenpairs) else start, np.float64)
    rows = np.atleast_2d(rows)
    if rows.shape[1] != op.dim:
        raise OperatorError(
            f"start= holds vectors of length {rows.shape[1]}, the operator has {op.dim} rows. Pass "
            "eigenvectors of an operator on the same parameters."
        )
    known = rows.sum(0)
    return known / np.linalg.norm(known) + random / np.linalg.norm(random), False
