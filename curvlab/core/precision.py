"""Precision: float64 arithmetic beside float32 user code, and matrix products without shortcuts.

Users run JAX in its default float32. What must be exact to more digits (inner products of Lanczos
vectors, reference products for the noise floor) runs inside :func:`float64`, which switches x64 on
for the calling thread only and never touches the global flag.
"""

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def float64() -> AbstractContextManager[Any]:
    """Allow float64 arrays inside the ``with`` block, in this thread."""
    return jax.enable_x64(True)


def exact_matmul() -> AbstractContextManager[Any]:
    """Make traced matrix products use full float32 instead of TF32 or bfloat16 passes."""
    return jax.default_matmul_precision("highest")


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is a real floating-point array (PRNG keys and integers are not)."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def promote(tree: Any) -> Any:
    """Return ``tree`` with its floating leaves in float64; call inside :func:`float64`."""

    def up(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):  # stays on the host
            return leaf.astype(np.float64) if is_floating(leaf) else leaf
        return jnp.asarray(leaf, jnp.float64) if is_floating(leaf) else leaf

    return jax.tree.map(up, tree)


@jax.jit
def not_finite(tree: Any) -> Any:
    """Return how many entries of each leaf are NaN or infinite; one program, with no copy."""
    return jax.tree.map(lambda leaf: (~jnp.isfinite(leaf)).sum(), tree)


def all_finite(tree: Any) -> bool:
    """Whether no floating leaf holds NaN or infinity."""
    return all(
        bool(np.isfinite(np.asarray(leaf, np.float64)).all())
        for leaf in jax.tree.leaves(tree)
        if is_floating(leaf)
    )
