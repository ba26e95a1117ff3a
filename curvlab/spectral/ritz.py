"""Ritz pairs at both ends of one Krylov space, with thick restarts when the basis is full."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64
from curvlab.spectral.basis import Tier
from curvlab.spectral.certify import rayleigh_ritz
from curvlab.spectral.journal import Journal
from curvlab.spectral.krylov import Krylov
from curvlab.spectral.lanczos import Tridiagonal, tridiagonal
from curvlab.spectral.memory import Memory
from curvlab.spectral.operator import SymmetricOperator
from curvlab.spectral.progress import Progress, Tick

MOST_ROWS = 300
"""Rows at which the basis is restarted even where memory would hold more: orthogonalisation and the
projected eigenproblem grow with their square."""

MOST_PRODUCTS = 3000
"""Products after which pairs that have not converged are returned as they are."""

SPARE = 4
"""Further Ritz vectors at each end where the basis is not stored and some are copies."""

SHORT = 0.3
"""Length below which a vector computed without stored rows is no eigenvector (Paige 1980)."""

STRICTER = 0.9
"""The recurrence's estimate of a residual is asked to be this share of the tolerance."""


@dataclass(frozen=True)
class ExtremePairs:
    """Ritz values (descending), orthonormal vectors and their images, and what they cost.

    ``order`` counts all Lanczos steps, ``single_order`` those of the first Krylov space; ``nbytes``
    is what the basis held, ``span`` the least and the greatest of all Ritz values;
    ``orthogonality`` is that of the rows at the end.
    """

    values: Float[np.ndarray, " pairs"]
    vectors: Float[np.ndarray, "pairs dim"]
    images: Float[np.ndarray, "pairs dim"]
    order: int
    single_order: int
    matvecs: int
    nbytes: int
    span: tuple[float, float]
    tier: Tier
    orthogonality: float

    @property
    def width(self) -> float:
        """Range of all Ritz values, at most that of the spectrum."""
        return self.span[1] - self.span[0]

    @property
    def middle(self) -> float:
        """Middle of that range."""
        return (self.span[0] + self.span[1]) / 2

    @property
    def scale(self) -> float:
        """Largest modulus of all values seen."""
        return max(*map(abs, self.span), float(np.abs(self.values).max()))

    def outermost(self, largest: int, smallest: int) -> "ExtremePairs":
        """Keep the outermost pairs of each end."""
        chosen = ends(len(self.values), largest, smallest)
        return replace(
            self,
            values=self.values[chosen],
            vectors=self.vectors[chosen],
            images=self.images[chosen],
        )


def ends(count: int, largest: int, smallest: int) -> Int[np.ndarray, " chosen"]:
    """Return the indices of both ends of ``count`` descending values."""
    top = np.arange(min(largest, count))
    bottom = np.arange(max(len(top), count - smallest), count)
    return np.concatenate([top, bottom])


def extreme_pairs(
    op: SymmetricOperator,
    first: Any,
    wanted: tuple[int, int],
    *,
    tolerance: float,
    order: int | None,
    fresh: Callable[[int], Array] | None,
    room: tuple[Tier, int],
    journal: Journal | None = None,
    tick: Tick | None = None,
) -> ExtremePairs:
    """Return the outermost Ritz pairs of a Krylov space.

    Parameters
    ----------
    op
        The matrix.
    first
        Start vector.
    wanted
        Number of pairs at the upper and the lower end.
    tolerance
        Grow the space until the estimated residuals are at most ``tolerance × max |θ|``.
    order
        Grow it to exactly this order instead.
    fresh
        Vectors with which to go on after a breakdown.
    room
        Where the basis lies and at how many rows it is restarted (:func:`plan`).
    journal
        Where the steps are saved.
    tick
        Called with the :class:`Progress` after each step.
    """
    tier, rows = room
    krylov = Krylov(op, first, tier=tier, fresh=fresh, journal=journal)
    if order is not None:
        krylov.extend(order, None if tick is None else lambda done: tick(Progress(done, order)))
    else:
        _grow(krylov, wanted, tolerance, rows, tick)
    if tier is Tier.NONE:
        found = pairs_of(op, tridiagonal(krylov, random=True, first=first), wanted)
        return replace(found, matvecs=found.matvecs + krylov.matvecs)
    _, small, chosen = _ritz(krylov, wanted)
    vectors = _combine(krylov, small[:, chosen].T)
    images = np.asarray(op.matmat(vectors), np.float64)
    steps = krylov.matvecs
    # After a breakdown further steps belong to other vectors.
    single = min(krylov.first_restart or steps, krylov.breakdown_step or steps)
    return ExtremePairs(
        *rayleigh_ritz(np.asarray(vectors, np.float64), images),
        order=steps,
        single_order=single,
        matvecs=steps + len(vectors),
        nbytes=0 if krylov.basis is None else krylov.basis.nbytes,
        span=_span(np.linalg.eigvalsh(krylov.projection())),
        tier=tier,
        orthogonality=krylov.orthogonality(),
    )


def pairs_of(op: SymmetricOperator, run: Tridiagonal, wanted: tuple[int, int]) -> ExtremePairs:
    """Return the outermost Ritz pairs of a Lanczos run; products are those spent here.

    Without a stored basis vectors take a second run of the recurrence (``m - 1`` products).
    """
    stored = run.tier is not Tier.NONE
    # Copies that have not converged look like values of their own: compute some more vectors and
    # let the Rayleigh-Ritz step sort them out.
    more = 0 if stored else SPARE
    largest, smallest = (count and count + more for count in wanted)
    vectors = run.ritz_vectors(largest=largest, smallest=smallest)
    spent = 0 if stored else run.order - 1
    if not stored:  # what has not converged is short: most of its terms cancel
        vectors = vectors[np.linalg.norm(vectors, axis=1) > SHORT]
    images = np.asarray(op.matmat(vectors), np.float64)
    spent += len(vectors)
    values, rows, images = rayleigh_ritz(np.asarray(vectors, np.float64), images)
    if not stored:  # sorting out copies has magnified the rounding of the products
        images = np.asarray(op.matmat(rows.astype(op.dtype)), np.float64)
        spent += len(rows)
    found = ExtremePairs(
        values,
        rows,
        images,
        order=run.order,
        single_order=min(run.order, run.breakdown_step or run.order),
        matvecs=spent,
        nbytes=0 if run.basis is None else run.basis.nbytes,
        span=_span(run.ritz()[0]),
        tier=run.tier,
        orthogonality=run.orthogonality,
    )
    return found.outermost(*wanted)


def _span(values: Float[np.ndarray, " order"]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def plan(
    op: SymmetricOperator, pairs: int, order: int | None, memory: Memory | int | None
) -> tuple[Tier, int]:
    """Return where the basis lies and at how many rows it is restarted.

    Raises
    ------
    OperatorError
        If the memory holds too few rows for the pairs.
    """
    memory = Memory.of(memory, op.sharding())
    rows = min(op.dim, order or MOST_ROWS)
    tier = memory.tier(op.dim, op.dtype, rows)
    if tier is Tier.NONE and order is None:
        # Fewer rows with restarts, if at all possible, rather than none.
        rows = memory.rows(op.dim, op.dtype, Tier.DEVICE)
        if rows < 2 * pairs + 2:
            raise OperatorError(
                f"{pairs} eigenpairs of an operator with {op.dim} rows need at least "
                f"{2 * pairs + 2} stored vectors; the memory budget of "
                f"{memory.device / 2**20:.1f} MiB holds {rows}. Raise memory=, ask for "
                "fewer pairs, or name an order= (vectors are then computed twice)."
            )
        tier = Tier.DEVICE
    return tier, max(rows, min(op.dim, pairs + 2))


def _grow(
    krylov: Krylov,
    wanted: tuple[int, int],
    tolerance: float,
    rows: int,
    tick: Tick | None,
) -> None:
    """Extend and restart until the wanted pairs have converged by the recurrence's estimate."""
    pairs = sum(wanted)
    # The projected eigenproblem costs little beside a network's product, much beside a small one.
    stride = 1 if krylov.op.dim > 50_000 else 5
    while True:
        krylov.extend(min(max(pairs, krylov.order + stride), rows))
        values, small, chosen = _ritz(krylov, wanted)
        largest = float(np.abs(values).max())
        estimates = np.abs(krylov.residual * small[-1, chosen])
        error = float(estimates.max() / (largest or 1.0))
        # At a breakdown everything known is exact, but repeated values are seen only afterwards.
        done = krylov.coupled and len(chosen) == pairs and error <= STRICTER * tolerance
        if tick is not None:
            tick(Progress(krylov.matvecs, None, error, tolerance))
        if done or krylov.exhausted or krylov.matvecs >= MOST_PRODUCTS:
            return
        if krylov.order >= rows:
            krylov.restart(small[:, _keep(len(values), wanted, rows)].T)


def _keep(order: int, wanted: tuple[int, int], rows: int) -> Bool[np.ndarray, " order"]:
    """Choose the Ritz vectors that survive a restart: the wanted ones and their neighbours."""
    share = max(0, rows // 2 - sum(wanted)) // 2
    top, bottom = (count + min(share, count + 5) if count else 0 for count in wanted)
    index = np.arange(order)
    return (index < bottom) | (index >= order - top)


def _ritz(krylov: Krylov, wanted: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Return Ritz values (ascending), eigenvectors of the projection and the wanted indices."""
    values, small = np.linalg.eigh(krylov.projection())
    m = len(values)
    return values, small, m - 1 - ends(m, *wanted)


def _combine(
    krylov: Krylov, matrix: Float[np.ndarray, "pairs order"]
) -> Float[np.ndarray, "pairs dim"]:
    assert krylov.basis is not None
    with float64():
        return krylov.basis.combine(matrix)
