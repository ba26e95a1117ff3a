"""Diagonal of an operator: an exact low-rank part and random signs for what is left."""

from dataclasses import dataclass, field

import jax
import numpy as np
import scipy.stats
from jaxtyping import Array, Float

from curvlab.spectral.complement import (
    SAMPLE,
    check_vectors,
    deflation,
    gaussian_rows,
)
from curvlab.spectral.cost import Cost
from curvlab.spectral.eigenpairs import Eigenpairs
from curvlab.spectral.operator import SymmetricOperator
from curvlab.spectral.progress import Tick
from curvlab.spectral.work import Work, blocks


@dataclass(frozen=True)
class DiagonalEstimate:
    """The diagonal entries of a matrix, each with its own interval.

    Attributes
    ----------
    value, stderr
        Entries and their standard errors.
    low, high
        Ends of the interval of each entry.
    level
        Coverage of each interval by itself, not of all together.
    method
        ``student-t`` or ``exact``.
    vectors
        Random vectors behind each entry.
    matvecs
        Operator products spent.
    estimand
        The matrix.
    cost
        What was spent; not part of comparisons.
    """

    value: Float[np.ndarray, " dim"]
    stderr: Float[np.ndarray, " dim"]
    low: Float[np.ndarray, " dim"]
    high: Float[np.ndarray, " dim"]
    level: float
    method: str
    vectors: int
    matvecs: int
    estimand: str
    cost: Cost | None = field(default=None, compare=False)


def diagonal(
    op: SymmetricOperator,
    key: Array,
    *,
    vectors: int = 16,
    sketch: int = 16,
    deflate: Eigenpairs | None = None,
    noise_floor: float | None = None,
    level: float = 0.95,
    tick: Tick | None = None,
) -> DiagonalEstimate:
    """Estimate the diagonal entries ``A_ii``.

    ``diag A = diag(Qᵀ Q A) + E[v ∘ (A v - Qᵀ Q A v)]`` with orthonormal rows ``Q`` (of a Krylov
    space, or given eigenvectors) and random signs ``v``. The variance of entry ``i`` is the sum of
    squares of the other entries of row ``i`` of ``A - Qᵀ Q A``: a dominant eigenvalue would blur
    every entry, and ``Q`` takes it away. A diagonal matrix is found exactly with ``sketch=0``.

    Parameters
    ----------
    op
        The matrix.
    key
        Key of the Krylov space and the signs.
    vectors
        Vectors of signs, at least 8.
    sketch
        Dimension of the Krylov space; ignored when ``deflate`` is given.
    deflate
        Eigenpairs of ``op`` whose span replaces the Krylov space.
    noise_floor
        ``η`` if known; measured otherwise. Each interval is widened by it.
    level
        Coverage of each interval.
    tick
        Called with the :class:`Progress` after every few products (:func:`progress_bar` shows it).

    Returns
    -------
    Entries with intervals by Student's t. Cost: ``sketch + vectors`` products (``vectors`` and
    one for each given pair); where ``n`` products are fewer, the diagonal is exact.

    Raises
    ------
    OperatorError
        If fewer than 8 vectors are asked for, ``deflate`` belongs to another dimension, or a
        product is not finite.

    References
    ----------
    Bekas, Kokiopoulou, Saad 2007, *An estimator for the diagonal of a matrix*; deflation as in
    Baston and Nakatsukasa 2022, *Stochastic diagonal estimation*.
    """
    check_vectors(vectors, "diagonal")
    work = Work(op, tick)
    noise_floor = work.noise_floor(key, noise_floor, deflate)
    rank = sketch if deflate is None else len(deflate.values)
    if op.dim <= rank + vectors:
        entries = work.exact_diagonal()
        low, high = entries - noise_floor, entries + noise_floor
        nothing = np.zeros(op.dim)
        return DiagonalEstimate(
            entries,
            nothing,
            low,
            high,
            level,
            "exact",
            0,
            work.products,
            f"diagonal; {op.estimand}",
            work.cost(),
        )
    work.plan(rank + vectors)
    subspace = deflation(work, key, sketch=sketch, deflate=deflate)
    images = work.rows(subspace.basis) if subspace.images is None else subspace.images
    mean, squares = np.zeros(op.dim), np.zeros(op.dim)
    for start, count in blocks(0, vectors, op.dim):
        normals = gaussian_rows(jax.random.fold_in(key, SAMPLE), start, count, op.dim)
        for done, row in enumerate(np.where(normals < 0, -1.0, 1.0), start + 1):
            image = work.rows(row[None])[0] - (images @ row) @ subspace.basis
            step = row * image - mean
            mean += step / done
            squares += step * (row * image - mean)
    stderr = np.sqrt(squares / (vectors - 1) / vectors)
    value = (subspace.basis * images).sum(0) + mean
    # Where one entry dominates a row, samples take two values and Student's t alone covers 92 %.
    quantile = float(scipy.stats.t.ppf((1 + level) / 2, vectors - 1)) * (1 + 1 / vectors)
    half = quantile * stderr + noise_floor
    return DiagonalEstimate(
        value,
        stderr,
        value - half,
        value + half,
        level,
        "student-t",
        vectors,
        work.products,
        f"diagonal; {op.estimand}",
        work.cost(),
    )
