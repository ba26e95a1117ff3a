"""What a matrix of cosines is like: clusters of its rows, and scalar summaries of its pairs."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.vq import kmeans2

from curvlab.spectral.ranks import effective_number

CLUSTERS = 10
"""Most clusters that rows are sorted into."""


@dataclass(frozen=True)
class CosineSummary:
    """What a matrix of cosines is like, over the pairs of different examples that count.

    Attributes
    ----------
    examples
        Examples that count: positive weight and a gradient that is not zero.
    mean, mean_absolute
        Mean cosine and mean absolute cosine of pairs.
    negative_fraction
        Share of pairs with a negative cosine (they interfere).
    effective_rank
        ``exp(−Σ p log p)`` with ``p`` the eigenvalues of the cosine matrix over their sum.
    stable_rank
        ``Σ λ² / λ_max²``: squared Frobenius over squared spectral norm.
    largest_share
        ``λ_max / examples``; 1 if all gradients are collinear.
    block_contrast
        Mean cosine of pairs within a cluster minus that between clusters.
    """

    examples: int
    mean: float
    mean_absolute: float
    negative_fraction: float
    effective_rank: float
    stable_rank: float
    largest_share: float
    block_contrast: float


def clusters_of(cosines: Float[np.ndarray, "examples examples"]) -> Int[np.ndarray, " examples"]:
    """Return the cluster of each example, the largest first; −1 where the cosines are NaN.

    k-means on the rows, from centres that lie far apart: no random numbers.
    """
    counted = np.isfinite(np.diagonal(cosines))
    labels = np.full(len(cosines), -1)
    rows = cosines[np.ix_(counted, counted)]
    if not len(rows):
        return labels
    centres = [int(np.argmin(((rows - rows.mean(axis=0)) ** 2).sum(axis=1)))]
    distance = ((rows - rows[centres[0]]) ** 2).sum(axis=1)
    while len(centres) < CLUSTERS and distance.max() > 1e-12 * len(rows):
        centres.append(int(np.argmax(distance)))
        distance = np.minimum(distance, ((rows - rows[centres[-1]]) ** 2).sum(axis=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cluster may run empty; it has no members then
        found = kmeans2(rows, rows[centres], iter=100, minit="matrix")[1]
    sizes = np.bincount(found, minlength=len(centres))
    rank = np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")
    labels[counted] = rank[found]
    return labels


def summary_of(
    cosines: Float[np.ndarray, "examples examples"], labels: Int[np.ndarray, " examples"]
) -> CosineSummary:
    """Return the scalar summaries of the pairs whose cosine is defined."""
    counted = np.isfinite(np.diagonal(cosines))
    matrix, labels = cosines[np.ix_(counted, counted)], labels[counted]
    count = len(matrix)
    if count < 2:
        return CosineSummary(count, *(float("nan"),) * 7)
    pairs = np.triu_indices(count, 1)
    values, together = matrix[pairs], labels[pairs[0]] == labels[pairs[1]]
    spectrum = np.maximum(np.linalg.eigvalsh(matrix), 0.0)
    both = together.any() and not together.all()
    return CosineSummary(
        count,
        float(values.mean()),
        float(np.abs(values).mean()),
        float((values < 0).mean()),
        effective_number(spectrum),
        float((spectrum**2).sum() / spectrum[-1] ** 2),
        float(spectrum[-1] / count),
        float(values[together].mean() - values[~together].mean()) if both else float("nan"),
    )
