"""Bounds on a distribution function from its first moments, in the form of Lanczos coefficients.

Among all measures that share the moments fixed by ``m`` Lanczos steps and the residual, the
extremal one at ``x`` is a quadrature rule with a node at ``x``: the sums of its weights left of
``x``, without and with ``x`` itself, bound the distribution function there and cannot be improved
(Chebyshev, Markov, Stieltjes).

References: Karlin and Studden 1966, *Tchebycheff Systems*, chapter IV; the rule with a prescribed
node is Golub 1973, *Some modified matrix eigenvalue problems*.
"""

from typing import Any, cast

import numpy as np
import scipy.linalg
from jaxtyping import Float


def tridiagonal_eigh(
    diagonal: Float[np.ndarray, " order"], offdiagonal: Float[np.ndarray, " order-1"]
) -> tuple[Float[np.ndarray, " order"], Float[np.ndarray, "order order"]]:
    """Return eigenvalues (ascending) and eigenvectors (columns) of a tridiagonal matrix."""
    return cast(Any, scipy.linalg.eigh_tridiagonal(diagonal, offdiagonal))


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
    for i, x in enumerate(points):
        nodes, weights = rule_with_node(diagonal, offdiagonal, float(x))
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
    m = len(diagonal)
    banded = np.zeros((3, m))
    banded[0, 1:] = banded[2, :-1] = offdiagonal[:-1]
    banded[1] = diagonal - x
    last = np.zeros(m)
    last[-1] = offdiagonal[-1] ** 2
    try:
        with np.errstate(divide="ignore"):  # the 1 x 1 case does not raise
            corner = x + scipy.linalg.solve_banded((1, 1), banded, last)[-1]
    except np.linalg.LinAlgError:  # x is a Ritz value: the extra node sits at infinity
        corner = np.inf
    far = 1e12 * (np.abs(diagonal).max() + np.abs(offdiagonal).max())
    corner = corner if abs(corner) < far else far
    nodes, vectors = tridiagonal_eigh(np.append(diagonal, corner), offdiagonal)
    return nodes, vectors[0] ** 2
