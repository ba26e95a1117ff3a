"""Trace of an operator: an exact part on a Krylov space and Hutchinson on its complement.

Estimators that use every product for both parts are in :mod:`curvlab.spectral.xtrace`.
"""

import jax
import numpy as np
from jaxtyping import Array, Float

from curvlab.spectral.complement import (
    SAMPLE,
    Deflation,
    check_vectors,
    deflation,
)
from curvlab.spectral.eigenpairs import Eigenpairs
from curvlab.spectral.estimate import Estimate
from curvlab.spectral.intervals import form_margin, planned_vectors
from curvlab.spectral.operator import SymmetricOperator
from curvlab.spectral.progress import Tick
from curvlab.spectral.work import Work, blocks


def trace(
    op: SymmetricOperator,
    key: Array,
    *,
    vectors: int = 16,
    sketch: int = 16,
    deflate: Eigenpairs | None = None,
    tolerance: float | None = None,
    max_vectors: int = 1000,
    noise_floor: float | None = None,
    level: float = 0.95,
    tick: Tick | None = None,
) -> Estimate:
    """Estimate ``tr A``.

    ``tr A = tr(Q A Qᵀ) + E[(n - k) uᵀ A u]`` with ``k`` orthonormal rows ``Q`` and ``u`` uniform on
    the unit sphere of the complement. ``Q`` spans the Krylov space of a Gaussian vector, or the
    given eigenvectors, and so holds most outliers (with ``Q`` empty this is Hutchinson's
    estimator). The products that build the space are those of the exact part, where a sketch
    ``A S`` needs twice as many for the same rank.

    The interval does not use the scatter of the samples. The variance of a sample is
    ``2 (n - k) E‖r‖²`` with ``r = B u - (uᵀ B u) u`` and ``B`` the projected matrix: each product
    gives an unbiased estimate of it, which is far more precise than a sum of squared deviations,
    above all where a single outlier escaped ``Q``. See
    :func:`curvlab.spectral.intervals.form_margin`.

    Parameters
    ----------
    op
        The matrix.
    key
        Key of the Krylov space and the vectors.
    vectors
        Complement vectors, at least 8; those of the first stage when there is a ``tolerance``.
    sketch
        Dimension of the Krylov space; 0 for plain Hutchinson. Ignored when ``deflate`` is given.
    deflate
        Eigenpairs of ``op`` whose span replaces the Krylov space, and saves its products.
    tolerance
        Wanted half-width of the interval, relative to the trace that the first stage found. The
        number of vectors follows from the variance of the first stage alone (Stein's two-stage
        rule): stopping as soon as an interval looks narrow would break its coverage.
    max_vectors
        Most vectors for a ``tolerance``. Where it, or the noise of the products, does not allow
        the target, the interval is as wide as it has to be.
    noise_floor
        ``η`` if known; measured otherwise. The interval is widened by ``n η``.
    level
        Coverage of the interval.
    tick
        Called with the :class:`Progress` after every few products (:func:`progress_bar` shows it).

    Returns
    -------
    The estimate, with the products spent. Cost: ``sketch + vectors`` products and those of the
    second stage; where ``n`` products are fewer, the trace is summed exactly.

    Raises
    ------
    OperatorError
        If fewer than 8 vectors are asked for, or ``deflate`` belongs to another dimension.

    References
    ----------
    Chen, Hallman 2023, *Krylov-aware stochastic trace estimation*; Meyer, Musco, Musco, Woodruff
    2021, *Hutch++: Optimal stochastic trace estimation*; spheres in the complement as in Epperly,
    Tropp, Webber 2024, *XTrace*; Stein 1945, *A two-sample test for a linear hypothesis whose power
    is independent of the variance*.
    """
    check_vectors(vectors, "trace")
    work = Work(op, tick)
    noise_floor = work.noise_floor(key, noise_floor, deflate)
    slack = op.dim * noise_floor
    rank = sketch if deflate is None else len(deflate.values)
    if op.dim <= max(rank, (rank if deflate is None else 0) + vectors):
        return exact_trace(work, slack, level)
    work.plan((rank if deflate is None else 0) + vectors)
    subspace = deflation(work, key, sketch=sketch, deflate=deflate)
    forms, variances = _forms(work, key, subspace, 0, vectors)
    margin = form_margin(variances, level)
    method = "normal"
    if tolerance is not None:
        value = subspace.trace + float(forms.mean())
        work.reached(margin + slack, value, tolerance)
        target = tolerance * abs(value)
        planned, margin = planned_vectors(
            variances, max(target - slack, target / 2), level, most=max_vectors
        )
        if work.products + planned - vectors >= op.dim:
            return exact_trace(work, slack, level)
        work.plan(planned - vectors)
        more, _ = _forms(work, key, subspace, vectors, planned)
        forms, method = np.append(forms, more), "two-stage"
    value = subspace.trace + float(forms.mean())
    if tolerance is not None:
        work.reached(margin + slack, value, tolerance)
    return Estimate(
        value,
        float(np.sqrt(variances.mean() / len(forms))),
        value - margin - slack,
        value + margin + slack,
        level,
        method,
        len(forms),
        value,
        value,
        work.products,
        f"trace; {op.estimand}",
        work.cost(),
    )


def exact_trace(work: Work, slack: float, level: float) -> Estimate:
    """Sum all diagonal entries: only the noise of the products makes the trace uncertain."""
    value = float(work.exact_diagonal().sum())
    return Estimate(
        value,
        0.0,
        value - slack,
        value + slack,
        level,
        "exact",
        0,
        value,
        value,
        work.products,
        f"trace; {work.op.estimand}",
        work.cost(),
    )


def _forms(
    work: Work, key: Array, subspace: Deflation, first: int, last: int
) -> tuple[Float[np.ndarray, " vectors"], Float[np.ndarray, " vectors"]]:
    """Return ``(n - k) uᵀ A u`` for vectors ``first`` to ``last - 1``, and their variances."""
    forms, variances = np.zeros(last - first), np.zeros(last - first)
    for start, count in blocks(first, last, work.op.dim):
        where = slice(start - first, start - first + count)
        rows = subspace.unit_rows(jax.random.fold_in(key, SAMPLE), start, count)
        images = subspace.remove(work.rows(rows))
        forms[where] = (rows * images).sum(1)
        remainders = images - forms[where, None] * rows
        variances[where] = 2 * subspace.rest * (remainders**2).sum(1)
    return subspace.rest * forms, variances
