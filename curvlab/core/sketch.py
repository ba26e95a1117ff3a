"""The length of differences of vectors that do not all fit into memory."""

from functools import lru_cache

import jax
import numpy as np
from jaxtyping import Float, PyTree

BUCKETS = 262_139
"""Buckets of a sketch. A prime: entries at the stride of a layer's width do not meet in one."""


def sketch(tree: PyTree) -> Float[np.ndarray, " buckets"]:
    """Return the entries of a vector added up in buckets, with random signs.

    ``S x`` is linear and always the same map, so that sketches of several vectors can be added and
    subtracted in their place. ``‖S x‖² = ‖x‖²`` up to a relative ``√(2 / BUCKETS)``, 0.3 %, for
    entries of one size (two of a few large ones may meet and cancel); a vector that fits into the
    buckets is its own sketch.

    Parameters
    ----------
    tree
        A vector, in one array or in the leaves of a tree (the same vector either way).

    Returns
    -------
    The sketch in float64, on the host. Cost: one pass over the entries.

    References
    ----------
    Charikar, Chen, Farach-Colton 2004, *Finding frequent items in data streams*.
    """
    leaves = [np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)]
    total = np.zeros(min(BUCKETS, sum(leaf.size for leaf in leaves)))
    position = 0
    for leaf in leaves:
        done = 0
        while done < leaf.size:
            window, first = divmod(position, BUCKETS)
            piece = leaf[done : done + BUCKETS - first].astype(np.float64)
            buckets = slice(first, first + piece.size)
            total[buckets] += piece * _signs(window)[buckets]
            done += piece.size
            position += piece.size
    return total


@lru_cache(maxsize=2)
def _signs(window: int) -> Float[np.ndarray, " buckets"]:
    """Return the signs of the entries of one window; those of the first are all positive."""
    if window == 0:
        return np.ones(BUCKETS)
    bits = np.unpackbits(np.frombuffer(np.random.default_rng(window).bytes(-(-BUCKETS // 8)), "u1"))
    return 1.0 - 2.0 * bits[:BUCKETS]
