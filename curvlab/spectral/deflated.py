"""An operator on the orthogonal complement of some vectors."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from typing_extensions import override

from curvlab.spectral.derived import DerivedOperator
from curvlab.spectral.operator import SymmetricOperator


@jax.jit
def _project(rows: Array, vector: Array) -> Array:
    return vector - rows.T @ (rows @ vector)


@jax.jit
def _add(rows: Array, image: Array, vector: Array, value: Array) -> Array:
    return image + value * (rows.T @ (rows @ vector))


class Deflated(DerivedOperator):
    """``P A P + c Qᵀ Q``, ``P = I - Qᵀ Q``: rows of ``Q`` become eigenvectors of eigenvalue ``c``.

    Parameters
    ----------
    op
        The matrix ``A``.
    rows
        Orthonormal rows ``Q``.
    value
        ``c``. Rounding lets Lanczos find these eigenvalues in the end, so where an end of the
        spectrum is looked for they must lie inside it.
    """

    def __init__(
        self, op: SymmetricOperator, rows: Float[np.ndarray, "rows dim"], value: float = 0.0
    ):
        super().__init__(
            [op],
            lambda: f"{op.estimand}, {len(rows)} vectors deflated",
            positive_semidefinite=op.positive_semidefinite and value >= 0,
        )
        self.op, self.rows, self.value = op, rows, value
        self._rows = self.constant(rows)

    def project(self, vector: Array) -> Float[Array, " dim"]:
        """Return ``P v``, projected twice so that what is left is orthogonal to rounding."""
        with self.precision():
            return _project(self._rows, _project(self._rows, self._cast(vector)))

    @override
    def product(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        image = _project(self._rows, self.op.matvec(_project(self._rows, vector)))
        if not self.value:
            return image
        return _add(self._rows, image, vector, jnp.asarray(self.value, image.dtype))

    @override
    def remade(self, parts: Sequence[SymmetricOperator]) -> "Deflated":
        return Deflated(parts[0], self.rows, self.value)
