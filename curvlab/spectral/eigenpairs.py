"""Eigenpairs at both ends of the spectrum, certified by true residuals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Array, Bool, Float, Int, PyTree

from curvlab.core.errors import OperatorError
from curvlab.core.precision import float64
from curvlab.core.trees import TreeLayout
from curvlab.spectral.lanczos import Tridiagonal, check_order, lanczos_restarting
from curvlab.spectral.noise import NOISE_PRODUCTS, measured_noise_floor
from curvlab.spectral.operator import SymmetricOperator


@dataclass(frozen=True)
class Eigenpairs:
    """Approximate eigenpairs with intervals, largest first.

    Each interval ``[low, high]`` contains an eigenvalue: disjoint ones contain different
    eigenvalues. Pairs whose intervals overlap form a cluster of ``c`` pairs, and the intervals of a
    cluster contain ``c`` eigenvalues counted with multiplicity. That a value is the *k-th* largest
    is not certified by any residual.

    Attributes
    ----------
    values
        Rayleigh-Ritz values, descending: first the largest, then the smallest of the spectrum.
    vectors
        Orthonormal eigenvectors in float64, one row per pair.
    residuals
        ``‖A v - θ v‖`` by explicit products, never the recurrence's estimate.
    low, high
        Interval ends; for a cluster ``θ ± (‖A Q - Q Θ‖₂ + η)``.
    clusters
        Number of the cluster of each pair.
    converged
        Whether the residual is at most ``tolerance × max |θ|``.
    largest
        How many of the pairs belong to the upper end.
    tolerance
        Relative tolerance behind ``converged``.
    noise_floor
        ``η``; a value below it is indistinguishable from zero.
    order
        Lanczos steps.
    matvecs
        Operator products spent.
    estimand
        The matrix.
    layout
        Layout of the parameter tree, if the operator has one.
    """

    values: Float[np.ndarray, " pairs"]
    vectors: Float[np.ndarray, "pairs dim"]
    residuals: Float[np.ndarray, " pairs"]
    low: Float[np.ndarray, " pairs"]
    high: Float[np.ndarray, " pairs"]
    clusters: Int[np.ndarray, " pairs"]
    converged: Bool[np.ndarray, " pairs"]
    largest: int
    tolerance: float
    noise_floor: float
    order: int
    matvecs: int
    estimand: str
    layout: TreeLayout | None

    def tree(self, index: int) -> PyTree:
        """Return eigenvector ``index`` as a tree like the parameters (float64 leaves).

        Raises
        ------
        OperatorError
            If the operator has no parameter tree.
        """
        layout = self._layout()
        with float64():
            return layout.unravel(self.vectors[index])

    def mass_by_path(self) -> dict[str, Float[np.ndarray, " pairs"]]:
        """Return the squared norm of each eigenvector on each parameter leaf; they sum to 1."""
        return {
            name: (self.vectors[:, where] ** 2).sum(1)
            for name, where in self._layout().slices().items()
        }

    def _layout(self) -> TreeLayout:
        if self.layout is None:
            raise OperatorError(
                f"{self.estimand} has no parameter tree; use .vectors, whose rows are flat."
            )
        return self.layout


def eigenpairs(
    op: SymmetricOperator,
    key: Array,
    *,
    order: int,
    largest: int = 5,
    smallest: int = 5,
    tolerance: float = 1e-3,
    noise_floor: float | None = None,
    krylov: Tridiagonal | None = None,
) -> Eigenpairs:
    """Approximate the largest and the smallest eigenpairs of ``op``.

    Lanczos of the given order, a Rayleigh-Ritz step in float64 on the chosen Ritz vectors, and one
    explicit product for each to obtain the true residual.

    Parameters
    ----------
    op
        The matrix.
    key
        Key of the start vector.
    order
        Lanczos steps. After a breakdown they go on with a fresh vector, so repeated eigenvalues are
        found; without one, a repeated eigenvalue is found once.
    largest, smallest
        Number of pairs at the upper and the lower end.
    tolerance
        A pair counts as converged when its residual is at most ``tolerance × max |θ|``.
    noise_floor
        ``η`` if known; measured otherwise.
    krylov
        A Lanczos run on ``op`` to take the vectors from, instead of a new one.

    Returns
    -------
    The pairs. Cost: ``order + largest + smallest`` products (without ``order`` when ``krylov`` is
    given), plus those of the noise floor if it is measured.

    Raises
    ------
    OperatorError
        If more pairs are asked for than the order or the dimension can give.

    References
    ----------
    Parlett 1998, *The Symmetric Eigenvalue Problem*, theorems 4.5.1 and 11.5.1.
    """
    check_order(op, order, "eigenpairs")
    if largest < 0 or smallest < 0 or not 1 <= largest + smallest <= order:
        raise OperatorError(
            f"eigenpairs(largest={largest}, smallest={smallest}) needs between 1 and order={order} "
            "pairs in total. Raise the order or ask for fewer pairs."
        )
    if krylov is not None and (krylov.order < largest + smallest or krylov.basis.dim != op.dim):
        raise OperatorError(
            f"The given Krylov run has {krylov.order} steps on dimension {krylov.basis.dim}; "
            f"{largest + smallest} pairs of an operator with {op.dim} rows were asked for. Ask for "
            "fewer pairs, or leave krylov= out."
        )
    spent = 0
    if krylov is None:
        krylov = lanczos_restarting(op, key, order=order)
        spent = krylov.order
    if noise_floor is None:
        noise_floor = measured_noise_floor(op, krylov, key)
        spent += NOISE_PRODUCTS
    rows = krylov.ritz_vectors(largest=largest, smallest=smallest)
    images = np.asarray(op.matmat(rows), np.float64)
    values, vectors, images = _rayleigh_ritz(np.asarray(rows, np.float64), images)
    differences = images - values[:, None] * vectors
    residuals = np.linalg.norm(differences, axis=1)
    low, high, clusters = _intervals(values, differences, noise_floor)
    return Eigenpairs(
        values,
        vectors,
        residuals,
        low,
        high,
        clusters,
        residuals <= tolerance * np.abs(values).max(),
        min(largest, len(values)),
        tolerance,
        noise_floor,
        krylov.order,
        spent + len(rows),
        op.estimand,
        getattr(op, "layout", None),
    )


def _rayleigh_ritz(
    rows: Float[np.ndarray, "pairs dim"], images: Float[np.ndarray, "pairs dim"]
) -> tuple[Any, Any, Any]:
    """Diagonalise ``A`` on the span of ``rows`` in float64; needs no further product."""
    gram = rows @ rows.T
    projected = rows @ images.T
    values, mixing = scipy.linalg.eigh((projected + projected.T) / 2, gram)
    mixing = mixing[:, ::-1]
    return values[::-1], mixing.T @ rows, mixing.T @ images


def _intervals(
    values: Float[np.ndarray, " pairs"],
    differences: Float[np.ndarray, "pairs dim"],
    noise_floor: float,
) -> tuple[Any, Any, Any]:
    """Merge pairs with overlapping intervals until the clusters are disjoint."""
    groups = [[index] for index in range(len(values))]
    gram = differences @ differences.T
    while True:
        # ‖R‖₂ from the small Gram matrix: an SVD of the tall R would cost as much as a product.
        radii = [
            float(np.linalg.eigvalsh(gram[np.ix_(g, g)])[-1].clip(0) ** 0.5) + noise_floor
            for g in groups
        ]
        for i in range(len(groups) - 1):  # values descend, so only neighbours can overlap first
            if values[groups[i][-1]] - radii[i] <= values[groups[i + 1][0]] + radii[i + 1]:
                groups[i : i + 2] = [groups[i] + groups[i + 1]]
                break
        else:
            break
    radius = np.concatenate([[r] * len(g) for r, g in zip(radii, groups, strict=True)])
    labels = np.concatenate([[i] * len(g) for i, g in enumerate(groups)])
    return values - radius, values + radius, labels
