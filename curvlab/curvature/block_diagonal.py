"""All layers at once: the diagonal blocks of a matrix, through one linearisation."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from typing_extensions import override

from curvlab.core.errors import OperatorError
from curvlab.curvature.parameter_operator import ParameterOperator
from curvlab.curvature.selection import choose, layer_of, part_of, select
from curvlab.spectral.derived import DerivedOperator


@jax.jit
def _keep(vector: Array, labels: Array, block: Array | int) -> Array:
    return jnp.where(labels == block, vector, 0)


class BlockDiagonal(DerivedOperator, ParameterOperator):
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
        self.paths = listed = tuple(paths)
        super().__init__(
            [whole],
            lambda: f"block diagonal ({', '.join(listed)}) of {whole.estimand}",
            positive_semidefinite=whole.positive_semidefinite,
        )
        self.whole = whole
        self.layout = whole.layout
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
        self._labels = self.constant(labels)
        self._members = members

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        total = jnp.zeros_like(vector)
        for index in range(len(self.paths)):
            inside = _keep(vector, self._labels, index)
            total = total + _keep(self.whole.matvec(inside), self._labels, index)
        return total

    @override
    def gradients_per_product(self) -> float:
        """Return those of the whole, times the number of blocks."""
        return len(self.paths) * self.whole.gradients_per_product()

    @override
    def form(self) -> Hashable:
        return self.paths

    @override
    def remade(self, parts: Sequence[ParameterOperator]) -> "BlockDiagonal":
        return BlockDiagonal(parts[0], self.paths)

    @property
    @override
    def layers(self) -> tuple[str, ...]:
        return self.whole.layers

    @override
    def block(self, paths: str | Iterable[str] = (), *, last: int | None = None) -> "BlockDiagonal":
        """Return the principal block of some parameters: the parts of the blocks inside."""
        inside = choose(self.layout.names, self.layers, paths, last)
        kept = [
            path for path, names in zip(self.paths, self._members, strict=True) if names & inside
        ]
        return BlockDiagonal(self.whole.block(sorted(inside)), kept)

    @cached_property
    def blocks(self) -> Mapping[str, "SharedBlock"]:
        """Each block by its path, as an operator that uses the same linearisation.

        Their products cost as much as those of the whole. ``whole.block(path)`` is cheaper by
        product, at the price of a linearisation of its own.
        """
        pairs = zip(self.paths, self._members, strict=True)
        return MappingProxyType({path: SharedBlock(self.whole, names) for path, names in pairs})


class SharedBlock(DerivedOperator, ParameterOperator):
    """A principal block computed with products of the whole matrix.

    Parameters
    ----------
    whole
        The matrix.
    names
        Paths of the leaves in the block.
    """

    def __init__(self, whole: ParameterOperator, names: Iterable[str]):
        chosen = frozenset(names)
        self.layout = layout = part_of(
            whole.layout, [name in chosen for name in whole.layout.names]
        )
        super().__init__(
            [whole],
            lambda: f"block ({', '.join(layout.names)}) of {whole.estimand}",
            dim=self.layout.dim,
            positive_semidefinite=whole.positive_semidefinite,
        )
        self.whole = whole
        places, all_rows = whole.layout.slices(), np.arange(whole.dim, dtype=np.int32)
        rows = np.concatenate([all_rows[places[name]] for name in self.layout.names])
        self._rows = self.constant(rows)

    @override
    def for_parts(self, vector: Float[Array, " dim"]) -> Float[Array, " rows"]:
        """Return the vector with zeros in the rows outside the block."""
        return jnp.zeros(self.whole.dim, vector.dtype).at[self._rows].set(vector)

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self.whole.matvec(self.for_parts(vector))[self._rows]

    @override
    def form(self) -> Hashable:
        return self.layout.names

    @override
    def remade(self, parts: Sequence[ParameterOperator]) -> "SharedBlock":
        return SharedBlock(parts[0], self.layout.names)

    @property
    @override
    def layers(self) -> tuple[str, ...]:
        present = set(map(layer_of, self.layout.names))
        return tuple(layer for layer in self.whole.layers if layer in present)

    @override
    def block(self, paths: str | Iterable[str] = (), *, last: int | None = None) -> "SharedBlock":
        """Return a principal block of this block, with products of the same whole."""
        return SharedBlock(self.whole, choose(self.layout.names, self.layers, paths, last))
