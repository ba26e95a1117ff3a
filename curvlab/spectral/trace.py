"""Trace of an operator: an exact part on a sketched subspace and Hutchinson on its complement."""

import jax
import numpy as np
import scipy.stats
from jaxtyping import Array, Float

from curvlab.core.errors import OperatorError
from curvlab.spectral.eigenpairs import Eigenpairs
from curvlab.spectral.estimate import Estimate
from curvlab.spectral.operator import SymmetricOperator, random_vector

FEWEST = 8
"""Fewest complement vectors: with fewer, an interval would have to be wide beyond use."""

SKETCH, SAMPLE = 0x5E7C4, 0x5A317
"""Tags of keys; far from the small numbers by which callers derive keys."""


def skew_allowance(vectors: int) -> float:
    """Return the factor on the half-width of Student's t, ``1 + 2.8 / √vectors``.

    Samples are sums of squares. In the worst case a single outlier is left in the complement and
    they follow ``χ²₁``: plain 95 % intervals then hold the truth in 88 % of draws with 8 vectors.
    With this factor (2.0 for 8 vectors, 1.7 for 16) they hold it in 95 %. Calibrated at 95 %.
    """
    return 1 + 2.8 / vectors**0.5


def trace(
    op: SymmetricOperator,
    key: Array,
    *,
    vectors: int = 16,
    sketch: int = 8,
    deflate: Eigenpairs | None = None,
    noise_floor: float | None = None,
    level: float = 0.95,
) -> Estimate:
    """Estimate ``tr A``.

    ``tr A = tr(Qᵀ A Q) + E[(n - k) uᵀ A u]`` with orthonormal ``Q`` of rank ``k`` and ``u`` uniform
    on the unit sphere of the complement. ``Q`` spans ``A S`` for Gaussian ``S``, or the given
    eigenvectors, and so holds most outliers. What is left is close to normal, unless an outlier
    escaped: Student's t is widened by :func:`skew_allowance`.

    Parameters
    ----------
    op
        The matrix.
    key
        Key of sketch and vectors.
    vectors
        Complement vectors, at least 8.
    sketch
        Columns of ``S``; 0 for plain Hutchinson. Ignored when ``deflate`` is given.
    deflate
        Eigenpairs of ``op`` whose span replaces the sketch, and saves its products.
    noise_floor
        ``η`` if known; measured otherwise. The interval is widened by ``n η``.
    level
        Coverage of the interval.

    Returns
    -------
    The estimate. Cost: ``2 sketch + vectors`` products; small operators are summed exactly with
    ``n``.

    Raises
    ------
    OperatorError
        If fewer than 8 vectors are asked for, or ``deflate`` belongs to another dimension.

    References
    ----------
    Meyer, Musco, Musco, Woodruff 2021, *Hutch++: Optimal stochastic trace estimation*; spheres in
    the complement as in Epperly, Tropp, Webber 2024, *XTrace*.
    """
    if vectors < FEWEST:
        raise OperatorError(
            f"trace(vectors={vectors}) cannot give an honest interval. Use vectors >= {FEWEST}."
        )
    if deflate is not None and deflate.vectors.shape[1] != op.dim:
        raise OperatorError(
            f"deflate= holds eigenvectors of length {deflate.vectors.shape[1]}, the operator has "
            f"{op.dim} rows. Pass eigenpairs of the same operator."
        )
    spent = vectors
    if noise_floor is None:
        noise_floor = op.noise_floor(jax.random.fold_in(key, SAMPLE + 1))
        spent += 2
    slack = op.dim * noise_floor
    rank = len(deflate.values) if deflate is not None else sketch
    estimand = f"trace; {op.estimand}"
    if op.dim <= 2 * rank + vectors:
        value = float(np.trace(op.to_dense().astype(np.float64)))
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
            op.dim,
            estimand,
        )
    if deflate is not None:
        basis, known = deflate.vectors, float(deflate.values.sum())
    elif sketch:
        columns = _draw(op, jax.random.fold_in(key, SKETCH), sketch)
        images = np.asarray(op.matmat(columns), np.float64)
        basis = np.linalg.qr(images.T)[0].T
        products = np.asarray(op.matmat(basis.astype(op.dtype)), np.float64)
        known = float((basis * products).sum())
        spent += 2 * sketch
    else:
        basis, known = np.zeros((0, op.dim)), 0.0
    samples = _draw(op, jax.random.fold_in(key, SAMPLE), vectors)
    samples = samples - (samples @ basis.T) @ basis
    samples = samples / np.linalg.norm(samples, axis=1, keepdims=True)
    rounded = samples.astype(op.dtype)
    images = np.asarray(op.matmat(rounded), np.float64)
    forms = known + (op.dim - len(basis)) * (samples * images).sum(1)
    value = float(forms.mean())
    stderr = float(forms.std(ddof=1) / np.sqrt(vectors))
    quantile = float(scipy.stats.t.ppf((1 + level) / 2, vectors - 1))
    half = skew_allowance(vectors) * quantile * stderr + slack
    return Estimate(
        value,
        stderr,
        value - half,
        value + half,
        level,
        "student-t",
        vectors,
        value,
        value,
        spent,
        estimand,
    )


def _draw(op: SymmetricOperator, key: Array, count: int) -> Float[np.ndarray, "count dim"]:
    rows = [np.asarray(random_vector(jax.random.fold_in(key, i), op.dim)) for i in range(count)]
    return np.stack(rows).astype(np.float64)
