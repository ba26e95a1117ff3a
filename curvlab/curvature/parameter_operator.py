"""What operators on the parameters share: trees as vectors, blocks, metrics, and their sums."""

import abc
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, SupportsFloat, overload

from jaxtyping import PyTree
from typing_extensions import override

from curvlab.core.errors import OperatorError
from curvlab.core.trees import TreeLayout
from curvlab.curvature.selection import choose
from curvlab.spectral.derived import Combination
from curvlab.spectral.operator import SymmetricOperator

if TYPE_CHECKING:
    from curvlab.curvature.block_diagonal import BlockDiagonal
    from curvlab.curvature.metric import InMetric, Metric


class ParameterOperator(SymmetricOperator):
    """A symmetric matrix with a row for each entry of a parameter tree."""

    layout: TreeLayout
    """Where each leaf lies in the flat vectors; leaves outside a block are None in the tree."""

    @property
    @abc.abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Paths of the layers with rows in the matrix, from the input to the output.

        A layer is a module that holds arrays (``"hidden_0"`` holds ``"hidden_0/kernel"``); the
        order is that of their first use when the loss is computed.
        """

    @abc.abstractmethod
    def block(
        self, paths: str | Iterable[str] = (), *, last: int | None = None
    ) -> "ParameterOperator":
        """Return the principal block of some parameters, with the cross blocks between them."""

    def matvec_tree(self, tree: PyTree) -> PyTree:
        """Return the product with a tree shaped like the parameters, as such a tree."""
        with self.precision():
            return self.layout.unravel(self.matvec(self.layout.ravel(tree)))

    def block_diagonal(self, blocks: Iterable[str] | None = None) -> "BlockDiagonal":
        """Return the matrix without the cross blocks between layers.

        Parameters
        ----------
        blocks
            A path for each block; by default every layer is one. Rows of parameters that lie in no
            block are zero.

        Raises
        ------
        OperatorError
            If two blocks overlap.
        UnknownNameError
            If no parameter has such a path.
        """
        from curvlab.curvature.block_diagonal import BlockDiagonal

        return BlockDiagonal(self, self.layers if blocks is None else tuple(blocks))

    def in_metric(self, metric: "Metric") -> "InMetric":
        """Return ``P^-1/2 A P^-1/2`` for a diagonal metric ``P``.

        Raises
        ------
        OperatorError
            If the metric has no positive entry for some parameter, or another shape.
        """
        from curvlab.curvature.metric import InMetric

        return InMetric(self, metric)

    if TYPE_CHECKING:  # what the algebra returns is on the parameters if all terms are

        @overload
        def __add__(self, other: "ParameterOperator") -> "ParameterCombination": ...
        @overload
        def __add__(self, other: SymmetricOperator) -> Combination: ...
        def __add__(self, other: SymmetricOperator) -> Combination: ...
        @overload
        def __sub__(self, other: "ParameterOperator") -> "ParameterCombination": ...
        @overload
        def __sub__(self, other: SymmetricOperator) -> Combination: ...
        def __sub__(self, other: SymmetricOperator) -> Combination: ...
        def __mul__(self, factor: SupportsFloat) -> "ParameterCombination": ...
        def __rmul__(self, factor: SupportsFloat) -> "ParameterCombination": ...
        def __truediv__(self, divisor: SupportsFloat) -> "ParameterCombination": ...
        def __neg__(self) -> "ParameterCombination": ...
        def shift(self, c: float) -> "ParameterCombination": ...  # noqa: D102

    @override
    def combination(
        self, terms: Sequence[tuple[float, SymmetricOperator]], *, shift: float = 0.0
    ) -> Combination:
        own = [(factor, op) for factor, op in terms if isinstance(op, ParameterOperator)]
        if len(own) < len(terms):
            return super().combination(terms, shift=shift)
        return ParameterCombination(own, shift=shift)


class ParameterCombination(Combination, ParameterOperator):
    """A linear combination of matrices with the same parameters in their rows.

    In a metric ``P`` its multiple of the identity becomes ``s P⁻¹``, as for any matrix.

    Parameters
    ----------
    terms, shift
        As for :class:`~curvlab.spectral.derived.Combination`.

    Raises
    ------
    OperatorError
        As there, and if the rows of two terms belong to different parameters.
    """

    def __init__(self, terms: Sequence[tuple[float, ParameterOperator]], *, shift: float = 0.0):
        super().__init__(terms, shift=shift)
        self._operators = [op for _, op in self.terms if isinstance(op, ParameterOperator)]
        first, *others = layouts = [op.layout for op in self._operators]
        for other in others:
            if (other.names, other.shapes) != (first.names, first.shapes):
                raise OperatorError(
                    "A combination needs rows for the same parameters in all terms, got "
                    f"({', '.join(first.names)}) and ({', '.join(other.names)}). Take the same "
                    "block of each."
                )
        self.layout = max(layouts, key=lambda layout: layout.dtype.itemsize)

    @property
    @override
    def layers(self) -> tuple[str, ...]:
        return self._operators[0].layers

    @override
    def block(
        self, paths: str | Iterable[str] = (), *, last: int | None = None
    ) -> "ParameterCombination":
        """Return the combination of the terms' principal blocks."""
        inside = sorted(choose(self.layout.names, self.layers, paths, last))
        blocks = [op.block(inside) for op in self._operators]
        factors = [factor for factor, _ in self.terms]
        return ParameterCombination(list(zip(factors, blocks, strict=True)), shift=self.identity)
