"""Frobenius norm of an operator, the root of a trace that each product gives a sample of."""

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
from curvlab.spectral.intervals import student_margin
from curvlab.spectral.operator import SymmetricOperator
from curvlab.spectral.progress import Tick
from curvlab.spectral.work import Work, blocks


def frobenius_norm(
    op: SymmetricOperator,
    key: Array,
    *,
    vectors: int = 16,
    sketch: int = 16,
    deflate: Eigenpairs | None = None,
    noise_floor: float | None = None,
    level: float = 0.95,
    tick: Tick | None = None,
) -> Estimate:
    """Estimate ``‖A‖_F = √(Σ λ_i²)``.

    ``‖A‖²_F = ‖A Qᵀ‖²_F + E[(n - k) ‖A u‖²]`` with ``k`` orthonormal rows ``Q`` (of a Krylov space,
    or given eigenvectors) and ``u`` uniform on the unit sphere of the complement.

    Parameters
    ----------
    op
        The matrix.
    key
        Key of the Krylov space and the vectors.
    vectors
        Complement vectors, at least 8.
    sketch
        Dimension of the Krylov space; ignored when ``deflate`` is given.
    deflate
        Eigenpairs of ``op`` whose span replaces the Krylov space, and saves its products.
    noise_floor
        ``η`` if known; measured otherwise. The interval is widened by ``√n η``.
    level
        Coverage of the interval.
    tick
        Called with the :class:`Progress` after every few products (:func:`progress_bar` shows it).

    Returns
    -------
    The root of the mean; the interval is the root of that of the mean (Student's t widened by
    :func:`curvlab.spectral.intervals.skew_allowance`), and its lower end at least ``‖A Qᵀ‖_F``.
    Cost: ``sketch + vectors`` products; where ``n`` products are fewer, the norm is exact.

    Raises
    ------
    OperatorError
        If fewer than 8 vectors are asked for, ``deflate`` belongs to another dimension, or a
        product is not finite.
    """
    check_vectors(vectors, "frobenius_norm")
    work = Work(op, tick)
    noise_floor = work.noise_floor(key, noise_floor, deflate)
    slack, estimand = op.dim**0.5 * noise_floor, f"Frobenius norm; {op.estimand}"
    rank = sketch if deflate is None else len(deflate.values)
    if op.dim <= max(rank, (rank if deflate is None else 0) + vectors):
        value = sum(float((columns**2).sum()) for _, columns in work.columns()) ** 0.5
        low, high = max(value - slack, 0.0), value + slack
        return Estimate(
            value,
            0.0,
            low,
            high,
            level,
            "exact",
            0,
            value,
            value,
            work.products,
            estimand,
            work.cost(),
        )
    work.plan((rank if deflate is None else 0) + vectors)
    subspace = deflation(work, key, sketch=sketch, deflate=deflate)
    forms = _forms(work, key, subspace, vectors)
    square = subspace.square + float(forms.mean())
    margin = student_margin(forms, level)
    value = square**0.5
    low = max(square - margin, subspace.square) ** 0.5
    return Estimate(
        value,
        float(forms.std(ddof=1) / vectors**0.5 / (2 * value)) if value else 0.0,
        max(low - slack, 0.0),
        (square + margin) ** 0.5 + slack,
        level,
        "student-t",
        vectors,
        value,
        value,
        work.products,
        estimand,
        work.cost(),
    )


def _forms(
    work: Work, key: Array, subspace: Deflation, vectors: int
) -> Float[np.ndarray, " vectors"]:
    forms = np.zeros(vectors)
    for start, count in blocks(0, vectors, work.op.dim):
        rows = subspace.unit_rows(jax.random.fold_in(key, SAMPLE), start, count)
        forms[start : start + count] = (work.rows(rows) ** 2).sum(1)
    return subspace.rest * forms
