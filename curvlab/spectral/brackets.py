"""Bounds on a distribution function from its first moments, in the form of Lanczos coefficients.

Among all measures that share the moments fixed by ``m`` Lanczos steps and the residual, the
extremal one at ``x`` is a quadrature rule with a node at ``x``: the sums of its weights left of
``x``, without and with ``x`` itself, bound the distribution function there and cannot be improved
(Chebyshev, Markov, Stieltjes).

References: Karlin and Studden 1966, *Tchebycheff Systems*, chapter IV; the rule with a prescribed
node is Golub 1973, *Some modified matrix eigenvalue problems*.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import get_lapack_funcs

from curvlab.core.errors import OperatorError

_STEMR: Any = get_lapack_funcs("stemr", dtype=np.float64)


def tridiagonal_eigh(
    diagonal: Float[np.ndarray, " order"], offdiagonal: Float[np.ndarray, " order-1"]
) -> tuple[Float[np.ndarray, " order"], Float[np.ndarray, "order order"]]:
    """Return eigenvalues (ascending) and eigenvectors (columns) of a tridiagonal matrix.

    Raises
    ------
    OperatorError
        If the iteration fails, as it does on numbers that are not finite.
    """
    order = len(diagonal)
    # LAPACK itself: around small matrices SciPy's checks take longer than the work.
    beside = np.zeros(order)
    beside[:-1] = offdiagonal
    found: Any = _STEMR(diagonal, beside, 0, 0.0, 1.0, 1, order)
    count, values, vectors, failure = found
    if failure or count < order or not np.isfinite(values).all():
        raise OperatorError(
            f"The eigenvalues of a tridiagonal matrix of order {order} were not found (LAPACK "
            f"reports {failure}). Check the products for NaN or overflow."
        )
    return values, vectors


def extremal_sums(
    diagonal: Float[np.ndarray, " order"],
    offdiagonal: Float[np.ndarray, " order"],
    points: Float[np.ndarray, " points"],
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Bound the distribution function of one start vector at each point.

    Parameters
    ----------
    diagonal
        Diagonal of the tridiagonal matrix.
    offdiagonal
        Its off-diagonal, followed by the residual.
    points
        Where to bound.

    Returns
    -------
    Weights left of each point, without and with the point, of the rule with a node there. Cost: one
    tridiagonal eigenproblem of order ``m + 1`` for each point.
    """
    # In units of a power of two near the norm: exact, and squares neither vanish nor overflow.
    unit = 2.0 ** -np.frexp(np.abs(diagonal).max() + np.abs(offdiagonal).max())[1]
    diagonal, offdiagonal, points = unit * diagonal, unit * offdiagonal, unit * points
    low, high = np.empty(len(points)), np.empty(len(points))
    corners = _corners(diagonal, offdiagonal, points)
    for i, x in enumerate(points):
        nodes, vectors = tridiagonal_eigh(np.append(diagonal, corners[i]), offdiagonal)
        weights = vectors[0] ** 2
        here = int(np.argmin(np.abs(nodes - x)))
        low[i] = weights[:here].sum()
        high[i] = low[i] + weights[here]
    return low, high


def rule_with_node(
    diagonal: Float[np.ndarray, " order"], offdiagonal: Float[np.ndarray, " order"], x: float
) -> tuple[Float[np.ndarray, " order+1"], Float[np.ndarray, " order+1"]]:
    """Return nodes and weights of the quadrature rule with one node at ``x`` (Gauss-Radau).

    Left or right of all Ritz values it integrates functions from one side only: too little or too
    much, by the sign of the derivative of order ``2 m + 1``.
    """
    corner = _corners(diagonal, offdiagonal, np.array([x]))
    nodes, vectors = tridiagonal_eigh(np.append(diagonal, corner), offdiagonal)
    return nodes, vectors[0] ** 2


def _corners(
    diagonal: Float[np.ndarray, " order"],
    offdiagonal: Float[np.ndarray, " order"],
    points: Float[np.ndarray, " points"],
) -> Float[np.ndarray, " points"]:
    """Return the last diagonal entries that make each point an eigenvalue of the longer matrix.

    ``x + β_m² / δ_m`` with the last pivot ``δ_m`` of the factorisation of ``T - x``.
    """
    with np.errstate(all="ignore"):  # a pivot of zero is as good as any: 1 / 0 and 1 / inf follow
        pivots = diagonal[0] - points
        for entry, beside in zip(diagonal[1:], offdiagonal[:-1], strict=True):
            pivots = entry - points - beside**2 / pivots
        corners = points + offdiagonal[-1] ** 2 / pivots
    # At a Ritz value the extra node sits at infinity.
    far = 1e12 * (np.abs(diagonal).max() + np.abs(offdiagonal).max())
    return np.where(np.abs(corners) < far, corners, far)
