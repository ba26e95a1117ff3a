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
"""Fewest complement vectors for a Student-t interval that keeps its level beside outliers."""

SKEW_ALLOWANCE = 1.2
"""Factor on the Student-t half-width.

With 8 sketch columns and 8 vectors plain 95 % intervals hold the trace in 92.5 to 95.5 % of draws
on seven test spectra (geometric decay is the worst); with this factor, in 95.3 to 97.5 %.
"""


def trace(
    op: SymmetricOperator,
    key: Array,
    *,
    vectors: int = FEWEST,
    sketch: int = 8,
    deflate: Eigenpairs | None = None,
    noise_floor: float | None = None,
    level: float = 0.95,
) -> Estimate:
    """Estimate ``tr A``.

    ``tr A = tr(Qᵀ A Q) + E[(n - k) uᵀ A u]`` with orthonormal ``Q`` of rank ``k`` and ``u`` uniform
    on the unit sphere of the complement. ``Q`` spans ``A S`` for Gaussian ``S``, or the given
    eigenvectors, and so holds the outliers. What is left is close to normal, though still skewed
    where the spectrum decays slowly: Student's t is widened by :data:`SKEW_ALLOWANCE`.

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
        If fewer than 8 vectors are asked for.

    References
    ----------
    Meyer, Musco, Musco, Woodruff 2021, *Hutch++: Optimal stochastic trace estimation*; spheres in
    the complement as in Epperly, Tropp, Webber 2024, *XTrace*.
    """
    if vectors < FEWEST:
        raise OperatorError(
            f"trace(vectors={vectors}) cannot give an honest interval. Use vectors >= {FEWEST}."
        )
    if noise_floor is None:
        noise_floor = op.noise_floor(jax.random.fold_in(key, 2))
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
    spent = vectors
    if deflate is not None:
        basis, known = deflate.vectors, float(deflate.values.sum())
    elif sketch:
        columns = _draw(op, jax.random.fold_in(key, 0), sketch)
        images = np.asarray(op.matmat(columns), np.float64)
        basis = np.linalg.qr(images.T)[0].T
        products = np.asarray(op.matmat(basis.astype(op.dtype)), np.float64)
        known = float((basis * products).sum())
        spent += 2 * sketch
    else:
        basis, known = np.zeros((0, op.dim)), 0.0
    samples = _draw(op, jax.random.fold_in(key, 1), vectors)
    samples = samples - (samples @ basis.T) @ basis
    samples = samples / np.linalg.norm(samples, axis=1, keepdims=True)
    rounded = samples.astype(op.dtype)
    images = np.asarray(op.matmat(rounded), np.float64)
    forms = known + (op.dim - len(basis)) * (samples * images).sum(1)
    value = float(forms.mean())
    stderr = float(forms.std(ddof=1) / np.sqrt(vectors))
    quantile = float(scipy.stats.t.ppf((1 + level) / 2, vectors - 1))
    half = SKEW_ALLOWANCE * quantile * stderr + slack
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
