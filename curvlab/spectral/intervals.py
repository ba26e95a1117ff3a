"""Intervals for the share of eigenvalues below a point, by inversion of the Beta distribution.

For ``g ~ N(0, I_n)`` the share of ``|g|²`` that lies in a subspace of dimension ``k`` is
``Beta(k/2, (n - k)/2)``. With ``s`` independent vectors, pooled by their squared norms, it is
``Beta(s k/2, s (n - k)/2)``: exact for any number of vectors, one included.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special


def count_bounds(
    low_share: Float[np.ndarray, " points"],
    high_share: Float[np.ndarray, " points"],
    *,
    dim: int,
    vectors: int,
    tail: float,
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Bound ``k / n`` from an observed share that is known up to a bracket.

    ``low = min {k : P_k[B >= low_share] >= tail} / n`` and ``high = max {k : P_k[B <= high_share]
    >= tail} / n`` with ``B ~ Beta(s k/2, s (n - k)/2)``.

    Parameters
    ----------
    low_share, high_share
        Bracket of the observed share, in ``[0, 1]``.
    dim
        Number of eigenvalues ``n``.
    vectors
        Number of pooled start vectors ``s``.
    tail
        Probability allowed on each side.

    Returns
    -------
    Lower and upper bounds of the share of eigenvalues, each missed with probability at most
    ``tail``.
    """

    def upper_tail(count: Any, share: Any) -> Any:  # P_k[B >= share], increasing in k
        inner = special.betaincc(
            np.maximum(count, 0.5) * vectors / 2,
            np.maximum(dim - count, 0.5) * vectors / 2,
            share,
        )
        return np.where(
            share <= 0, 1.0, np.where(count <= 0, 0.0, np.where(count >= dim, 1.0, inner))
        )

    def smallest(share: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        below = np.full(share.shape, -1, np.int64)  # condition fails here
        above = np.full(share.shape, dim, np.int64)  # and holds here
        while np.any(above - below > 1):
            middle = (below + above) // 2
            middle = np.where(above - below > 1, middle, above)  # found already
            holds = upper_tail(middle, share) >= tail
            above, below = np.where(holds, middle, above), np.where(holds, below, middle)
        return above / dim

    low_share = np.clip(np.asarray(low_share, np.float64), 0, 1)
    high_share = np.clip(np.asarray(high_share, np.float64), 0, 1)
    # The upper bound of k is the lower bound of n - k, whose share is one minus that of k.
    return smallest(low_share), 1 - smallest(1 - high_share)
