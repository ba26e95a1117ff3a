"""The products of a trace-like estimator: refused if not finite, counted, told as they are made."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, Float

from curvlab.core.errors import OperatorError
from curvlab.spectral import soundness
from curvlab.spectral.cost import Cost, Stopwatch
from curvlab.spectral.eigenpairs import Eigenpairs
from curvlab.spectral.noise import noise_floor_at
from curvlab.spectral.operator import BLOCK, SymmetricOperator
from curvlab.spectral.progress import Progress, Tick

BLOCK_BYTES = 2**26
"""Most memory of one block of vectors in float64."""


def blocks(first: int, last: int, dim: int) -> Iterator[tuple[int, int]]:
    """Cut ``range(first, last)`` into ``(first, count)`` that fit the memory of a block."""
    size = max(1, min(BLOCK_BYTES // (8 * dim), 16))
    for start in range(first, last, size):
        yield start, min(size, last - start)


class Work:
    """What one estimate does with its operator, and what it has spent so far.

    Parameters
    ----------
    op
        The operator.
    tick
        Called with the :class:`Progress` after every few products.

    Attributes
    ----------
    products, checks, references
        As in :class:`Cost`.
    """

    def __init__(self, op: SymmetricOperator, tick: Tick | None = None):
        self.op, self.tick = op, tick
        self.products = self.checks = self.references = 0
        self._total: int | None = None
        self._error: tuple[float | None, float | None] = None, None
        self._watch = Stopwatch()

    def plan(self, products: int) -> None:
        """Say how many products will follow."""
        self._total = self.products + products

    def reached(self, error: float, value: float, target: float) -> None:
        """Say how large the error is, and how large it may be relative to the value."""
        self._error = (error / abs(value) if value else float("inf")), target
        self._tell()

    def _tell(self) -> None:
        if self.tick is not None:
            self.tick(Progress(self.products, self._total, *self._error))

    def noise_floor(
        self, key: Array, given: float | None, deflate: Eigenpairs | None = None
    ) -> float:
        """Return the noise floor: given, that of given pairs, or measured.

        It is measured over random directions. Every estimate begins here, so this is where the
        operator is verified.
        """
        self.checks += soundness.verify(self.op, key).products
        if given is None and deflate is not None:
            given = deflate.noise_floor
        if given is not None:
            return given
        nothing = np.zeros((0, self.op.dim))
        floor, products, references = noise_floor_at(self.op, nothing, key)
        self.products += products
        self.references += references
        return floor

    def rows(self, rows: Float[np.ndarray, "vectors dim"]) -> Float[np.ndarray, "vectors dim"]:
        """Return ``A v`` in float64 for each row, refusing what is not finite.

        Raises
        ------
        OperatorError
            If a product is not finite.
        """
        images = np.zeros(rows.shape)
        for start in range(0, len(rows), BLOCK):
            piece = slice(start, start + BLOCK)
            images[piece] = self.op.matmat(rows[piece].astype(self.op.dtype))
            if not np.isfinite(images[piece]).all():
                raise OperatorError(
                    f"A product of {self.op.estimand} is not finite. Check the parameters and the "
                    "data for NaN or overflow."
                )
            self.products += len(rows[piece])
            self._tell()
        return images

    def columns(self) -> Iterator[tuple[int, Float[np.ndarray, "count dim"]]]:
        """Yield all columns of the matrix in blocks, with the number of the first."""
        dim = self.op.dim
        self.plan(dim)
        for first, count in blocks(0, dim, dim):
            units = np.zeros((count, dim))
            units[np.arange(count), first + np.arange(count)] = 1
            yield first, self.rows(units)

    def exact_diagonal(self) -> Float[np.ndarray, " dim"]:
        """Return all diagonal entries; ``dim`` products."""
        return np.concatenate(
            [np.diagonal(columns, first).copy() for first, columns in self.columns()]
        )

    def cost(self) -> Cost:
        """Return what was spent so far."""
        return self._watch.cost(
            self.op, self.products, 0, checks=self.checks, references=self.references
        )
