"""An operator on the orthogonal complement of some vectors."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float
from typing_extensions import override

from curvlab.spectral.derived import DerivedOperator
from curvlab.spectral.operator import SymmetricOperator


@jax.jit
def _project(rows: Array, vector: Array) -> Array:
    return vector - rows.T @ (rows @ vector)


class Deflated(DerivedOperator):
    """``P A P`` with ``P = I - Qᵀ Q``: the rows of ``Q`` become eigenvectors of eigenvalue zero.

    Parameters
    ----------
    op
        The matrix ``A``.
    rows
        Orthonormal rows ``Q``.
    """

    def __init__(self, op: SymmetricOperator, rows: Float[np.ndarray, "rows dim"]):
        super().__init__(
            [op],
            f"{op.estimand}, {len(rows)} vectors deflated",
            positive_semidefinite=op.positive_semidefinite,
        )
        self.op, self.rows = op, rows
        self._rows = self.constant(rows)

    def project(self, vector: Array) -> Float[Array, " dim"]:
        """Return ``P v``, projected twice so that what is left is orthogonal to rounding."""
        with self.precision():
            return _project(self._rows, _project(self._rows, self._cast(vector)))

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return _project(self._rows, self.op.matvec(_project(self._rows, vector)))

    @override
    def remade(self, parts: Sequence[SymmetricOperator]) -> "Deflated":
        return Deflated(parts[0], self.rows)
