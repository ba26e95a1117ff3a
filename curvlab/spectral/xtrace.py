"""Traces in which every vector serves both for the low-rank part and for the rest.

With ``s`` vectors there are ``s`` estimates, each from the low-rank approximation that leaves one
vector out and a quadratic form of that vector. They are averaged. For as many products
the Krylov space of :func:`curvlab.trace` has the same rank and holds outliers better, except
repeated ones, of which it holds a single copy.
"""

import jax
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from curvlab.core.errors import OperatorError
from curvlab.spectral.complement import (
    SAMPLE,
    check_vectors,
    gaussian_rows,
)
from curvlab.spectral.estimate import Estimate
from curvlab.spectral.intervals import form_margin
from curvlab.spectral.operator import SymmetricOperator
from curvlab.spectral.progress import Tick
from curvlab.spectral.trace import exact_trace
from curvlab.spectral.work import Work


def xtrace(
    op: SymmetricOperator,
    key: Array,
    *,
    vectors: int = 16,
    noise_floor: float | None = None,
    level: float = 0.95,
    tick: Tick | None = None,
) -> Estimate:
    """Estimate ``tr A`` by XTrace.

    ``(1/s) Σ_i [tr(Q_i A Q_iᵀ) + (n - s + 1) u_iᵀ A u_i]`` where ``Q_i`` spans ``A Ω`` without
    column ``i`` and ``u_i`` is the direction of ``ω_i`` outside ``Q_i``.

    Parameters
    ----------
    op
        The matrix.
    key
        Key of the vectors.
    vectors
        Number of vectors ``s``, at least 8.
    noise_floor
        ``η`` if known; measured otherwise. The interval is widened by ``n η``.
    level
        Coverage of the interval.
    tick
        Called with the :class:`Progress` after every few products (:func:`progress_bar` shows it).

    Returns
    -------
    The estimate; its interval is from leaving each vector out (``leave-one-out``). Cost: ``2 s``
    products, ``4 n s`` numbers of memory, ``O(n s²)`` flops; small operators are summed exactly.

    Raises
    ------
    OperatorError
        If fewer than 8 vectors are asked for, or a product is not finite.

    References
    ----------
    Epperly, Tropp, Webber 2024, *XTrace: Making the most of every sample in stochastic trace
    estimation*, section 2.1 and the normalisation of section 2.3.
    """
    check_vectors(vectors, "xtrace")
    work = Work(op, tick)
    noise_floor = work.noise_floor(key, noise_floor)
    slack = op.dim * noise_floor
    if op.dim <= 2 * vectors:
        return exact_trace(work, slack, level)
    work.plan(2 * vectors)
    tests = gaussian_rows(jax.random.fold_in(key, SAMPLE), 0, vectors, op.dim)
    images = work.rows(tests)
    basis, triangle = np.linalg.qr(images.T)
    products = work.rows(basis.T)
    values, variances = left_out(tests.T, images.T, basis, triangle, products.T)
    return _averaged(work, values, variances, slack, level)


def left_out(
    tests: Float[np.ndarray, "dim vectors"],
    images: Float[np.ndarray, "dim vectors"],
    basis: Float[np.ndarray, "dim vectors"],
    triangle: Float[np.ndarray, "vectors vectors"],
    products: Float[np.ndarray, "dim vectors"],
) -> tuple[Float[np.ndarray, " vectors"], Float[np.ndarray, " vectors"]]:
    """Return the estimates that leave one vector out, and the variance of each one's form.

    Parameters
    ----------
    tests, images
        ``Ω`` and ``A Ω``.
    basis, triangle
        The factors ``Q R`` of ``A Ω``.
    products
        ``A Q``.
    """
    dim, count = tests.shape
    # Without column i the range of A Ω is that of Q without the direction s_i ∝ R^{-T} e_i. A zero
    # on the diagonal of R marks a column of Q that is arbitrary: leaving it out changes nothing.
    size = np.abs(triangle).max()
    if size == 0:
        return np.zeros(count), np.zeros(count)
    pivots = np.abs(np.diag(triangle)) < 1e-300 + 1e-18 * size
    safe = triangle + np.diag(np.where(pivots, 1e-18 * size, 0.0))
    left = scipy.linalg.solve_triangular(safe, np.eye(count), trans=1)
    left /= np.linalg.norm(left, axis=0)
    small = basis.T @ products
    inner = basis.T @ tests
    inner -= left * (left * inner).sum(0)
    rest = tests - basis @ inner
    outcome = images - products @ inner  # A (I - P_i) ω_i
    lengths2 = (rest**2).sum(0)
    forms = (rest * outcome).sum(0) / lengths2
    known = np.trace(small) - (left * (small @ left)).sum(0)
    seen = basis.T @ outcome
    seen -= left * (left * seen).sum(0)
    remainder = outcome - basis @ seen - forms * rest
    complement = dim - count + 1
    return known + complement * forms, 2 * complement * (remainder**2).sum(0) / lengths2


def xnystrace(
    op: SymmetricOperator,
    key: Array,
    *,
    vectors: int = 16,
    noise_floor: float | None = None,
    level: float = 0.95,
    tick: Tick | None = None,
) -> Estimate:
    """Estimate ``tr A`` of a positive semidefinite matrix by XNysTrace.

    ``(1/s) Σ_i [tr A_i + (n - s + 1) u_iᵀ (A - A_i) u_i]`` with the Nyström approximation
    ``A_i = A Ω (Ωᵀ A Ω)⁻¹ Ωᵀ A`` that leaves column ``i`` out, and ``u_i`` the direction of ``ω_i``
    outside the other columns. It needs half the products of :func:`xtrace`.

    Parameters
    ----------
    op
        The matrix, positive semidefinite by construction (Gauss-Newton, Fisher).
    key
        Key of the vectors.
    vectors
        Number of vectors ``s``, at least 8.
    noise_floor
        ``η`` if known; measured otherwise. The interval is widened by ``n η``.
    level
        Coverage of the interval.
    tick
        Called with the :class:`Progress` after every few products (:func:`progress_bar` shows it).

    Returns
    -------
    The estimate (``leave-one-out``). Cost: ``s`` products, ``2 n s`` numbers of memory, ``O(n s²)``
    flops; small operators are summed exactly.

    Raises
    ------
    OperatorError
        If the operator is not known to be positive semidefinite, a product proves that it is not,
        or fewer than 8 vectors are asked for.

    References
    ----------
    Epperly, Tropp, Webber 2024, *XTrace*, sections 2.2 and 2.3.
    """
    check_vectors(vectors, "xnystrace")
    check_positive(op, "xnystrace", "Use trace() or xtrace().")
    work = Work(op, tick)
    noise_floor = work.noise_floor(key, noise_floor)
    slack = op.dim * noise_floor
    if op.dim <= vectors + 1:
        return exact_trace(work, slack, level)
    work.plan(vectors)
    tests = gaussian_rows(jax.random.fold_in(key, SAMPLE), 0, vectors, op.dim).T
    images = work.rows(tests.T).T
    # A small shift makes the core positive definite; its trace is taken off again.
    shift = max(2 * noise_floor, 1e-14 * float(np.linalg.norm(images) / np.linalg.norm(tests)))
    values, variances = nystrom_left_out(tests, images + shift * tests)
    values = values - op.dim * shift
    return _averaged(work, values, variances, slack, level)


def nystrom_left_out(
    tests: Float[np.ndarray, "dim vectors"], images: Float[np.ndarray, "dim vectors"]
) -> tuple[Float[np.ndarray, " vectors"], Float[np.ndarray, " vectors"]]:
    """Return the Nyström estimates that leave one vector out, and the variance of each one's form.

    Parameters
    ----------
    tests, images
        ``Ω`` and ``A Ω``, with ``Ωᵀ A Ω`` positive definite.

    Raises
    ------
    OperatorError
        If ``Ωᵀ A Ω`` has a negative eigenvalue: ``A`` is not positive semidefinite.
    """
    dim, count = tests.shape
    if not images.any():
        return np.zeros(count), np.zeros(count)
    _, outer = np.linalg.qr(tests)
    _, triangle = np.linalg.qr(images)
    core = tests.T @ images
    try:
        factor = scipy.linalg.cholesky((core + core.T) / 2)
    except np.linalg.LinAlgError as error:
        lowest = float(scipy.linalg.eigh(core + core.T, tests.T @ tests)[0][0] / 2)
        raise OperatorError(
            f"xnystrace was asked of a matrix with a Rayleigh quotient of {lowest:.3g}, so it is "
            "not positive semidefinite. Use trace() or xtrace()."
        ) from error
    inverse = scipy.linalg.cho_solve((factor, False), np.eye(count))
    # (A - A_i) ω_i = A Ω M e_i / M_ii with M = (Ωᵀ A Ω)⁻¹, and ω_iᵀ of it is 1 / M_ii.
    pivots = np.diag(inverse)
    lengths2 = ((triangle @ inverse) ** 2).sum(0)
    whole = float(
        (scipy.linalg.solve_triangular(factor, triangle.T, trans=1, lower=False) ** 2).sum()
    )
    # Squared length of ω_i outside the span of the others.
    outside2 = 1 / (scipy.linalg.solve_triangular(outer, np.eye(count)) ** 2).sum(1)
    complement = dim - count + 1
    forms = 1 / (pivots * outside2)
    remainders2 = np.maximum(lengths2 / (pivots**2 * outside2) - forms**2, 0)
    return whole - lengths2 / pivots + complement * forms, 2 * complement * remainders2


def check_positive(op: SymmetricOperator, name: str, otherwise: str) -> None:
    """Refuse an operator that is not positive semidefinite by construction.

    Raises
    ------
    OperatorError
        If the operator does not promise it.
    """
    if not op.positive_semidefinite:
        raise OperatorError(
            f"{name} needs a positive semidefinite operator; {op.estimand} does not promise to be "
            f"one. {otherwise}"
        )


def _averaged(
    work: Work,
    values: Float[np.ndarray, " vectors"],
    variances: Float[np.ndarray, " vectors"],
    slack: float,
    level: float,
) -> Estimate:
    count = len(values)
    value = float(values.mean())
    half = form_margin(variances, level) * count**0.5 + slack  # errors may all be equal
    return Estimate(
        value,
        float(np.sqrt(variances.mean() / count)),
        value - half,
        value + half,
        level,
        "leave-one-out",
        count,
        value,
        value,
        work.products,
        f"trace; {work.op.estimand}",
        work.cost(),
    )
