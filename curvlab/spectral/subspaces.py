"""What became of eigenvectors between two checkpoints: angles of subspaces and matched pairs."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
from jaxtyping import Float, Int

from curvlab.core.errors import OperatorError
from curvlab.spectral.eigenpairs import Eigenpairs


@dataclass(frozen=True)
class PrincipalAngles:
    """Angles between two dominant subspaces, ascending.

    Attributes
    ----------
    radians
        0 for a common direction, π/2 for an orthogonal one.
    error
        How far any angle may be off because the eigenvectors are approximate: ``asin(‖R‖₂ / gap)``
        of both subspaces, with the gap to the next computed pair of either end. π/2 where the gap
        is not known (an end without a further computed pair) or not resolved.
    """

    radians: Float[np.ndarray, " angles"]
    error: float


def principal_angles(first: Eigenpairs, second: Eigenpairs, *, count: int) -> PrincipalAngles:
    """Measure the angles between the subspaces of the ``count`` eigenvalues largest in magnitude.

    Parameters
    ----------
    first, second
        Eigenpairs of two matrices of one dimension, with more than ``count`` pairs if the error is
        to be known.
    count
        Dimension of each subspace.

    Returns
    -------
    The angles. No products.

    Raises
    ------
    OperatorError
        If the dimensions differ, or there are fewer than ``count`` pairs.

    References
    ----------
    Björck and Golub 1973, *Numerical methods for computing angles between linear subspaces*; Davis
    and Kahan 1970, *The rotation of eigenvectors by a perturbation III*.
    """
    _check(first, second, "principal_angles")
    available = min(len(first.values), len(second.values))
    if not 1 <= count <= available:
        raise OperatorError(
            f"principal_angles(count={count}) needs that many pairs of both; there are "
            f"{available}. Ask eigenpairs for more."
        )
    chosen = [np.argsort(-np.abs(pairs.values), kind="stable")[:count] for pairs in (first, second)]
    one, other = (p.vectors[rows] for p, rows in zip((first, second), chosen, strict=True))
    # Cosines lose small angles and sines large ones. SciPy's subspace_angles also has both, but
    # takes the cosine of some small angles where small and large ones occur together.
    overlaps = other @ one.T
    cosines = scipy.linalg.svdvals(overlaps)
    sines = scipy.linalg.svdvals(other - overlaps @ one)[::-1]
    angles = np.arctan2(sines, cosines)
    error = sum(_rotation(pairs, rows) for pairs, rows in zip((first, second), chosen, strict=True))
    return PrincipalAngles(angles, float(min(error, np.pi / 2)))


@dataclass(frozen=True)
class EigenpairMatching:
    """Which eigenpair became which.

    Attributes
    ----------
    first, second
        Indices of matched pairs, by their order in the first set.
    overlaps
        ``|v·w|`` of the matched vectors.
    cluster_overlaps
        Length of the projection of the first vector on the second's whole cluster: inside a cluster
        single vectors mean nothing, their span does.
    """

    first: Int[np.ndarray, " matches"]
    second: Int[np.ndarray, " matches"]
    overlaps: Float[np.ndarray, " matches"]
    cluster_overlaps: Float[np.ndarray, " matches"]


def match_eigenpairs(
    first: Eigenpairs, second: Eigenpairs, *, least: float = 0.5
) -> EigenpairMatching:
    """Match the eigenpairs of two checkpoints one to one by their vectors, not by their rank.

    The assignment maximises the sum of squared overlaps (Hungarian method): eigenvalues that cross
    keep their identity.

    Parameters
    ----------
    first, second
        Eigenpairs of two matrices of one dimension.
    least
        Pairs whose overlap and cluster overlap are both below this are left unmatched.

    Returns
    -------
    The matches. No products.

    Raises
    ------
    OperatorError
        If the dimensions differ.
    """
    _check(first, second, "match_eigenpairs")
    overlaps = np.abs(first.vectors @ second.vectors.T)
    rows, columns = scipy.optimize.linear_sum_assignment(-(overlaps**2))
    same = second.clusters[:, None] == second.clusters[None, :]
    spans = np.sqrt((overlaps**2) @ same)
    single, joint = overlaps[rows, columns], np.minimum(spans[rows, columns], 1.0)
    kept = joint >= least
    return EigenpairMatching(rows[kept], columns[kept], np.minimum(single[kept], 1.0), joint[kept])


def _rotation(pairs: Eigenpairs, rows: Int[np.ndarray, " count"]) -> float:
    """Bound the angle between computed and true subspace (Davis and Kahan)."""
    residual = float(np.linalg.norm(pairs.residuals[rows])) + len(rows) ** 0.5 * pairs.noise_floor
    # What was not chosen of an end bounds all that was not computed there; an end that was chosen
    # whole, or of which nothing was computed, leaves the gap unknown.
    outer = 0.0
    upper = np.arange(len(pairs.values)) < pairs.largest
    for end in (upper, ~upper):
        left = np.setdiff1d(np.flatnonzero(end), rows)
        if not len(left):
            return np.pi / 2
        outer = max(outer, float((np.abs(pairs.values[left]) + pairs.residuals[left]).max()))
    gap = float(np.abs(pairs.values[rows]).min()) - outer - pairs.noise_floor
    return float(np.arcsin(min(1.0, residual / gap))) if gap > 0 else np.pi / 2


def _check(first: Eigenpairs, second: Eigenpairs, name: str) -> None:
    dims = first.vectors.shape[1], second.vectors.shape[1]
    if dims[0] != dims[1]:
        raise OperatorError(
            f"{name} compares matrices of one dimension, got {dims[0]} and {dims[1]}. Use "
            "checkpoints of one network."
        )
