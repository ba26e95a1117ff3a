"""Stochastic Lanczos quadrature: the spectral measure from a few random start vectors."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.special
from jaxtyping import Array, Float, PyTree

from curvlab.core.errors import OperatorError
from curvlab.spectral import soundness
from curvlab.spectral.basis import Tier
from curvlab.spectral.cost import Stopwatch
from curvlab.spectral.deflated import Deflated
from curvlab.spectral.density import SignedLogAxis
from curvlab.spectral.eigenpairs import Eigenpairs
from curvlab.spectral.journal import open_journal, own_folder, remembered, saved_room
from curvlab.spectral.krylov import Krylov
from curvlab.spectral.lanczos import Tridiagonal, check_order, given_start, tridiagonal
from curvlab.spectral.measure import SpectralMeasure
from curvlab.spectral.memory import Memory
from curvlab.spectral.noise import measured_noise_floor, noise_floor_at
from curvlab.spectral.operator import DENSE_LIMIT, SymmetricOperator, random_vector
from curvlab.spectral.progress import Progress, Tick

DECADES = 3
"""Decades of the signed logarithmic axis on which the error of a measure is averaged."""

RANDOM_SHARE = 0.5
"""Share of the tolerance that the randomness of the start vectors may use up."""

POINTS = 101
"""Points at which the error of a measure is averaged."""

STRIDE, GROWTH = 10, 1.2
"""Steps between two looks at the error: at least so many, and by at least this factor."""

PLANNED_STEPS = 200
"""Steps for which an adaptive run looks for room; with more room it may take more."""

MOST_STEPS = 1000
"""Steps after which an adaptive run ends, short of its target."""


def slq(
    op: SymmetricOperator,
    key: Array,
    *,
    order: int | None = None,
    vectors: int = 1,
    tolerance: float | None = None,
    start: PyTree | None = None,
    deflate: Eigenpairs | None = None,
    noise_floor: float | None = None,
    memory: Memory | int | None = None,
    save: str | os.PathLike[str] | None = None,
    tick: Tick | None = None,
) -> SpectralMeasure:
    """Estimate the spectral measure of ``op`` by stochastic Lanczos quadrature.

    ``F(x) ≈ Σ_l ω_l Σ_j w_lj 1[θ_lj <= x]`` with Ritz values ``θ_lj`` and ``w_lj`` the squared
    first components of the eigenvectors of ``T_l``.

    Parameters
    ----------
    op
        The matrix.
    key
        Key of the start vectors. The same key gives the same vectors for every operator of the
        same dimension, so differences between checkpoints vary less than levels.
    order
        Lanczos steps for each vector.
    vectors
        Number of random start vectors. For densities of large operators one is enough; the
        intervals account for the number.
    tolerance
        Instead of an order: steps and vectors are added until :func:`mean_error` is at most this.
        The number of vectors follows from the dimension before anything is measured, and the
        brackets hold for any number of steps, so stopping does not spoil the coverage. After
        1,000 steps, or with a full basis, the run ends short, and its notes say so. Where the
        target would take more products than a small matrix has columns, all its eigenvalues are
        computed.
    start
        A given start vector (gradient, update, difference of checkpoints; flat or a tree like the
        parameters): its own measure, with brackets only.
    deflate
        Eigenpairs of ``op``: those that converged become exact atoms of weight ``1 / n``, and the
        start vectors are random in their complement.
    noise_floor
        ``η`` if known; measured otherwise.
    memory
        What the bases may take together (a number is bytes on the device); without room for one the
        measure is computed from two vectors.
    save
        Folder in which every step is saved (a row of the basis for each); the same call goes on
        where a killed one stopped, with the same numbers bit for bit.
    tick
        Called with the :class:`Progress` after each step (:func:`progress_bar` shows it).

    Returns
    -------
    The measure. Cost: ``order × vectors`` products, plus those of the noise floor if it is measured
    (4 products and 4 of the reference).

    Raises
    ------
    OperatorError
        If the order exceeds the dimension, the number of vectors is below 1, both or none of order
        and tolerance are given, no pair of ``deflate`` has converged, or the memory holds not even
        the working vectors.

    References
    ----------
    Ubaru, Chen, Saad 2017, *Fast estimation of tr(f(A)) via stochastic Lanczos quadrature*;
    Bhattacharjee et al. 2024 on deflation.
    """
    _check(op, order, vectors, tolerance, start, deflate)
    given = None if start is None else given_start(op, start)
    folder = own_folder(save, op)
    watch = Stopwatch()
    atoms, coupling = np.zeros(0), 0.0
    target = op
    if deflate is not None:
        chosen = np.flatnonzero(deflate.converged)
        atoms, coupling = deflate.values[chosen], deflate.coupling(chosen)
        target = Deflated(op, deflate.vectors[chosen])
        noise_floor = deflate.noise_floor if noise_floor is None else noise_floor
    spent = held = references = 0

    def count(_: Any) -> None:
        nonlocal spent
        spent += 1
        if tick is not None and order is not None:
            tick(Progress(spent, order * vectors))

    def measure(
        runs: list[Tridiagonal], floor: float, extra: int, references: int, *, final: bool = True
    ) -> SpectralMeasure:
        nonlocal held
        products = sum(run.matvecs for run in runs) + extra
        held = max(held, sum(run.basis.nbytes for run in runs if run.basis))
        found = SpectralMeasure.from_lanczos(
            runs,
            dim=op.dim,
            noise_floor=floor,
            matvecs=products,
            estimand=op.estimand,
            atoms=atoms,
            coupling=coupling,
            final=final,
        )
        cost = watch.cost(op, products, held, checks=known.products, references=references)
        return replace(found, notes=known.notes, cost=cost)

    def exact(before: int = 0) -> SpectralMeasure:
        """Take all eigenvalues where that costs less than what the target would take."""
        return _exact(op, key, noise_floor, known, watch, before)

    alive = 1 if tolerance is None else vectors_for(op.dim, RANDOM_SHARE * tolerance)
    whole = tolerance is not None and alive * STRIDE >= op.dim <= DENSE_LIMIT
    steps = min(op.dim, PLANNED_STEPS) if order is None else order
    # Of a given vector the measure itself is claimed, which rows in half precision would distort.
    half = given is None

    def compute() -> tuple[Tier, int]:
        return _room(target, memory, steps, runs=alive, half=half)

    # Before any product: it refuses a budget that is too small.
    room = None if whole else saved_room(folder, memory, compute)
    known = soundness.verify(op, key)
    if room is None:
        return exact()
    if tolerance is not None:
        return _adaptive(
            target, key, tolerance, alive, room, measure, exact, noise_floor, folder, tick
        )
    assert order is not None
    runs: list[Tridiagonal] = []
    extra = 0
    for index in range(vectors):
        space = _space(target, start_key(key, index), room[0], folder, index, given)
        space.extend(order, count)
        run = tridiagonal(space, random=given is None, first=None)
        held = max(held, run.basis.nbytes if run.basis else 0)
        # Only the first one's extreme Ritz vectors are used again, for the noise floor.
        if index == 0 and noise_floor is None:
            noise_floor, extra, references = _saved_noise_floor(op, run, key, folder)
        runs.append(run.released())
        del space, run  # and the basis with them, before the next one is begun
    assert noise_floor is not None
    return measure(runs, noise_floor, extra, references)


def start_key(key: Array, index: int) -> Array:
    """Return the key of start vector number ``index``."""
    return jax.random.fold_in(key, index)


def mean_error(measure: SpectralMeasure, *, level: float = 0.95) -> float:
    """Return half the mean width of the band of ``F`` on the axis on which spectra are drawn.

    The axis is signed-logarithmic over three decades (or down to the noise floor); the average is
    over its length, so that bulk and outliers count alike. 0.005 means: ``F`` is known to half a
    percentage point, on average over what a figure shows, everywhere at once with probability
    ``level``.
    """
    band = measure.cdf_band(_error_grid(measure), level=level)
    return float((band.high - band.low).mean() / 2)


def _error_grid(measure: SpectralMeasure) -> Float[np.ndarray, " points"]:
    low, high = measure.support
    reach = max(abs(low), abs(high))
    axis = SignedLogAxis(max(reach * 10.0**-DECADES, measure.blur, np.finfo(float).tiny))
    ends = axis.forward(np.array([low, high]))
    return axis.inverse(np.linspace(ends[0], ends[1], POINTS))


def _bracket_error(measure: SpectralMeasure) -> float:
    """Return half the mean width of the bracket alone."""
    low, high = measure.bracket(_error_grid(measure))
    return float((high - low).mean() / 2)


def vectors_for(dim: int, error: float, *, level: float = 0.95) -> int:
    """Return how many start vectors keep the random half-width of the band below ``error``.

    At the worst point ``F = 1/2`` the pooled share has variance ``1 / (2 s n + 4)``; the quantile
    is that of the simultaneous band.
    """
    quantile = float(scipy.special.ndtri(1 - (1 - level) / (2 * dim)))
    return max(1, int(np.ceil((quantile / error) ** 2 / (2 * dim))))


def _adaptive(
    op: SymmetricOperator,
    key: Array,
    tolerance: float,
    vectors: int,
    room: tuple[Tier, int],
    measure: Callable[..., SpectralMeasure],
    exact: Callable[[int], SpectralMeasure],
    noise_floor: float | None,
    save: Path | None,
    tick: Tick | None,
) -> SpectralMeasure:
    tier, rows = room
    spaces = [_space(op, start_key(key, index), tier, save, index) for index in range(vectors)]
    most = min(op.dim, MOST_STEPS, max(PLANNED_STEPS, rows))
    extra = references = 0
    order, error = 0, None

    def count(_: int) -> None:
        if tick is not None:
            spent = sum(space.matvecs for space in spaces)
            tick(Progress(spent, None, error, (1 - RANDOM_SHARE) * tolerance))

    while True:
        order = min(max(order + STRIDE, int(GROWTH * order)), most)
        # The first vector tells how far the quadrature is; the others follow once it is far enough.
        spaces[0].extend(order, count)
        first = tridiagonal(spaces[0], random=True, first=None)
        ended = order == most or spaces[0].exhausted
        error = _bracket_error(measure([first], noise_floor or 0.0, extra, references, final=False))
        count(order)
        if not ended and error > (1 - RANDOM_SHARE) * tolerance:
            continue
        if (vectors - 1) * order >= op.dim <= DENSE_LIMIT:
            return exact(order)
        for space in spaces[1:]:
            space.extend(order, count)
        runs = [first, *(tridiagonal(space, random=True, first=None) for space in spaces[1:])]
        ended = order == most or all(space.exhausted for space in spaces)
        if noise_floor is None:  # at the extreme Ritz vectors, which are good only now
            noise_floor, extra, references = _saved_noise_floor(op, runs[0], key, save)
        found = measure(runs, noise_floor, extra, references)
        error = mean_error(found)
        if error <= tolerance:
            return found
        if ended:
            short = f"the target {tolerance:g} was not reached: the mean error is {error:.2g}"
            return replace(found, notes=(*found.notes, short))


def _exact(
    op: SymmetricOperator,
    key: Array,
    noise_floor: float | None,
    known: soundness.Soundness,
    watch: Stopwatch,
    before: int,
) -> SpectralMeasure:
    dense = op.to_dense().astype(np.float64)
    values = np.linalg.eigvalsh(dense)
    spent, references = before + op.dim, 0
    if noise_floor is None:
        noise_floor, products, references = noise_floor_at(op, np.zeros((0, op.dim)), key)
        spent += products
    # Columns are wrong by η each, the matrix by at most √n η.
    floor = op.dim**0.5 * noise_floor
    found = SpectralMeasure.from_eigenvalues(values, noise_floor=floor, estimand=op.estimand)
    cost = watch.cost(op, spent, 8 * dense.size, checks=known.products, references=references)
    return replace(found, notes=known.notes, matvecs=spent, cost=cost)


def _space(
    op: SymmetricOperator,
    key: Array,
    tier: Tier,
    save: Path | None,
    index: int,
    given: Any = None,
) -> Krylov:
    """Return the Krylov space of a start vector, with what was saved of it."""
    first = random_vector(key, op.dim) if given is None else given
    if isinstance(op, Deflated):
        first = op.project(first)
    if save is None:
        return Krylov(op, first, tier=tier)
    folder = save / f"vector-{index}"
    start = None if given is None else float(np.asarray(given, np.float64).sum())
    return Krylov(op, first, tier=tier, journal=open_journal(folder, op, key, tier, start=start))


def _room(
    op: SymmetricOperator,
    memory: Memory | int | None,
    rows: int,
    *,
    runs: int = 1,
    half: bool = True,
) -> tuple[Tier, int]:
    """Return where so many rows lie in each of some runs, and how many have room there."""
    share = Memory.of(memory, op.sharding()).share(runs)
    tier = share.tier(op.dim, op.dtype, rows, half=half)
    return tier, op.dim if tier is Tier.NONE else share.rows(op.dim, op.dtype, tier)


def _saved_noise_floor(
    op: SymmetricOperator, run: Tridiagonal, key: Array, save: Path | None
) -> tuple[float, int, int]:
    """Measure the noise floor at the end of a run, or take what was measured there before."""
    path = None if save is None else save / f"noise-{run.order}.json"
    floor, products, references = remembered(path, lambda: measured_noise_floor(op, run, key))
    return floor, products, references


def _check(
    op: SymmetricOperator,
    order: int | None,
    vectors: int,
    tolerance: float | None,
    start: Any,
    deflate: Eigenpairs | None,
) -> None:
    if (order is None) == (tolerance is None):
        raise OperatorError(
            f"slq(order={order}, tolerance={tolerance}) needs one of the two: the number of steps, "
            "or the error to reach, such as tolerance=0.005."
        )
    if order is not None:
        check_order(op, order, "slq")
    if tolerance is not None and not 0 < tolerance < 1:
        raise OperatorError(
            f"slq(tolerance={tolerance}) needs a mean error of the distribution function between 0 "
            "and 1, such as 0.005."
        )
    if vectors < 1 or (start is not None and vectors != 1):
        raise OperatorError(
            f"slq(vectors={vectors}) needs at least one random vector, or exactly one with start=."
        )
    if tolerance is not None and (vectors != 1 or start is not None):
        raise OperatorError(
            "slq(tolerance=...) chooses its random vectors itself. Leave vectors= and start= out."
        )
    if deflate is not None and (start is not None or not deflate.converged.any()):
        raise OperatorError(
            f"slq(deflate=) got {int(deflate.converged.sum())} converged pairs"
            f"{' and a given start vector' if start is not None else ''}. Pass converged pairs, "
            "without start=."
        )
    if deflate is not None:
        deflate.check_dimension(op)
