"""Parameter trees as flat vectors, with a name for every stretch of the vector.

:class:`TreeLayout` is compared by value and hashable, so jitted functions that take it as a static
argument compile once for all checkpoints of a run. ``jax.flatten_util.ravel_pytree`` returns a
fresh closure at every call and would recompile.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from curvlab.core.errors import ProblemError


def path_name(path: tuple[Any, ...]) -> str:
    """Return a pytree path as ``"hidden_0/kernel"``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


@dataclass(frozen=True)
class TreeLayout:
    """How the leaves of a parameter tree lie in one flat vector.

    Attributes
    ----------
    treedef
        Structure of the tree.
    names
        Path of each leaf, such as ``"hidden_0/kernel"``, in flattening order.
    shapes, dtypes
        Shape and dtype of each leaf.
    """

    treedef: Hashable
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, tree: PyTree) -> "TreeLayout":
        """Describe ``tree``.

        Raises
        ------
        ProblemError
            If the tree is empty or a leaf is not a real floating-point array.
        """
        leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
        if not leaves:
            raise ProblemError(
                "The parameter tree has no leaves. Pass the parameters of a network."
            )
        for path, leaf in leaves:
            dtype = getattr(leaf, "dtype", None)
            if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
                raise ProblemError(
                    f"Curvature needs real floating-point parameters; {path_name(path)!r} is "
                    f"{dtype or type(leaf).__name__}. Split non-trainable leaves off into `state`."
                )
        return cls(
            treedef,
            tuple(path_name(path) for path, _ in leaves),
            tuple(tuple(leaf.shape) for _, leaf in leaves),
            tuple(str(leaf.dtype) for _, leaf in leaves),
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each leaf."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def dim(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the flat vector: the widest among the leaves, float32 at least."""
        return np.dtype(np.float64 if "float64" in self.dtypes else np.float32)

    def slices(self) -> dict[str, slice]:
        """Return where each named leaf lies in the flat vector."""
        ends = np.cumsum(self.sizes).tolist()
        return {
            name: slice(end - size, end)
            for name, size, end in zip(self.names, self.sizes, ends, strict=True)
        }

    def ravel(self, tree: PyTree) -> Float[Array, " dim"]:
        """Concatenate the leaves of ``tree`` into a vector of length :attr:`dim`."""
        leaves = jax.tree.leaves(tree)
        dtype = jnp.result_type(np.float32, *leaves)
        return jnp.concatenate([jnp.asarray(leaf, dtype).reshape(-1) for leaf in leaves])

    def unravel(self, vector: Float[Array, " dim"]) -> PyTree:
        """Cut ``vector`` into a tree of this layout.

        Vectors wider than :attr:`dtype` give leaves of their own dtype.
        """
        wide = vector.dtype == np.float64 and self.dtype != np.float64
        return self.cut(vector) if wide else self.cast(self.cut(vector))

    def cut(self, vector: Float[Array, " dim"]) -> PyTree:
        """Cut ``vector`` into a tree of these shapes, all in its own dtype."""
        pieces = jnp.split(vector, np.cumsum(self.sizes)[:-1].tolist())
        leaves = [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        return jax.tree_util.tree_unflatten(self.treedef, leaves)  # type: ignore[arg-type]

    def cast(self, tree: PyTree) -> PyTree:
        """Return a tree of these shapes in the dtypes of this layout."""
        leaves = zip(jax.tree.leaves(tree), self.dtypes, strict=True)
        cast = [leaf.astype(dtype) for leaf, dtype in leaves]
        return jax.tree_util.tree_unflatten(self.treedef, cast)  # type: ignore[arg-type]


@jax.jit
def inner(left: PyTree, right: PyTree) -> Float[Array, ""]:
    """Return the inner product of two vectors, multiplied and summed in float64.

    Call it inside :func:`curvlab.core.precision.float64`. In float32 the squares of entries below
    1e-19 would vanish, and a small curvature with them. Over the leading axis first: those sums run
    side by side, and no leaf is held in float64.
    """

    def of_leaf(x: Array, y: Array) -> Array:
        product = x.astype(jnp.float64) * y.astype(jnp.float64)
        return product.sum(0).sum() if product.ndim else product

    return sum(map(of_leaf, *map(jax.tree.leaves, (left, right))), jnp.zeros((), jnp.float64))


@jax.jit
def zeros_like(tree: PyTree) -> PyTree:
    """Return a vector of zeros; one program for all leaves, as everything here."""
    return jax.tree.map(jnp.zeros_like, tree)
