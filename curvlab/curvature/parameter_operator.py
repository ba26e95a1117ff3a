"""What operators on the parameters share: trees as vectors, blocks, metrics."""

import abc
from collections.abc import Iterable
from typing import TYPE_CHECKING

from jaxtyping import PyTree

from curvlab.core.precision import exact_matmul
from curvlab.core.trees import TreeLayout
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
        with self.precision(), exact_matmul():
            return self.layout.unravel(self.product(self.layout.ravel(tree)))

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
