"""All layers at once: the diagonal blocks of a matrix, through one linearisation."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from typing_extensions import override

from curvlab.core.errors import OperatorError
from curvlab.curvature.parameter_operator import ParameterOperator
from curvlab.curvature.selection import part_of, select
from curvlab.spectral.operator import SymmetricOperator


@jax.jit
def _keep(vector: Array, labels: Array, block: Any) -> Array:
    return jnp.where(labels == block, vector, 0)


class BlockDiagonal(SymmetricOperator):
    """``diag(A_11, ..., A_LL)``: a matrix without the cross blocks between its layers.

    Parameters
    ----------
    whole
        The matrix; its linearisation is used, none is added.
    paths
        A path for each block. Rows of parameters that lie in no block are zero.

    Raises
    ------
    OperatorError
        If two blocks overlap.

    Notes
    -----
    A product costs as many products of the whole as there are blocks, one tangent at a time.
    """

    def __init__(self, whole: ParameterOperator, paths: Iterable[str]):
        self.whole = whole
        self.layout = whole.layout
        self.paths = tuple(paths)
        members = [select(self.layout.names, [path]) for path in self.paths]
        if sum(map(len, members)) > len(frozenset[str]().union(*members)):
            raise OperatorError(
                f"The blocks {', '.join(self.paths)} overlap. Give every parameter to one block."
            )
        labels = np.full(whole.dim, -1, np.int32)
        places = self.layout.slices()
        for index, names in enumerate(members):
            for name in names:
                labels[places[name]] = index
        self._labels = jnp.asarray(labels)
        self._members = members
        super().__init__(
            whole.dim,
            whole.dtype,
            f"block diagonal ({', '.join(self.paths)}) of {whole.estimand}",
            positive_semidefinite=whole.positive_semidefinite,
        )

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        total = jnp.zeros_like(vector)
        for index in range(len(self.paths)):
            total = total + _keep(
                self.whole.product(_keep(vector, self._labels, index)), self._labels, index
            )
        return total

    @cached_property
    def blocks(self) -> Mapping[str, "SharedBlock"]:
        """Each block by its path, as an operator that uses the same linearisation.

        Their products cost as much as those of the whole. ``whole.block(path)`` is cheaper by
        product, at the price of a linearisation of its own.
        """
        pairs = zip(self.paths, self._members, strict=True)
        return MappingProxyType({path: SharedBlock(self.whole, names) for path, names in pairs})

    @override
    def reference(self) -> "BlockDiagonal | None":
        other = self.whole.reference()
        return BlockDiagonal(other, self.paths) if isinstance(other, ParameterOperator) else None


class SharedBlock(SymmetricOperator):
    """A principal block computed with products of the whole matrix.

    Parameters
    ----------
    whole
        The matrix.
    names
        Paths of the leaves in the block.
    """

    def __init__(self, whole: ParameterOperator, names: Iterable[str]):
        self.whole = whole
        self._names = frozenset(names)
        inside = [name in self._names for name in whole.layout.names]
        self.layout = part_of(whole.layout, inside)
        places = whole.layout.slices()
        rows = np.arange(whole.dim, dtype=np.int32)
        self._rows = jnp.asarray(np.concatenate([rows[places[name]] for name in self.layout.names]))
        super().__init__(
            self.layout.dim,
            whole.dtype,
            f"block ({', '.join(self.layout.names)}) of {whole.estimand}",
            positive_semidefinite=whole.positive_semidefinite,
        )

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        filled = jnp.zeros(self.whole.dim, vector.dtype).at[self._rows].set(vector)
        return self.whole.product(filled)[self._rows]

    @override
    def reference(self) -> "SharedBlock | None":
        other = self.whole.reference()
        return SharedBlock(other, self._names) if isinstance(other, ParameterOperator) else None
