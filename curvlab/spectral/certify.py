"""From approximate eigenvectors to intervals that hold eigenvalues."""

from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

NEW = 0.1
"""Share of a vector's squared norm outside the others below which it is their copy (a ghost)."""


def rayleigh_ritz(
    rows: Float[np.ndarray, "vectors dim"], images: Float[np.ndarray, "vectors dim"]
) -> tuple[Any, Any, Any]:
    """Diagonalise ``A`` on the span of ``rows`` in float64; needs no further product.

    Returns Ritz values (descending), orthonormal Ritz vectors and their images. Of copies of one
    vector the best is kept: taking the span of all would mix it with the others.
    """
    # From small matrices: every array as large as `rows` costs as much as a good part of a product.
    gram, cross = rows @ rows.T, rows @ images.T
    lengths = np.sqrt(np.diag(gram))
    gram, cross = (matrix / np.outer(lengths, lengths) for matrix in (gram, cross))
    residuals = [
        np.linalg.norm(image - form * row) / length
        for row, image, form, length in zip(rows, images, np.diag(cross), lengths, strict=True)
    ]
    kept: list[int] = []
    for row in np.argsort(residuals, kind="stable"):
        shared = gram[kept, row]
        if 1 - shared @ np.linalg.solve(gram[np.ix_(kept, kept)], shared) > NEW:
            kept.append(int(row))
    inside = np.ix_(kept, kept)
    projected = cross[inside]
    values, small = scipy.linalg.eigh((projected + projected.T) / 2, gram[inside])
    mixing = np.zeros((len(kept), len(rows)))
    mixing[:, kept] = small[:, ::-1].T / lengths[kept]
    return values[::-1], mixing @ rows, mixing @ images


def clustered_intervals(
    values: Float[np.ndarray, " pairs"],
    residual_gram: Float[np.ndarray, "pairs pairs"],
    noise_floor: float,
) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Merge pairs with overlapping intervals until the clusters are disjoint.

    ``θ ± (‖R‖₂ + √c η)`` for a cluster of ``c`` pairs with residuals ``R``: it holds ``c``
    eigenvalues (Parlett 1998, theorem 11.5.1). ``c`` products, each wrong by ``η``, are together
    wrong by at most ``√c η``.
    """
    groups = [[index] for index in range(len(values))]

    def radius(group: list[int]) -> float:
        # ‖R‖₂ from the small Gram matrix: an SVD of the tall R would cost as much as a product.
        return coupling(residual_gram, np.array(group)) + len(group) ** 0.5 * noise_floor

    while True:
        radii = [radius(group) for group in groups]
        for i in range(len(groups) - 1):  # values descend, so only neighbours can overlap first
            if values[groups[i][-1]] - radii[i] <= values[groups[i + 1][0]] + radii[i + 1]:
                groups[i : i + 2] = [groups[i] + groups[i + 1]]
                break
        else:
            break
    reach = np.concatenate([[r] * len(g) for r, g in zip(radii, groups, strict=True)])
    labels = np.concatenate([[i] * len(g) for i, g in enumerate(groups)])
    return values - reach, values + reach, labels


def coupling(
    residual_gram: Float[np.ndarray, "pairs pairs"], chosen: Int[np.ndarray, " chosen"]
) -> float:
    """Return ``‖A Q - Q Θ‖₂`` of some of the pairs."""
    part = residual_gram[np.ix_(chosen, chosen)]
    return float(np.linalg.eigvalsh(part)[-1].clip(0) ** 0.5)


def miss_bound(dim: int, order: int, gap: float) -> float:
    """Bound the probability that Lanczos overlooks an eigenvalue at the end of a spectrum.

    ``P[λ₁ - θ₁ > gap (λ₁ - λ_n)] <= 1.648 √n exp(-√gap (2 m - 1))`` for a Gaussian start vector and
    ``m`` steps (Kuczyński and Woźniakowski 1992, theorem 4.2).
    """
    return float(min(1.0, 1.648 * dim**0.5 * np.exp(-(gap**0.5) * (2 * order - 1))))
