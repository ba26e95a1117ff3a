"""An operator on the orthogonal complement of some vectors."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from typing_extensions import override

from curvlab.core.precision import float64
from curvlab.spectral.operator import SymmetricOperator


@jax.jit
def _project(rows: Array, vector: Array) -> Array:
    return vector - rows.T @ (rows @ vector)


class Deflated(SymmetricOperator):
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
            op.dim,
            op.dtype,
            f"{op.estimand}, {len(rows)} vectors deflated",
            positive_semidefinite=op.positive_semidefinite,
        )
        self.op, self.rows = op, rows
        with float64():
            self._rows = jnp.asarray(rows, op.dtype)

    def project(self, vector: Array) -> Float[Array, " dim"]:
        """Return ``P v``, projected twice so that what is left is orthogonal to rounding."""
        with self.precision():
            vector = jnp.asarray(vector, self.dtype)
            return _project(self._rows, _project(self._rows, vector))

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return _project(self._rows, self.op.product(_project(self._rows, vector)))

    @override
    def reference(self) -> "Deflated | None":
        reference = self.op.reference()
        return None if reference is None else Deflated(reference, self.rows)
